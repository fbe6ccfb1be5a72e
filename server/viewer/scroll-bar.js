// Whether somebody holds a pane's scroll bar. Nothing else says so: a scroll event is the same for a bar, a wheel and a finger.

export class ScrollBar {
  /** @param {HTMLElement} pane */
  constructor(pane) {
    this.held = false;
    pane.addEventListener("pointerdown", (event) => {
      const edge = pane.getBoundingClientRect().left + pane.clientLeft + pane.clientWidth;
      this.held = event.target === pane && event.clientX >= edge;
    });
    // The release of a scroll bar is not told everywhere; a pointer that moves without a button is.
    for (const name of /** @type {const} */ (["pointerup", "pointermove", "pointercancel"])) {
      addEventListener(name, (event) => {
        if (event.buttons === 0) this.held = false;
      });
    }
  }
}

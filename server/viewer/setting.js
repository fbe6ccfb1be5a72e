// What this browser remembers: switches and the theme. Without storage (private windows may refuse it) nothing is remembered.

const PREFIX = "flowforge.";

/** @param {string} name @param {string} otherwise */
export function recall(name, otherwise) {
  try {
    return localStorage.getItem(PREFIX + name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Then it lasts as long as the page.
  }
}

/** A button that is on or off. */
export class Switch {
  /** @param {HTMLElement} button @param {string} name @param {boolean} otherwise @param {(on: boolean) => void} changed */
  constructor(button, name, otherwise, changed) {
    this.button = button;
    this.name = name;
    this.changed = changed;
    button.addEventListener("click", () => this.toggle());
    this.set(recall(name, String(otherwise)) === "true");
  }

  toggle() {
    this.set(!this.on);
    remember(this.name, String(this.on));
  }

  /** @param {boolean} on */
  set(on) {
    this.on = on;
    this.button.setAttribute("aria-pressed", String(on));
    this.changed(on);
  }
}

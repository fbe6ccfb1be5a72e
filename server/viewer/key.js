// Single keys, where nobody is typing.

/** @param {Record<string, (event: KeyboardEvent) => void>} actions by `event.key` */
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const at = /** @type {HTMLElement} */ (event.target);
    const typing = at.closest("input, select, textarea") !== null;
    const leaves = typing && (event.key === "Escape" || event.key === "Enter");
    if (leaves) at.blur();
    const action = actions[event.key];
    // A space on a button presses it.
    const pressing = event.key === " " && at.closest("button, a") !== null;
    if ((typing && event.key !== "Escape") || pressing || !action || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    action(event);
  });
}

/** @param {HTMLElement} dialog @param {HTMLElement} button opens it @param {HTMLElement} close */
export function help(dialog, button, close) {
  const shown = /** @type {HTMLDialogElement} */ (dialog);
  const open = () => shown.showModal();
  button.addEventListener("click", open);
  close.addEventListener("click", () => shown.close());
  shown.addEventListener("click", (event) => event.target === shown && shown.close());
  return open;
}

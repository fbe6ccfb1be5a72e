// Dark, light, or as the system has it.

import { recall, remember } from "./setting.js";

const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGN = { system: "◐", light: "☀", dark: "☾" };

/** @typedef {keyof typeof NEXT} Theme */

/** @param {HTMLElement} button */
export function theme(button) {
  /** @param {Theme} chosen */
  const apply = (chosen) => {
    if (chosen === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = chosen;
    button.textContent = SIGN[chosen];
    button.title = `theme: ${chosen}`;
    button.setAttribute("aria-label", `theme: ${chosen}; change it`);
  };
  const known = recall("theme", "system");
  let chosen = /** @type {Theme} */ (known in NEXT ? known : "system");
  apply(chosen);
  button.addEventListener("click", () => {
    chosen = /** @type {Theme} */ (NEXT[chosen]);
    remember("theme", chosen);
    apply(chosen);
  });
}

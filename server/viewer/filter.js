// The filter bar: what is asked for, kept in the address so that it can be shared.

/** @typedef {{ q: string, level: string, stream: string }} Filter */

const NAMES = /** @type {const} */ (["q", "level", "stream"]);
const TYPING_MS = 300;

export class FilterBar {
  /** @param {Record<keyof Filter, HTMLElement> & { clear: HTMLElement }} parts @param {() => void} changed */
  constructor(parts, changed) {
    this.parts = /** @type {Record<keyof Filter, HTMLInputElement | HTMLSelectElement> & { clear: HTMLElement }} */ (parts);
    this.changed = changed;
    const params = new URLSearchParams(location.search);
    for (const name of NAMES) this.parts[name].value = params.get(name) ?? "";
    for (const name of NAMES) this.parts[name].value ||= "";
    this.current = this.read();
    let timer = 0;
    this.parts.q.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.apply(), TYPING_MS);
    });
    for (const name of NAMES) this.parts[name].addEventListener("change", () => this.apply());
    parts.clear.addEventListener("click", () => this.clear());
    this.show();
  }

  /** @returns {Filter} */
  read() {
    const { q, level, stream } = this.parts;
    return { q: q.value.trim(), level: level.value, stream: stream.value };
  }

  isActive() {
    return NAMES.some((name) => this.current[name] !== "");
  }

  clear() {
    for (const name of NAMES) this.parts[name].value = "";
    this.apply();
  }

  apply() {
    const now = this.read();
    if (NAMES.every((name) => now[name] === this.current[name])) return;
    this.current = now;
    const url = new URL(location.href);
    for (const name of NAMES) {
      if (now[name]) url.searchParams.set(name, now[name]);
      else url.searchParams.delete(name);
    }
    history.replaceState(null, "", url);
    this.show();
    this.changed();
  }

  /** The address has changed. */
  reload() {
    const params = new URLSearchParams(location.search);
    for (const name of NAMES) this.parts[name].value = params.get(name) ?? "";
    this.apply();
  }

  show() {
    this.parts.clear.hidden = !this.isActive();
    for (const name of NAMES) this.parts[name].classList.toggle("active", this.current[name] !== "");
  }
}

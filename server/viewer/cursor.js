// The current row of a log: moved by keys, named by its address, and the way from match to match outside of the filter.

import { apiUrl, getJson, reason } from "./api.js";

/** @typedef {import("./task-page.js").TaskPage} TaskPage */

export class Cursor {
  /** @param {TaskPage} page */
  constructor(page) {
    this.page = page;
    /** What was filtered by last. @type {import("./api.js").Query} */
    this.wanted = {};
    this.searching = new AbortController();
  }

  /** The row that is current: the one the address names, else the first in view. */
  get offset() {
    const { rows, list } = this.page;
    return rows.marked ?? list.firstVisible() ?? 0;
  }

  /** @param {number} offset */
  go(offset) {
    const { page } = this;
    history.replaceState(null, "", `#L${offset}`);
    page.mark(offset);
    page.list.reveal(offset);
  }

  /** @param {number} by rows */
  move(by) {
    const { rows, list } = this.page;
    if (rows.marked === null) return void (this.offset && this.go(this.offset));
    const offsets = [...list.shown.values()].filter(({ row }) => row.kind === "line").map(({ row }) => row.offset);
    const at = offsets.indexOf(this.page.source?.locate(rows.marked).offset ?? 0);
    const next = at < 0 ? list.firstVisible() : offsets[at + by];
    if (next) this.go(next);
  }

  /** Makes the address that of the current line, and copies it where a browser lets one. */
  async copy() {
    const { offset, page } = this;
    if (!offset) return;
    history.replaceState(null, "", `#L${offset}`);
    page.mark(offset);
    const url = new URL(page.lineHref(offset), location.href).href;
    try {
      await navigator.clipboard.writeText(url);
      page.head.tell(`the address of line ${offset} is copied`);
    } catch {
      page.head.tell(`the address of line ${offset}: ${url}`);
    }
  }

  /** The next line that the last filter found, in the whole log. @param {1 | -1} by */
  async match(by) {
    const { page } = this;
    if (page.filter.isActive()) return this.move(by);
    if (Object.keys(this.wanted).length === 0) return page.head.tell("no filter was set yet that there could be a next match of");
    // A key pressed again goes on from where one is: what is under way is not waited for.
    this.searching.abort();
    const { signal } = (this.searching = new AbortController());
    page.head.tell("searching…");
    try {
      const found = await this.find(by, signal);
      page.head.tell(found ? "" : by > 0 ? "no later line matches" : "no earlier line matches");
      if (found) this.go(found);
    } catch (error) {
      if (!signal.aborted) page.head.tell(reason(error));
    }
  }

  /** The offset of the next match, from page to page of a long search. @param {1 | -1} by @param {AbortSignal} signal */
  async find(by, signal) {
    const { path, tenant } = this.page;
    /** @type {import("./api.js").Query | null} */
    let place = by > 0 ? { from: this.offset + 1 } : { before: this.offset };
    while (place) {
      /** @type {import("./api.js").LinePage} */
      const { lines, next_from, next_before } = await getJson(apiUrl(`${path}/logs`, { ...this.wanted, ...place, tenant, limit: 1 }), { signal });
      if (lines[0]) return lines[0].offset;
      place = next_from ? { from: next_from } : next_before ? { before: next_before } : null;
    }
    return null;
  }
}

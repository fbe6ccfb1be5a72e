// The current row of a log: moved by keys, named by its address, and the way from match to match outside of the filter.

import { apiUrl, getJson } from "./api.js";

/** @typedef {import("./task-page.js").TaskPage} TaskPage */

export class Cursor {
  /** @param {TaskPage} page */
  constructor(page) {
    this.page = page;
    /** What was filtered by last. @type {import("./api.js").Query} */
    this.wanted = {};
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
      page.tell(`the address of line ${offset} is copied`);
    } catch {
      page.tell(`the address of line ${offset}: ${url}`);
    }
  }

  /** The next line that the last filter found, in the whole log. @param {1 | -1} by */
  async match(by) {
    const { page } = this;
    if (page.filter.isActive()) return this.move(by);
    if (Object.keys(this.wanted).length === 0) return page.tell("no filter was set yet that there could be a next match of");
    /** @type {import("./api.js").Query} */
    let place = by > 0 ? { from: this.offset + 1 } : { before: this.offset };
    for (;;) {
      /** @type {import("./api.js").LinePage} */
      const found = await getJson(apiUrl(`${page.path}/logs`, { ...this.wanted, ...place, tenant: page.tenant, limit: 1 }));
      const line = found.lines[0];
      if (line) return this.go(line.offset);
      if (found.next_from) place = { from: found.next_from };
      else if (found.next_before) place = { before: found.next_before };
      else return page.tell(by > 0 ? "no later line matches" : "no earlier line matches");
    }
  }
}

// The whole log as rows addressed by offset: pages of lines, fetched where one looks, and the live end.
//
// Invariants: a line is where its offset says. What a rollback voids is gone, also from answers still under way. Pages not
// looked at are let go, so that memory does not grow with the log.

import { absence, barKey, partKey, plainRow } from "./line.js";
import { Page, PAGE_LINES, unloaded } from "./page.js";

/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Row} Row */

const MAX_PAGES = 64;
const MAX_CHARS = 24_000_000;
const MAX_FETCHES = 3;
const RETRY_MS = 2000;

/** @param {number} offset */
const blockOf = (offset) => Math.floor((offset - 1) / PAGE_LINES);

export class Log {
  /**
   * @param {object} outside
   * @param {(from: number, to: number) => Promise<import("./api.js").LinePage>} outside.fetch
   * @param {() => void} outside.changed  rows may look different
   * @param {(why: string) => void} outside.failed
   */
  constructor(outside) {
    this.outside = outside;
    this.floor = 1;
    this.end = 0;
    /** Lines from here on come through the stream by themselves. */
    this.coming = Infinity;
    /** @type {Map<number, Page>} least recently wanted first */
    this.pages = new Map();
    /** The last offset of each progress bar seen. @type {Map<string, number>} */
    this.bars = new Map();
    /** @type {Map<string, Row>} */
    this.frames = new Map();
    /** Said after the row of an offset. @type {Map<number, Row[]>} */
    this.notes = new Map();
    /** Grows whenever answers under way become void. */
    this.generation = 0;
    this.fetches = 0;
    /** @type {Set<number> | "all"} */
    this.dirty = "all";
  }

  // What the stream says.

  /** @param {{ from: number, end: number, floor: number }} start */
  start({ from, end, floor }) {
    this.coming = from;
    this.end = Math.max(this.end, end);
    this.raiseFloor(floor);
    this.clearFrames();
    this.voidRows();
  }

  live() {
    this.coming = Infinity;
  }

  /** @param {Line} line */
  append(line) {
    const block = blockOf(line.offset);
    this.put(line);
    this.touchOne(block);
    this.touchOne(block + 1);
    // Only a part that joins changes rows of earlier pages: a line that stays unfinished for ever must not cost each new one.
    const key = partKey(line);
    for (let before = block - 1; this.pages.get(before)?.open.has(key); before--) this.touchOne(before);
    this.outside.changed();
    // Nothing is drawn, and so nothing let go, while the page is hidden.
    if (this.pages.size > MAX_PAGES + 8) this.evict(0);
  }

  /** @param {import("./line.js").Frame} frame */
  frame(frame) {
    const key = barKey(frame);
    this.frames.set(key, { ...plainRow("frame", this.end + 1, frame.message), key: `frame ${key}` });
    this.touchBar(key);
    this.touch(this.count() - 1);
  }

  clearFrames() {
    if (this.frames.size === 0) return;
    this.frames.clear();
    this.voidRows();
  }

  /** @param {{ from: number, to: number, reason: string }} gap */
  gap({ from, to, reason }) {
    this.end = Math.max(this.end, to);
    if (reason === "retention") {
      this.raiseFloor(to + 1);
    } else {
      const first = Math.max(from, to - MAX_PAGES * PAGE_LINES);
      for (let offset = first; offset <= to; offset++) this.page(blockOf(offset)).absent(offset);
    }
    this.voidRows();
  }

  /** What retention deletes goes from here too, wherever one learns of it. @param {number} floor first offset kept */
  raiseFloor(floor) {
    if (floor <= this.floor) return;
    this.floor = floor;
    for (const block of this.pages.keys()) if (block < blockOf(floor)) this.pages.delete(block);
    for (const offset of this.notes.keys()) if (offset < floor && offset > 0) this.notes.delete(offset);
    this.voidRows();
  }

  /** Rows above `to` were never stored. @param {number} to @param {string} note */
  rollback(to, note) {
    this.generation += 1;
    this.end = Math.min(this.end, to);
    for (const [block, page] of this.pages) {
      if (block > blockOf(to)) this.pages.delete(block);
      else page.truncate(to);
    }
    this.bars.clear();
    for (const page of this.pages.values()) for (const line of page.lines) if (line?.update_id) this.noteBar(line);
    for (const offset of this.notes.keys()) if (offset > to) this.notes.delete(offset);
    this.frames.clear();
    this.note(to, note);
    this.voidRows();
  }

  /** @param {number} offset @param {string} text */
  note(offset, text) {
    // Said again at the same place it would tell nothing new.
    this.notes.set(offset, [plainRow("note", offset, text, 0)]);
    this.touch(Math.max(0, blockOf(offset)));
  }

  /** Grows with each new line. */
  get tally() {
    return this.end;
  }

  // What the list asks.

  count() {
    return Math.max(1, blockOf(this.end) + 1);
  }

  takeDirty() {
    const dirty = this.dirty;
    this.dirty = new Set();
    return dirty;
  }

  /** @param {number} block @returns {Row[]} */
  rows(block) {
    const page = this.pages.get(block);
    if (page?.rows) return page.rows;
    const first = block === 0 ? this.notes.get(0) ?? [] : [];
    const all = [...first, ...this.deleted(block), ...(page?.build(this, block) ?? unloaded(block, this.floor, this.end))];
    if (block === this.count() - 1) all.push(...this.frames.values());
    if (page) page.rows = all;
    return all;
  }

  /** Says, where the log begins now, what is not kept any more. @param {number} block @returns {Row[]} */
  deleted(block) {
    if (this.floor === 1 || block !== Math.min(blockOf(this.floor), this.count() - 1)) return [];
    return [plainRow("note", this.floor - 1, absence(1, this.floor - 1, "not kept any more"), 0)];
  }

  /** The row that shows an offset: its key, and the offset it begins with. @param {number} offset */
  locate(offset) {
    const at = Math.min(Math.max(offset, this.floor, 1), Math.max(this.end, 1));
    this.rows(blockOf(at));
    const page = this.pages.get(blockOf(at));
    const line = page?.line(at);
    const [bar, frame] = line?.update_id ? [this.bars.get(barKey(line)), this.frames.get(barKey(line))] : [];
    // A bar that moves is the last row, whichever state of it is asked for.
    if (frame) return { block: this.count() - 1, offset: Infinity, key: frame.key };
    const shown = bar !== undefined && bar > at ? bar : page?.heads.get(at) ?? at;
    return { block: blockOf(shown), offset: shown, key: `line ${shown}` };
  }

  /** Loads what is missing in these blocks, and lets go of what nobody wants. @param {number} first @param {number} last */
  want(first, last) {
    const wanted = Array.from({ length: last - first + 1 }, (_, at) => first + at);
    // Their neighbours too: scrolling on then finds rows.
    wanted.push(last + 1, first - 1);
    for (const block of wanted) {
      if (block < 0 || block >= this.count()) continue;
      const page = this.page(block);
      this.pages.delete(block);
      this.pages.set(block, page);
      if (!page.loading && this.fetches < MAX_FETCHES) void this.load(block, page);
    }
    this.evict(wanted.length);
  }

  /** @param {number} block @param {Page} page */
  async load(block, page) {
    const missing = page.missing(this.floor, Math.min(this.end, this.coming - 1));
    if (!missing) return;
    const generation = this.generation;
    page.loading = true;
    this.fetches += 1;
    try {
      const { lines, floor, next_from } = await this.outside.fetch(missing.from, missing.to);
      if (generation !== this.generation) return;
      for (const line of lines) this.put(line);
      // Long lines end an answer early. What was not looked at is not missing, and is asked for with the next picture.
      const seen = Math.min(missing.to, (next_from ?? Infinity) - 1);
      if (seen < missing.from) throw new Error("the server's answer leads nowhere");
      for (let offset = missing.from; offset <= seen; offset++) page.absent(offset);
      this.raiseFloor(floor);
    } catch (error) {
      this.outside.failed(String(error instanceof Error ? error.message : error));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      this.fetches -= 1;
      page.loading = false;
      this.touch(block);
    }
  }

  // Inside.

  /** @param {number} block */
  page(block) {
    let page = this.pages.get(block);
    if (!page) this.pages.set(block, (page = new Page(block)));
    return page;
  }

  /** @param {Line} line */
  put(line) {
    this.end = Math.max(this.end, line.offset);
    this.page(blockOf(line.offset)).put(line);
    if (line.update_id) this.noteBar(line);
  }

  /** @param {Line} line */
  noteBar(line) {
    const key = barKey(line);
    if ((this.bars.get(key) ?? 0) >= line.offset) return;
    if (line.offset >= (this.frames.get(key)?.offset ?? Infinity) && this.frames.delete(key)) this.touch(this.count() - 1);
    this.touchBar(key);
    this.bars.set(key, line.offset);
  }

  /** Whether a later state of its bar is shown instead. @param {Row} row */
  isSuperseded(row) {
    const line = row.lines.at(-1);
    if (!line?.update_id) return false;
    const key = barKey(line);
    return this.frames.has(key) || (this.bars.get(key) ?? 0) > line.offset;
  }

  /** @param {string} key of a bar whose row moves */
  touchBar(key) {
    const offset = this.bars.get(key);
    if (offset !== undefined) this.touch(blockOf(offset));
  }

  /** The rows of a page are made anew, and those of its neighbours that lines of it may join. @param {number} block */
  touch(block) {
    this.touchOne(block);
    for (let before = block; this.pages.get(before - 1)?.open.size; before--) this.touchOne(before - 1);
    for (let after = block + 1; this.pages.has(after); after++) {
      this.touchOne(after);
      if (!this.pages.get(after)?.open.size) break;
    }
    this.outside.changed();
  }

  /** @param {number} block */
  touchOne(block) {
    const page = this.pages.get(block);
    if (page) page.rows = null;
    if (this.dirty !== "all") this.dirty.add(block);
  }

  voidRows() {
    for (const page of this.pages.values()) page.rows = null;
    this.dirty = "all";
    this.outside.changed();
  }

  /** @param {number} keep so many pages in any case */
  evict(keep) {
    let chars = 0;
    for (const page of this.pages.values()) chars += page.chars;
    for (const [block, page] of this.pages) {
      const tooMany = this.pages.size > MAX_PAGES || chars > MAX_CHARS;
      if (!tooMany || this.pages.size <= keep + 2) return;
      if (page.loading || block >= this.count() - 2) continue;
      chars -= page.chars;
      this.pages.delete(block);
      if (this.dirty !== "all") this.dirty.add(block);
    }
  }
}

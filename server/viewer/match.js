// The lines that pass a filter, as a list of their own: the last ones first, earlier ones as one scrolls up, new ones live.

import { absence, barKey, lineRow, plainRow } from "./line.js";

/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Row} Row */

const CHUNK_LINES = 256;
const FETCH_LINES = 512;
const MAX_CHUNKS = 256;
const MAX_CHARS = 24_000_000;
const RETRY_MS = 2000;

/** @typedef {{ lines: Line[], rows: Row[] | null, notes: Row[] }} Chunk */

/** @param {Line[]} lines */
const charsOf = (lines) => lines.reduce((sum, line) => sum + line.message.length, 0);

export class Match {
  /**
   * @param {object} outside
   * @param {(before: number, limit: number) => Promise<import("./api.js").LinePage>} outside.fetch
   * @param {() => void} outside.changed
   * @param {(why: string) => void} outside.failed
   * @param {number} first so many matches the stream begins with
   */
  constructor(outside, first) {
    this.outside = outside;
    this.first = first;
    this.end = 0;
    this.floor = 1;
    /** @type {Chunk[]} */
    this.chunks = [];
    this.found = 0;
    this.chars = 0;
    /** Where the search for earlier matches goes on, if not before the first one here. @type {number | undefined} */
    this.before = undefined;
    /** Lines that came through the stream. */
    this.tally = 0;
    /** Nothing earlier passes. */
    this.complete = false;
    /** Earlier matches were let go of. */
    this.wasCut = false;
    this.searching = true;
    this.loading = false;
    this.generation = 0;
    /** @type {Map<string, number>} */
    this.bars = new Map();
    /** @type {WeakMap<Line, Row>} */
    this.made = new WeakMap();
    /** @type {Set<number> | "all"} */
    this.dirty = "all";
  }

  /** @param {{ end: number }} start */
  start({ end }) {
    this.end = Math.max(this.end, end);
  }

  live() {
    if (this.searching && this.found < this.first && !this.wasCut) this.complete = true;
    this.searching = false;
    this.changed();
  }

  /** @param {Line} line */
  append(line) {
    let last = this.chunks.at(-1);
    if (!last || last.lines.length >= CHUNK_LINES) this.chunks.push((last = { lines: [], rows: null, notes: [] }));
    last.lines.push(line);
    last.rows = null;
    this.found += 1;
    this.chars += line.message.length;
    this.tally += 1;
    this.evict();
    this.end = Math.max(this.end, line.offset);
    if (line.update_id) this.bars.set(barKey(line), line.offset);
    if (this.dirty !== "all" && !line.update_id) this.dirty.add(this.chunks.length - 1);
    else this.voidRows();
    this.outside.changed();
  }

  /** Lets go of the earliest ones. */
  evict() {
    while (this.chunks.length > 1 && (this.chunks.length > MAX_CHUNKS || this.chars > MAX_CHARS)) {
      const gone = this.chunks.shift()?.lines ?? [];
      this.chars -= charsOf(gone);
      this.found -= gone.length;
      [this.complete, this.before, this.wasCut] = [false, undefined, true];
      this.voidRows();
    }
  }

  frame() {}
  clearFrames() {}

  /** @param {{ from: number, to: number, reason: string }} gap */
  gap({ from, to, reason }) {
    this.note(to, absence(from, to, reason === "retention" ? "not kept any more" : "missing"));
  }

  /** @param {number} to @param {string} note */
  rollback(to, note) {
    this.generation += 1;
    this.end = Math.min(this.end, to);
    for (const chunk of this.chunks) chunk.lines = chunk.lines.filter((line) => line.offset <= to);
    this.chunks = this.chunks.filter((chunk) => chunk.lines.length);
    this.found = this.chunks.reduce((sum, chunk) => sum + chunk.lines.length, 0);
    this.chars = this.chunks.reduce((sum, chunk) => sum + charsOf(chunk.lines), 0);
    if (this.before !== undefined) this.before = Math.min(this.before, to + 1);
    this.bars.clear();
    for (const { lines } of this.chunks) for (const line of lines) if (line.update_id) this.bars.set(barKey(line), line.offset);
    this.note(to, note);
  }

  /** @param {number} offset @param {string} text */
  note(offset, text) {
    if (this.chunks.length === 0) this.chunks.push({ lines: [], rows: null, notes: [] });
    this.chunks.at(-1)?.notes.push(plainRow("note", offset, text, 0));
    this.changed();
  }

  count() {
    return Math.max(1, this.chunks.length);
  }

  takeDirty() {
    const dirty = this.dirty;
    this.dirty = new Set();
    return dirty;
  }

  /** @param {number} block @returns {Row[]} */
  rows(block) {
    const chunk = this.chunks[block];
    const top = block === 0 ? [plainRow("note", 0, this.topText(), 0)] : [];
    if (!chunk) return top;
    const shown = chunk.lines.filter((line) => !line.update_id || this.bars.get(barKey(line)) === line.offset);
    return (chunk.rows ??= [...top, ...shown.map((line) => this.row(line)), ...chunk.notes]);
  }

  /** The same object for the same line. @param {Line} line */
  row(line) {
    let row = this.made.get(line);
    if (!row) this.made.set(line, (row = lineRow(line)));
    return row;
  }

  topText() {
    if (this.searching || this.loading) return "searching…";
    if (this.isFull() || this.wasCut) return "there are more matches than are kept here: narrow the filter";
    if (!this.complete) return "earlier matches are loaded as you scroll up";
    return this.found ? "no earlier line matches" : "no line matches";
  }

  /** @param {number} offset */
  locate(offset) {
    const found = this.chunks.findIndex(({ lines }) => (lines.at(-1)?.offset ?? 0) >= offset);
    const block = found < 0 ? this.count() - 1 : found;
    const line = this.chunks[block]?.lines.find((line) => line.offset >= offset);
    return { block, offset: line?.offset ?? offset, key: `line ${line?.offset ?? offset}` };
  }

  /** @param {number} first */
  want(first) {
    if (first === 0 && !this.complete && !this.searching && !this.loading && !this.isFull() && !this.wasCut) void this.earlier();
  }

  isFull() {
    return this.chunks.length >= MAX_CHUNKS || this.chars >= MAX_CHARS;
  }

  async earlier() {
    const before = this.before ?? this.chunks[0]?.lines[0]?.offset ?? this.end + 1;
    const generation = this.generation;
    this.loading = true;
    this.changed();
    try {
      const { lines, next_before } = await this.outside.fetch(before, FETCH_LINES);
      if (generation !== this.generation) return;
      // How many came says nothing: long lines, and long searches, end an answer early.
      this.before = next_before;
      this.complete = next_before === undefined;
      const chunks = [];
      for (let at = 0; at < lines.length; at += CHUNK_LINES) {
        chunks.push({ lines: lines.slice(at, at + CHUNK_LINES), rows: null, notes: [] });
      }
      const known = new Set(this.bars.keys());
      for (const line of lines) if (line.update_id && !known.has(barKey(line))) this.bars.set(barKey(line), line.offset);
      this.chunks.unshift(...chunks);
      this.found += lines.length;
      this.chars += charsOf(lines);
    } catch (error) {
      this.outside.failed(String(error instanceof Error ? error.message : error));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      this.loading = false;
      this.changed();
    }
  }

  changed() {
    this.voidRows();
    this.outside.changed();
  }

  voidRows() {
    for (const chunk of this.chunks) chunk.rows = null;
    this.dirty = "all";
  }
}

// A run of lines of a log, and the rows they make: parts joined, old states of progress bars left out, gaps said.

import { parse } from "./ansi.js";
import { absence, lineRow, partKey, plainRow } from "./line.js";

/** @typedef {import("./ansi.js").Style} Style */
/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Row} Row */

export const PAGE_LINES = 256;
/** A joined line ends here, so that one row cannot hold a whole log. */
const MAX_PARTS = 1024;

export class Page {
  /** @param {number} block */
  constructor(block) {
    this.first = block * PAGE_LINES + 1;
    /** By place; null: there is no such line; undefined: not loaded. @type {(Line | null | undefined)[]} */
    this.lines = [];
    this.chars = 0;
    this.loading = false;
    /** Null: to be made. @type {Row[] | null} */
    this.rows = null;
    /** Rows as they were, by key, so that a row that did not change stays the same object. @type {Map<string, Row>} */
    this.made = new Map();
    /** Lines that are unfinished at the page's end, by part key: the offset they begin with, and how many parts there are.
     * @type {Map<string, { head: number, parts: number }>} */
    this.open = new Map();
    /** Colours in force at the page's end, by part key. @type {Map<string, Style>} */
    this.inks = new Map();
    /** Offsets of later parts, to the offset that their line begins with. @type {Map<number, number>} */
    this.heads = new Map();
  }

  /** @param {Line} line */
  put(line) {
    const at = line.offset - this.first;
    this.chars += line.message.length - (this.lines[at]?.message.length ?? 0);
    this.lines[at] = line;
  }

  /** @param {number} offset there is no line, unless one came */
  absent(offset) {
    const at = offset - this.first;
    if (at >= 0 && at < PAGE_LINES && this.lines[at] === undefined) this.lines[at] = null;
  }

  /** @param {number} offset */
  line(offset) {
    return this.lines[offset - this.first] ?? undefined;
  }

  /** @param {number} to last offset that stays */
  truncate(to) {
    this.lines.length = Math.min(this.lines.length, Math.max(0, to - this.first + 1));
    this.chars = this.lines.reduce((sum, line) => sum + (line?.message.length ?? 0), 0);
    this.rows = null;
  }

  /** The range that has not been loaded. @param {number} floor @param {number} end */
  missing(floor, end) {
    let [from, to] = [0, 0];
    const last = Math.min(end, this.first + PAGE_LINES - 1);
    for (let offset = Math.max(floor, this.first); offset <= last; offset++) {
      if (this.lines[offset - this.first] !== undefined) continue;
      from ||= offset;
      to = offset;
    }
    return from ? { from, to } : null;
  }

  /** @param {import("./log.js").Log} log @param {number} block @returns {Row[]} */
  build(log, block) {
    const before = log.pages.get(block - 1);
    if (before && !before.rows) log.rows(block - 1);
    this.open = new Map(before?.open);
    this.inks = new Map(before?.inks);
    this.heads.clear();
    /** @type {Map<string, Row>} */
    const unfinished = new Map();
    /** @type {Row[]} */
    const rows = [];
    const last = Math.min(this.first + PAGE_LINES - 1, log.end);
    for (let offset = Math.max(this.first, log.floor); offset <= last; offset++) {
      const line = this.lines[offset - this.first];
      if (line) this.take(line, rows, unfinished);
      else {
        // What goes on behind a gap is not the same line, and nobody knows in which colour.
        for (const begun of [this.open, this.inks, unfinished]) begun.clear();
        extend(rows, line === null ? "gap" : "hole", offset);
      }
      rows.push(...(log.notes.get(offset) ?? []));
    }
    if (unfinished.size) finish(unfinished, log, block);
    for (const row of rows) if (row.kind === "gap") row.text = absence(row.offset, row.offset + row.count - 1, "missing");
    const shown = rows.filter((row) => !log.isSuperseded(row)).map((row) => this.same(row));
    this.made = new Map(shown.map((row) => [row.key, row]));
    return shown;
  }

  /** @param {Line} line @param {Row[]} rows @param {Map<string, Row>} unfinished */
  take(line, rows, unfinished) {
    const key = partKey(line);
    const begun = this.open.get(key);
    const ink = this.inks.get(key) ?? null;
    const after = inkAfter(line, ink);
    if (after) this.inks.set(key, after);
    else this.inks.delete(key);
    if (begun && begun.parts < MAX_PARTS) {
      this.heads.set(line.offset, begun.head);
      unfinished.get(key)?.lines.push(line);
      this.open.set(key, { head: begun.head, parts: begun.parts + 1 });
    } else {
      const row = lineRow(line);
      row.ink = ink;
      rows.push(row);
      this.open.set(key, { head: line.offset, parts: 1 });
      unfinished.set(key, row);
    }
    if (line.continued) return;
    this.open.delete(key);
    unfinished.delete(key);
  }

  /** @param {Row} row */
  same(row) {
    const old = this.made.get(row.key);
    const equal =
      old && old.text === row.text && old.count === row.count && old.lines.length === row.lines.length &&
      JSON.stringify(old.ink) === JSON.stringify(row.ink) && old.lines.every((line, at) => line === row.lines[at]);
    return equal ? old : row;
  }
}

/** A page that is not here. @param {number} block @param {number} floor @param {number} end @returns {Row[]} */
export function unloaded(block, floor, end) {
  const first = Math.max(block * PAGE_LINES + 1, floor);
  const last = Math.min((block + 1) * PAGE_LINES, end);
  return last < first ? [] : [plainRow("hole", first, "", last - first + 1)];
}

/** Lines as they were parsed: in which colour they begin and end. @type {WeakMap<Line, { before: Style | null, after: Style | null }>} */
const known = new WeakMap();

/** The colours in force after a line, as in a terminal. Structured lines have none. @param {Line} line @param {Style | null} before */
function inkAfter(line, before) {
  if (line.stream === "log" || line.stream === "system") return null;
  if (!line.message.includes("\x1b")) return before;
  const last = known.get(line);
  if (last?.before === before) return last.after;
  const after = parse(line.message, Infinity, before).ink;
  known.set(line, { before, after });
  return after;
}

/** @param {Row[]} rows @param {"gap" | "hole"} kind @param {number} offset */
function extend(rows, kind, offset) {
  const last = rows.at(-1);
  if (last?.kind === kind) last.count += 1;
  else rows.push(plainRow(kind, offset, ""));
}

/**
 * Fetches the rest of lines that go on in later pages.
 * @param {Map<string, Row>} unfinished @param {import("./log.js").Log} log @param {number} block
 */
function finish(unfinished, log, block) {
  for (let next = log.pages.get(++block); next && unfinished.size; next = log.pages.get(++block)) {
    for (let at = 0; at < PAGE_LINES && unfinished.size; at++) {
      const line = next.lines[at];
      if (!line) return;
      const row = unfinished.get(partKey(line));
      if (!row) continue;
      row.lines.push(line);
      if (!line.continued || row.lines.length >= MAX_PARTS) unfinished.delete(partKey(line));
    }
  }
}

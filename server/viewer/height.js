// How tall rows are, and so where each begins. Rows that wrap are estimated until they are measured.

import { length } from "./line.js";

/** @typedef {import("./line.js").Row} Row */
/** @typedef {import("./list.js").Source} Source */

/** Longer rows are cut in the view. */
const MOST_SHOWN = 4000;
const MAX_MEASURED = 20_000;

export class Heights {
  constructor() {
    /** Of a row that does not wrap, in pixels. */
    this.rowHeight = 20;
    /** Characters that fit beside each other. */
    this.columns = 100;
    this.wrap = false;
    /** By row key. @type {Map<string, number>} */
    this.measured = new Map();
    /** @type {number[]} */
    this.blocks = [];
    /** Where each block begins, and at last where the last one ends. @type {number[]} */
    this.tops = [0];
  }

  /** Nothing measured holds any more. */
  forget() {
    this.measured.clear();
    this.blocks = [];
  }

  /** @param {Row} row */
  of(row) {
    const measured = this.measured.get(row.key);
    if (measured !== undefined) return measured;
    if (row.kind === "hole") return row.count * this.rowHeight;
    if (!this.wrap || row.kind === "note") return this.rowHeight;
    return this.rowHeight * Math.max(1, Math.ceil(Math.min(length(row), MOST_SHOWN) / this.columns));
  }

  total() {
    return this.tops[this.tops.length - 1] ?? 0;
  }

  /** @param {Source} source */
  layOut(source) {
    if (this.measured.size > MAX_MEASURED) this.forget();
    const dirty = source.takeDirty();
    const count = source.count();
    let first = Math.min(this.blocks.length, count);
    this.blocks.length = first;
    if (dirty === "all") first = this.blocks.length = 0;
    else for (const block of dirty) if (block < this.blocks.length) first = Math.min(first, this.layOutBlock(source, block));
    for (let block = this.blocks.length; block < count; block++) this.layOutBlock(source, block);
    this.addUp(first);
  }

  /** @param {Source} source @param {number} block */
  layOutBlock(source, block) {
    let sum = 0;
    for (const row of source.rows(block)) sum += this.of(row);
    this.blocks[block] = sum;
    return block;
  }

  /** @param {number} first */
  addUp(first) {
    this.tops.length = first + 1;
    for (let block = first; block < this.blocks.length; block++) {
      this.tops[block + 1] = (this.tops[block] ?? 0) + (this.blocks[block] ?? 0);
    }
  }

  /** The block that holds this height. @param {number} y */
  blockAt(y) {
    let [low, high] = [0, Math.max(0, this.blocks.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.tops[middle] ?? 0) <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Where the row that shows an offset begins. @param {Source} source @param {number} offset */
  topOf(source, offset) {
    const place = source.locate(offset);
    let top = this.tops[place.block] ?? 0;
    for (const row of source.rows(place.block)) {
      if (row.kind === "hole" && place.offset >= row.offset && place.offset < row.offset + row.count) {
        return top + (place.offset - row.offset) * this.rowHeight;
      }
      if (row.key === place.key || (row.offset >= place.offset && row.count)) return top;
      top += this.of(row);
    }
    return top;
  }

  /**
   * Whether any height was not as thought.
   * @param {Source} source @param {{ row: Row, top: number }[]} placed  neighbours @param {(row: Row) => number} read
   */
  measure(source, placed, read) {
    let wrong = false;
    for (const { row } of placed) {
      if (row.kind === "hole") continue;
      const height = read(row);
      if (Math.abs(height - this.of(row)) < 0.05) continue;
      this.measured.set(row.key, height);
      wrong = true;
    }
    if (!wrong) return false;
    const [first, last] = [this.blockAt(placed[0]?.top ?? 0), this.blockAt(placed.at(-1)?.top ?? 0)];
    for (let block = first; block <= last; block++) this.layOutBlock(source, block);
    this.addUp(first);
    return true;
  }
}

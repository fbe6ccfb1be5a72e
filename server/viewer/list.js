// A virtual list: only the rows one sees are in the document, however long the log.
//
// `y` is the place of the window's upper edge among all rows, in pixels; it is the truth. Where all rows fit into an element,
// it is the pane's scroll position. Above MAX_HEIGHT (browsers end somewhere past 17 million pixels) the scroll bar is a scaled
// picture of it: small movements stay exact, long ones are proportional, and both ends are reached.
//
// Heights of rows that wrap are estimates until they are measured; the first visible row keeps its place meanwhile.

import { Heights } from "./height.js";
import { ScrollBar } from "./scroll-bar.js";

/** @typedef {import("./line.js").Row} Row */

/**
 * @typedef {object} Source
 * @property {() => number} count  blocks of rows
 * @property {(block: number) => Row[]} rows
 * @property {(offset: number) => { block: number, offset: number, key: string }} locate
 * @property {(first: number, last: number) => void} want
 * @property {() => Set<number> | "all"} takeDirty
 */

/** @typedef {{ row: Row, top: number }} Placed */

const MAX_HEIGHT = 8_000_000;
const OVERSCAN_PX = 320;
/** More only where more are in view. */
const MAX_ROWS = 300;
const AT_END_PX = 4;
const SETTLE_MS = 150;

export class List {
  /**
   * @param {HTMLElement} pane  scrolls
   * @param {{ render: (row: Row) => HTMLElement, moved: () => void }} outside
   */
  constructor(pane, outside) {
    this.pane = pane;
    this.outside = outside;
    this.spacer = pane.appendChild(document.createElement("div"));
    this.spacer.className = "spacer";
    this.body = pane.appendChild(document.createElement("div"));
    this.body.className = "rows";
    /** @type {Source | null} */
    this.source = null;
    this.y = 0;
    this.following = true;
    this.heights = new Heights();
    /** @type {Map<string, { row: Row, element: HTMLElement }>} */
    this.shown = new Map();
    /** Where rows were drawn last. @type {Map<string, { top: number, bottom: number }>} */
    this.drawn = new Map();
    this.firstTop = 0;
    /** Rows to draw anew although they are the same. @type {Set<string>} */
    this.stale = new Set();
    /** Where to go as soon as its rows are there. @type {number | null} */
    this.target = null;
    this.scrollTop = 0;
    this.pending = false;
    this.settle = 0;
    this.size();
    pane.addEventListener("scroll", () => this.scrolled());
    // With ctrl it is a zoom.
    pane.addEventListener("wheel", (event) => event.deltaY < 0 && !event.ctrlKey && this.leaveEnd(), { passive: true });
    this.bar = new ScrollBar(pane);
    new ResizeObserver(() => this.resized()).observe(pane);
  }

  /** @param {Source} source */
  show(source) {
    this.source = source;
    this.heights.forget();
    this.y = 0;
    this.changed();
  }

  /** Rows may look different: draw with the next picture. */
  changed() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => this.draw());
  }

  /** Widths have changed, so heights have. */
  reflow() {
    this.heights.forget();
    this.changed();
  }

  /** The row is to be drawn anew. @param {Row} row */
  redraw(row) {
    this.following = false;
    this.stale.add(row.key);
    this.changed();
  }

  /** @param {number} offset */
  goTo(offset) {
    this.following = false;
    this.target = offset;
    this.pane.scrollLeft = 0;
    this.changed();
    this.outside.moved();
  }

  /** Goes there if it is not in view. @param {number} offset */
  reveal(offset) {
    const shown = [...this.shown.values()].find(({ row }) => row.kind === "line" && row.offset === offset);
    const at = shown && this.drawn.get(shown.row.key);
    if (!at || at.top < this.y || at.bottom > this.y + this.pane.clientHeight) return this.goTo(offset);
    this.following = false;
    this.outside.moved();
  }

  toTop() {
    // Also before there are rows to leave.
    [this.following, this.target, this.y] = [false, null, 0];
    this.changed();
    this.outside.moved();
  }

  toEnd() {
    this.following = true;
    this.target = null;
    this.changed();
    this.outside.moved();
  }

  leaveEnd() {
    if (!this.following || this.heights.total() <= this.pane.clientHeight) return;
    this.following = false;
    this.outside.moved();
  }

  // Sizes.

  size() {
    const probe = this.body.appendChild(document.createElement("div"));
    probe.className = "row";
    probe.textContent = "0".repeat(100);
    const { width, height } = probe.getBoundingClientRect();
    probe.remove();
    this.heights.rowHeight = height || 20;
    this.heights.columns = Math.max(20, Math.floor((this.pane.clientWidth - 200) / ((width || 800) / 100)));
  }

  resized() {
    if (this.pane.clientWidth === 0) return;
    this.size();
    if (this.heights.wrap) this.reflow();
    else this.changed();
  }

  // Drawing.

  draw() {
    this.pending = false;
    const { source, pane } = this;
    if (!source || pane.clientHeight === 0) return;
    const anchor = this.anchor();
    this.heights.layOut(source);
    this.keep(source, anchor);
    for (let round = 0; round < 4; round++) {
      const placed = this.visible(source);
      this.reconcile(placed);
      const read = (/** @type {Row} */ row) => this.shown.get(row.key)?.element.getBoundingClientRect().height ?? 0;
      if (!this.heights.measure(source, placed, read)) break;
      this.keep(source, anchor);
    }
    this.place();
    const first = this.heights.blockAt(this.y);
    source.want(first, this.heights.blockAt(this.y + pane.clientHeight));
    this.outside.moved();
  }

  /** The offset of the first line in view. */
  firstVisible() {
    const visible = ({ key = "", kind = "" }) => kind === "line" && (this.drawn.get(key)?.bottom ?? -1) > this.y;
    return [...this.shown.values()].find(({ row }) => visible(row))?.row.offset;
  }

  /** The first visible row and how far it is scrolled out. @returns {{ offset: number, by: number } | null} */
  anchor() {
    if (this.following) return null;
    for (const { row } of this.shown.values()) {
      const at = this.drawn.get(row.key);
      if (row.kind !== "line" || !at || at.bottom <= this.y) continue;
      const by = this.y - at.top;
      // After a jump nothing that was drawn is near.
      return Math.abs(by) < 2 * this.pane.clientHeight || at.top <= this.y ? { offset: row.offset, by } : null;
    }
    return null;
  }

  /** @param {Source} source @param {{ offset: number, by: number } | null} anchor */
  keep(source, anchor) {
    const most = Math.max(0, this.heights.total() - this.pane.clientHeight);
    if (this.following) this.y = most;
    else if (this.target !== null) this.y = this.heights.topOf(source, this.target) - this.pane.clientHeight / 3;
    else if (anchor) this.y = this.heights.topOf(source, anchor.offset) + anchor.by;
    this.y = Math.min(Math.max(0, this.y), most);
  }

  /** @param {Source} source @returns {Placed[]} */
  visible(source) {
    /** @type {Placed[]} */
    const placed = [];
    const bottom = this.y + this.pane.clientHeight + OVERSCAN_PX;
    const most = Math.max(MAX_ROWS, Math.ceil((this.pane.clientHeight + 2 * OVERSCAN_PX) / this.heights.rowHeight) + 2);
    for (let block = this.heights.blockAt(Math.max(0, this.y - OVERSCAN_PX)); block < this.heights.blocks.length; block++) {
      let top = this.heights.tops[block] ?? 0;
      if (top > bottom || placed.length >= most) break;
      for (const row of source.rows(block)) {
        const height = this.heights.of(row);
        if (top + height > this.y - OVERSCAN_PX && top < bottom && placed.length < most) placed.push({ row, top });
        top += height;
      }
    }
    return placed;
  }

  /** Elements of rows that stay are left alone, so that a selection survives. @param {Placed[]} placed */
  reconcile(placed) {
    const before = this.shown;
    this.shown = new Map();
    for (const { row } of placed) {
      const old = before.get(row.key);
      const element = old && old.row === row && !this.stale.has(row.key) ? old.element : this.outside.render(row);
      if (row.kind === "hole") element.style.height = `${this.heights.of(row)}px`;
      this.shown.set(row.key, { row, element });
    }
    this.stale.clear();
    const stay = new Set([...this.shown.values()].map(({ element }) => element));
    for (const child of [...this.body.children]) if (!stay.has(/** @type {HTMLElement} */ (child))) child.remove();
    let at = this.body.firstElementChild;
    for (const element of stay) {
      if (element === at) at = at.nextElementSibling;
      else this.body.insertBefore(element, at);
    }
    this.drawn = new Map(placed.map(({ row, top }) => [row.key, { top, bottom: top + this.heights.of(row) }]));
    this.firstTop = placed[0]?.top ?? 0;
  }

  /** Sets the scroll bar, and puts the rows where the window is. */
  place() {
    const real = Math.min(this.heights.total(), MAX_HEIGHT);
    this.spacer.style.height = `${real}px`;
    if (!this.isScaled()) this.setScrollTop(this.y);
    else if (this.settle === 0 || this.isAtEdge()) this.setScrollTop(this.toScroll(this.y));
    this.body.style.transform = `translateY(${this.pane.scrollTop + this.firstTop - this.y}px)`;
  }

  /** The bar cannot go on although the rows may. */
  isAtEdge() {
    return this.pane.scrollTop <= 0 || this.pane.scrollTop >= MAX_HEIGHT - this.pane.clientHeight - 1;
  }

  isScaled() {
    return this.heights.total() > MAX_HEIGHT;
  }

  /** @param {number} y */
  toScroll(y) {
    const view = this.pane.clientHeight;
    return (y * (MAX_HEIGHT - view)) / (this.heights.total() - view);
  }

  /** @param {number} to */
  setScrollTop(to) {
    if (Math.abs(this.pane.scrollTop - to) > 0.6) this.pane.scrollTop = to;
    this.scrollTop = this.pane.scrollTop;
  }

  /** The pane was scrolled by somebody, unless it is where we put it. */
  scrolled() {
    const now = this.pane.scrollTop;
    const by = now - this.scrollTop;
    if (Math.abs(by) < 0.6) return;
    this.scrollTop = now;
    this.target = null;
    const view = this.pane.clientHeight;
    const most = this.heights.total() - view;
    if (!this.isScaled()) this.y = now;
    // Only a bar that is held is a picture of the whole log; all else moves by what it moves, however far.
    else if (!this.bar.held) this.y = Math.min(Math.max(0, this.y + by), most);
    else this.y = (now * most) / (MAX_HEIGHT - view);
    this.following = this.y >= most - AT_END_PX;
    clearTimeout(this.settle);
    // Afterwards the bar is set to where the rows are.
    this.settle = setTimeout(() => {
      this.settle = 0;
      this.changed();
    }, SETTLE_MS);
    this.changed();
    this.outside.moved();
  }
}

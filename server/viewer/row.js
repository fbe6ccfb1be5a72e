// One row of a log as an element. What comes from a log is text, never markup; a style comes from a fixed set of classes or
// from a colour of six hex digits.

import { parse } from "./ansi.js";
import { timeOfDay } from "./clock.js";
import { Found } from "./found.js";
import { fieldText, text as rowText } from "./line.js";

/** @typedef {import("./line.js").Row} Row */
/** @typedef {import("./line.js").Line} Line */

/** Characters of a line that are shown at first, and that each "show more" adds. */
const SHOWN = 4_000;
const MORE = 64_000;

/** What would turn text around, hide it, or break its line: shown by its name or number instead. */
const UNSAFE = /([\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb])/;
const CONTROLS = "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split(" ");
/** Backgrounds by number that dark ink is read on. */
const LIGHT = new Set([7, 9, 10, 11, 12, 13, 14, 15]);

/** @type {Record<string, string>} */
const MARKS = { trace: "trc", debug: "dbg", info: "inf", warn: "wrn", error: "err", fatal: "ftl" };

/** @param {string} tag @param {string} kind @param {string} [text] */
export function element(tag, kind, text = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

export class RowView {
  /**
   * @param {object} outside
   * @param {(offset: number) => string} outside.href
   * @param {(row: Row) => void} outside.resized
   * @param {(offset: number) => string | undefined} outside.shownAt  the key of the row that shows this offset
   * @param {() => string} outside.hint  what a click on a number does
   */
  constructor(outside) {
    this.outside = outside;
    /** How much is shown of a long row. @type {Map<string, number>} */
    this.shown = new Map();
    /** Lower-case text to point out. */
    this.needle = "";
    /** The offset that the address names. @type {number | null} */
    this.marked = null;
  }

  /** @param {Row} row */
  render(row) {
    if (row.kind !== "line" && row.kind !== "frame") return element("div", `row ${row.kind}`, row.text);
    const line = row.lines[0];
    const made = element("div", `row ${row.kind} ${line ? kindOf(line) : ""}`);
    made.append(this.number(row), time(line), mark(row, line), this.message(row, line));
    if (line) made.dataset["offset"] = String(row.offset);
    if (this.isMarked(row)) made.classList.add("marked");
    return made;
  }

  /** @param {Row} row */
  isMarked({ key, lines }) {
    if (this.marked === null) return false;
    return lines.some((line) => line.offset === this.marked) || this.outside.shownAt(this.marked) === key;
  }

  /** @param {Row} row */
  number(row) {
    if (row.kind === "frame") return element("span", "no live", "•");
    const link = /** @type {HTMLAnchorElement} */ (element("a", "no", String(row.offset)));
    link.href = this.outside.href(row.offset);
    link.setAttribute("aria-label", `link to line ${row.offset}`);
    link.tabIndex = -1;
    link.title = this.outside.hint();
    return link;
  }

  /** @param {Row} row @param {Line | undefined} line */
  message(row, line) {
    const made = element("span", "text");
    const limit = this.shown.get(row.key) ?? SHOWN;
    const whole = rowText(row);
    const { pieces, more } = parse(whole, limit, row.ink);
    const found = new Found(pieces, this.needle);
    for (const piece of pieces) made.append(this.piece(piece, found));
    // An empty line too is copied with a selection.
    if (pieces.length === 0) made.append(document.createElement("br"));
    if (more) made.append(this.moreButton(row, limit, whole.length));
    if (limit > SHOWN) made.classList.add("long");
    const fields = line ? fieldText(line) : "";
    if (fields && !more) appendSafe(made.appendChild(element("span", "fields")), ` ${fields}`);
    return made;
  }

  /** @param {import("./ansi.js").Piece} piece @param {Found} found */
  piece({ text, style, href }, found) {
    if (!style && !href) {
      const part = document.createDocumentFragment();
      appendSafe(part, text, found);
      return part;
    }
    const part = element(href ? "a" : "span", style ? classes(style) : "");
    if (style) colours(part, style);
    if (href) Object.assign(part, { href, target: "_blank", rel: "noopener noreferrer", title: href });
    appendSafe(part, text, found);
    return part;
  }

  /** @param {Row} row @param {number} shown @param {number} all */
  moreButton(row, shown, all) {
    const says = `show more of ${all.toLocaleString("en")} characters`;
    const button = /** @type {HTMLButtonElement} */ (element("button", "more", says));
    button.type = "button";
    button.addEventListener("click", () => {
      this.shown.set(row.key, shown === SHOWN ? MORE : shown + MORE);
      this.outside.resized(row);
    });
    return button;
  }
}

/** @param {Line} line */
function kindOf(line) {
  const end = line.stream === "system" ? /** @type {any} */ (line.fields)?.end : undefined;
  return `${line.stream} ${line.level ?? ""}${end ? ` end ${outcome(end)}` : ""}`;
}

/** A success of which something is missing is no good end. @param {{ status: string, dropped?: number, complete?: boolean }} end */
function outcome({ status, dropped, complete }) {
  if (status !== "succeeded") return "bad";
  return dropped || complete === false ? "partly" : "good";
}

/** @param {Line | undefined} line */
function time(line) {
  const made = /** @type {HTMLTimeElement} */ (element("time", "", line ? timeOfDay(line.time) : ""));
  if (line) [made.dateTime, made.title] = [line.time, line.time];
  return made;
}

/** What the line is, in three letters: colour alone would not tell everybody. @param {Row} row @param {Line | undefined} line */
function mark(row, line) {
  const [stream, level] = [line?.stream ?? "", line?.level ?? ""];
  const shown = stream === "system" ? "◆" : MARKS[level] ?? (stream === "stderr" ? "2>" : row.kind === "frame" ? "…" : "");
  const made = element("span", "mark", shown);
  if (shown) made.title = [stream, level].filter(Boolean).join(", ") || "in progress";
  return made;
}

/**
 * Ink and ground as they are to be shown: swapped where they are inverse, and an ink that can be read where only the ground is
 * given.
 * @param {import("./ansi.js").Style} style
 */
function inks({ fg, bg, inverse }) {
  const [ink, own] = inverse ? [bg, fg ?? "ink"] : [fg, bg];
  // Grounds by number are dark, for light ink; black on yellow is meant for a light one.
  const ground = ink === 0 && typeof own === "number" && own >= 1 && own <= 6 ? own + 8 : own;
  return { ink: ink ?? (ground === null || ground === "ink" ? null : isLight(ground) ? "#1c2129" : "#ffffff"), ground };
}

/** @param {number | string} colour */
function isLight(colour) {
  if (typeof colour === "number") return LIGHT.has(colour);
  // Relative luminance, WCAG 2: above it black is the better ink.
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179;
}

/** @param {import("./ansi.js").Style} style */
function classes(style) {
  const { bold, dim, italic, underline, strike } = style;
  const names = { bold, dim, italic, underline, strike };
  const on = Object.entries(names).filter(([, value]) => value).map(([name]) => name);
  if (typeof underline === "string") on.push(underline);
  const { ink, ground } = inks(style);
  if (ground === "ink") return [...on, "reverse"].join(" ");
  if (ink !== null) on.push("fg");
  if (ground !== null) on.push("bg");
  if (typeof ink === "string") on.push("fx");
  if (typeof ink === "number") on.push(`f${ink}`);
  if (typeof ground === "number") on.push(`b${ground}`);
  return on.join(" ");
}

/** @param {HTMLElement} part @param {import("./ansi.js").Style} style */
function colours(part, style) {
  const { ink, ground } = inks(style);
  if (ground === "ink") return;
  if (typeof ink === "string") part.style.setProperty("--fg", ink);
  if (typeof ground === "string") part.style.setProperty("--bg", ground);
}

/** @param {Node} parent @param {string} text @param {Found} [found] */
function appendSafe(parent, text, found) {
  if (!UNSAFE.test(text)) return appendFound(parent, text, found);
  for (const part of text.split(UNSAFE)) {
    if (!UNSAFE.test(part)) appendFound(parent, part, found);
    else {
      found?.take(part.length);
      parent.appendChild(element("span", "control", nameOf(part.charCodeAt(0))));
    }
  }
}

/** The same as plain text, for what is not of a log: a name may hold the same. @param {string} text */
export const escaped = (text) => text.replace(new RegExp(UNSAFE, "g"), (found) => nameOf(found.charCodeAt(0)));

/** @param {number} code of a control character */
function nameOf(code) {
  return CONTROLS[code] ?? (code === 0x7f ? "DEL" : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`);
}

/** @param {Node} parent @param {string} text @param {Found} [found] */
function appendFound(parent, text, found) {
  let at = 0;
  for (const [from, to] of found?.take(text.length) ?? []) {
    parent.appendChild(document.createTextNode(text.slice(at, from)));
    parent.appendChild(element("mark", "", text.slice(from, to)));
    at = to;
  }
  if (at < text.length) parent.appendChild(document.createTextNode(text.slice(at)));
}

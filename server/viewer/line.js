// What a line is, and how it reads.

/**
 * As the server sends it.
 * @typedef {object} Line
 * @property {number} offset
 * @property {number} epoch
 * @property {string} time
 * @property {"stdout" | "stderr" | "log" | "system"} stream
 * @property {string} message
 * @property {string} [producer]
 * @property {string} [level]
 * @property {boolean} [continued]
 * @property {number} [update_id]
 * @property {Record<string, unknown>} [fields]
 */

/** @typedef {{ producer?: string, stream: string, update_id: number, message: string }} Frame */

/**
 * One row of the view. `line`: a line, with all the parts that it was split into. `frame`: a progress bar as it stands.
 * `gap`: offsets that do not exist. `hole`: offsets that are not loaded. `note`: said by the viewer.
 * @typedef {object} Row
 * @property {string} key
 * @property {"line" | "frame" | "gap" | "hole" | "note"} kind
 * @property {number} offset  of its first line; where it stands otherwise
 * @property {Line[]} lines
 * @property {number} count  offsets it stands for
 * @property {string} text  of rows without lines
 * @property {import("./ansi.js").Style | null} [ink]  colours that an earlier line left in force
 */

/**
 * @param {"frame" | "gap" | "hole" | "note"} kind @param {number} offset @param {string} text @param {number} [count]
 * @returns {Row}
 */
export function plainRow(kind, offset, text, count = 1) {
  return { key: `${kind} ${offset} ${kind === "frame" || kind === "note" ? text : ""}`, kind, offset, lines: [], count, text };
}

/** @param {Line} line @returns {Row} */
export function lineRow(line) {
  return { key: `line ${line.offset}`, kind: "line", offset: line.offset, lines: [line], count: 1, text: "" };
}

/** What is not there, in words. @param {number} from @param {number} to @param {"missing" | "not kept any more"} how */
export function absence(from, to, how) {
  const show = (/** @type {number} */ offset) => offset.toLocaleString("en");
  return from === to ? `line ${show(from)} is ${how}` : `lines ${show(from)} to ${show(to)} are ${how}`;
}

/** Parts of one line join by this. @param {Line} line */
export const partKey = (line) => `${line.producer ?? ""}/${line.stream}`;

/** States of one progress bar share this. @param {Line | Frame} line */
export const barKey = (line) => `${line.producer ?? ""}/${line.stream}/${line.update_id}`;

/** Its length in UTF-16 units, parts together. @param {Row} row */
export function length(row) {
  let sum = row.text.length;
  for (const line of row.lines) sum += line.message.length;
  return sum;
}

/** @param {Row} row */
export function text(row) {
  if (row.lines.length === 0) return row.text;
  return row.lines.length === 1 ? row.lines[0]?.message ?? "" : row.lines.map((line) => line.message).join("");
}

/** What a structured line says beside its message. @param {Line} line */
export function fieldText(line) {
  if (!line.fields || line.stream === "system") return "";
  const show = (/** @type {unknown} */ value) => (typeof value === "string" ? value : JSON.stringify(value));
  const news = Object.entries(line.fields).filter(([name, value]) => !isSaid(line, name, value));
  const all = news.map(([name, value]) => `${name}=${show(value)}`).join(" ");
  return all.length > 400 ? `${all.slice(0, 400)}…` : all;
}

/** What the reader sees or knows anyway: an exception whose traceback is the message, and the thread that is no news.
 * @param {Line} line @param {string} name @param {unknown} value */
function isSaid(line, name, value) {
  if (name === "thread") return value === "MainThread";
  const said = name === "exception" && /** @type {any} */ (value)?.message;
  return typeof said === "string" && line.message.includes(said);
}

// Terminal sequences to styled pieces of text. Pure: text in, pieces out; the caller decides how they look.
//
// Kept: other control characters, for the caller to show; SGR (16, 256 and true colours, bold, dim, italic, underline, inverse, strike) and OSC 8 links to http(s).
// Everything else is left out. A string sequence that never ends loses its introducer only, so that nothing printed is
// hidden. Each character is looked at twice at most, whatever the input: an ESC ends every scan.

/**
 * @typedef {object} Style
 * @property {number | string | null} fg  0–15, `#rrggbb`, or null for the default
 * @property {number | string | null} bg
 * @property {boolean} bold
 * @property {boolean} dim
 * @property {boolean} italic
 * @property {boolean | string} underline  true, or the kind of one that is not plain
 * @property {boolean} inverse
 * @property {boolean} strike
 */

/** @typedef {{ text: string, style: Style | null, href: string | null }} Piece */

/** @type {Style} */
const PLAIN = { fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, inverse: false, strike: false };

const ESC = 0x1b;
/** What can begin something other than text: ESC, and the controls of C0 (but tab and newline), DEL and C1. */
const SPECIAL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
const NOT_PARAMETER = /[^\x20-\x3f]/g;
const STRING_END = /[\x07\x18\x1a\x1b\x9c]/g;
const MAX_HREF = 2048;

/** @param {RegExp} pattern @param {string} text @param {number} from where it first matches, or the end */
function find(pattern, text, from) {
  pattern.lastIndex = from;
  const found = pattern.exec(text);
  return found ? found.index : text.length;
}

/**
 * At most `limit` characters of visible text; `more` says that there are others.
 * @param {string} text @param {number} [limit] @param {Style | null} [before] what is in force where it begins
 * @returns {{ pieces: Piece[], more: boolean, ink: Style | null }} `ink`: what is in force where it ends
 */
export function parse(text, limit = Infinity, before = null) {
  /** @type {Piece[]} */
  const pieces = [];
  let style = before;
  /** @type {string | null} */
  let href = null;
  let [at, room] = [0, limit];

  /** @param {string} visible @returns {boolean} whether there is room for more */
  const show = (visible) => {
    if (!visible) return true;
    const fits = visible.length <= room ? visible : cut(visible, room);
    const last = pieces.at(-1);
    if (last && last.style === style && last.href === href) last.text += fits;
    else if (fits) pieces.push({ text: fits, style, href });
    room -= fits.length;
    return fits.length === visible.length;
  };

  while (at < text.length) {
    const stop = find(SPECIAL, text, at);
    if (!show(text.slice(at, stop))) return { pieces, more: true, ink: style };
    if (stop === text.length) break;
    const code = text.charCodeAt(stop);
    if (code !== ESC) {
      // A line end of another system is no text, and a shift to another character set (SO, SI) changes nothing here.
      const isNothing = code === 0x0e || code === 0x0f || (code === 0x0d && (stop + 1 === text.length || text[stop + 1] === "\n"));
      if (!isNothing && !show(text.charAt(stop))) return { pieces, more: true, ink: style };
      at = stop + 1;
      continue;
    }
    const next = text[stop + 1];
    if (next === "[") {
      const end = find(NOT_PARAMETER, text, stop + 2);
      const valid = end < text.length && text.charCodeAt(end) >= 0x40 && text.charCodeAt(end) <= 0x7e;
      if (valid && text[end] === "m") style = sgr(style, text.slice(stop + 2, end));
      at = valid ? end + 1 : end;
    } else if (next !== undefined && "]PX^_".includes(next)) {
      const end = find(STRING_END, text, stop + 2);
      const size = text[end] === "\x1b" ? (text[end + 1] === "\\" ? 2 : 0) : end < text.length ? 1 : 0;
      if (next === "]" && size) href = link(href, text, stop + 2, end);
      at = size ? end + size : stop + 2;
    } else {
      // ESC, intermediates, one final character.
      const final = next === undefined ? stop + 1 : find(/[^\x20-\x2f]/g, text, stop + 1);
      at = final < text.length && text[final] !== "\x1b" && text.charCodeAt(final) < 0x7f ? final + 1 : final;
    }
  }
  return { pieces, more: false, ink: style };
}

/** Does not cut a surrogate pair. @param {string} text @param {number} length */
function cut(text, length) {
  const last = text.charCodeAt(length - 1);
  return text.slice(0, last >= 0xd800 && last < 0xdc00 ? length - 1 : length);
}

/**
 * The link that an OSC leaves in force.
 * @param {string | null} href @param {string} text @param {number} from @param {number} to
 */
function link(href, text, from, to) {
  if (!text.startsWith("8;", from)) return href;
  const target = text.indexOf(";", from + 2);
  if (target < 0 || target >= to) return href;
  if (to - target > MAX_HREF) return null;
  const url = text.slice(target + 1, to);
  return /^https?:\/\/[^\s/]/i.test(url) ? url : null;
}

const UNDERLINES = [false, true, "double", "curly", "dotted", "dashed"];

/**
 * Parameters are separated by semicolons, their parts by colons (ITU T.416): `4:3` is one, `4;3` are two.
 * @param {Style | null} before @param {string} parameters @returns {Style | null}
 */
function sgr(before, parameters) {
  if (/[^0-9;:]/.test(parameters)) return before;
  const codes = parameters.split(";");
  const style = { ...(before ?? PLAIN) };
  for (let at = 0; at < codes.length; at++) {
    const text = codes[at] ?? "";
    const parts = text.includes(":") ? text.split(":").map(Number) : [Number(text)];
    const code = parts[0] ?? 0;
    if (code === 38 || code === 48 || code === 58) {
      const [colour, used] = parts.length > 1 ? [coloured(parts), 0] : separate(codes, at + 1);
      at += used;
      // The colour of underlines (58) is not shown, but its numbers are no codes.
      if (colour !== undefined && code !== 58) style[code === 38 ? "fg" : "bg"] = colour;
    } else if (code === 4 && parts.length > 1) style.underline = UNDERLINES[parts[1] ?? 0] ?? true;
    else simple(style, code);
  }
  return Object.entries(PLAIN).every(([name, value]) => style[/** @type {keyof Style} */ (name)] === value) ? null : style;
}

/** @param {Style} style @param {number} code that stands alone */
function simple(style, code) {
  if (code === 0) Object.assign(style, PLAIN);
  else if (code === 1) style.bold = true;
  else if (code === 2) style.dim = true;
  else if (code === 3) style.italic = true;
  else if (code === 4) style.underline = true;
  else if (code === 7) style.inverse = true;
  else if (code === 9) style.strike = true;
  else if (code === 21) style.underline = "double";
  else if (code === 22) style.bold = style.dim = false;
  else if (code === 23) style.italic = false;
  else if (code === 24) style.underline = false;
  else if (code === 27) style.inverse = false;
  else if (code === 29) style.strike = false;
  else if (code >= 30 && code <= 37) style.fg = code - 30;
  else if (code === 39) style.fg = null;
  else if (code >= 40 && code <= 47) style.bg = code - 40;
  else if (code === 49) style.bg = null;
  else if (code >= 90 && code <= 97) style.fg = code - 82;
  else if (code >= 100 && code <= 107) style.bg = code - 92;
}

/** The colour of one parameter, `38:5:n` or `38:2:[space]:r:g:b`. @param {number[]} parts */
function coloured(parts) {
  if (parts[1] === 5) return indexed(parts[2] ?? 0);
  return parts[1] === 2 ? rgb(parts.length >= 6 ? parts.slice(3, 6) : parts.slice(2, 5)) : undefined;
}

/**
 * The colour of parameters that follow, `5;n` or `2;r;g;b`, and how many they are.
 * @param {string[]} codes @param {number} at @returns {[number | string | undefined, number]}
 */
function separate(codes, at) {
  const kind = Number(codes[at]);
  if (kind === 5) return [indexed(Number(codes[at + 1] ?? 0)), 2];
  return kind === 2 ? [rgb(codes.slice(at + 1, at + 4).map(Number)), 4] : [undefined, 1];
}

/** @param {number[]} parts */
const rgb = (parts) => (parts.length === 3 && parts.every((part) => part <= 255) ? hex(parts) : undefined);

/** @param {number} index of the 256 colours */
function indexed(index) {
  if (index < 16) return index;
  if (index > 255) return undefined;
  if (index >= 232) return hex([0, 1, 2].map(() => 8 + 10 * (index - 232)));
  const cube = index - 16;
  return hex([Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((part) => (part ? 55 + 40 * part : 0)));
}

/** @param {number[]} rgb */
const hex = (rgb) => "#" + rgb.map((part) => part.toString(16).padStart(2, "0")).join("");

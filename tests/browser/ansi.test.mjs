// The viewer's reading of terminal sequences, over thousands of random mixtures of them; the same every time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "../../server/viewer/ansi.js";

const ROUNDS = 20_000;

/** Numbers from a seed (mulberry32). */
function numbers(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const PARTS = [
  "a", "text ", "é", "😀", "\t", "\n", "\r", "\r\n", "\x00", "\x08", "\x07", "\x0e", "\x18", "\x1a", "\x7f", "\x85", "\x9b", "\x9c",
  "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x1b(", "\x1b(B", "\x1b c", "\x1b\\", "[", "]", "m", ";", ":", "8;", "?", "38", "48;5;", "1", "31m",
  "\x1b[31m", "\x1b[0m", "\x1b[38;5;208m", "\x1b[38:2::1:2:3m", "\x1b[2J", "\x1b[?25l", "\x1b]0;title\x07", "\x1bPq#0\x1b\\",
  "\x1b]8;;http://a/\x1b\\", "\x1b]8;id=1;https://b\x07", "\x1b]8;;javascript:alert(1)\x1b\\", "\x1b]8;;data:x\x07", "\x1b]8;;\x1b\\", "http://", "javascript:",
];

function mixture(below) {
  const parts = Array.from({ length: 1 + below(12) }, () => (below(10) ? PARTS[below(PARTS.length)] : String.fromCharCode(below(0x180))));
  return parts.join("");
}

/** The rules once more, as one expression: what is left of a text without its sequences. */
const SEQUENCE = new RegExp(
  [
    "\\x1b\\[[ -?]*(?:[@-~]|(?=[^ -~])|$)", // CSI, or as much of it as there is
    "\\x1b[\\]PX^_][^\\x07\\x18\\x1a\\x1b\\x9c]*(?:\\x1b\\\\|[\\x07\\x18\\x1a\\x9c])", // a string with its end
    "\\x1b[\\]PX^_]", // one without: its introducer alone
    "\\x1b[ -/]*(?:[\\x00-\\x1a\\x1c-~]|(?=[^\\x00-\\x1a\\x1c-~])|$)", // ESC, intermediates, one final character
    "[\\x0e\\x0f]",
    "\\r(?=\\n|$)",
  ].join("|"),
  "gu",
);
const visible = (input) => input.replace(SEQUENCE, "");

const textOf = (pieces) => pieces.map((piece) => piece.text).join("");

test("whatever is mixed, the text is what a terminal would print, and links lead to the web alone", () => {
  const below = numbers(1);
  let [links, styles] = [0, 0];
  for (let round = 0; round < ROUNDS; round++) {
    const input = mixture(below);
    const { pieces, more } = parse(input);
    assert.equal(textOf(pieces), visible(input), JSON.stringify(input));
    assert.equal(more, false);
    for (const { href, text, style } of pieces) {
      assert.ok(text, "a piece is not empty");
      assert.ok(href === null || /^https?:\/\/[^\s/]/.test(href), JSON.stringify(input));
      links += href ? 1 : 0;
      styles += style ? 1 : 0;
    }
  }
  assert.ok(links > 500 && styles > 500, `${links} links and ${styles} styles: the mixtures are worth something`);
});

test("a limit gives the beginning of the same text, and cuts no character", () => {
  const below = numbers(2);
  for (let round = 0; round < ROUNDS; round++) {
    const [input, limit] = [mixture(below), below(20)];
    const all = textOf(parse(input).pieces);
    const { pieces, more } = parse(input, limit);
    const text = textOf(pieces);
    assert.ok(all.startsWith(text) && text.length <= limit, JSON.stringify(input));
    assert.equal(more, text !== all);
    assert.ok(!more || text.length >= limit - 1, "no more is cut than a character that does not fit");
    assert.ok(text.isWellFormed?.() ?? true, JSON.stringify(input));
  }
});

test("a sequence that never ends takes ten times as long when it is ten times as long", () => {
  const fastest = (input) => {
    const times = Array.from({ length: 3 }, () => {
      const began = performance.now();
      parse(input);
      return performance.now() - began;
    });
    return Math.min(...times);
  };
  const unterminated = ["\x1b]0;", "\x1bP", "\x1b[", "\x1b]8;;http://a", "\x1b]8;"].map((begin) => (size) => begin + "1;".repeat(size / 2));
  const repeated = ["\x1b]", "\x1b[1;", "\x1b]8;x", "\x1bPa\x9b", "\x1b ", "\x1b]8;\x07"].map((part) => (size) => part.repeat(size / part.length));
  for (const make of [...unterminated, ...repeated]) {
    const [short, long] = [fastest(make(200_000)), fastest(make(2_000_000))];
    assert.ok(long < 50 * short + 20, `${JSON.stringify(make(8))}: ${short} ms, then ${long} ms`);
  }
});

// The viewer's parsers and words, without a browser: node --test tests/browser/*.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "../../server/viewer/ansi.js";
import { Found } from "../../server/viewer/found.js";
import { SseParser } from "../../server/viewer/sse.js";
import { isIncomplete, proof, summary, whatIsMissing } from "../../server/viewer/status.js";

const text = (input) => parse(input).pieces.map((piece) => piece.text).join("");
const only = (input) => {
  const { pieces } = parse(input);
  assert.equal(pieces.length, 1, JSON.stringify(pieces));
  return pieces[0];
};

test("text without sequences is one piece", () => {
  assert.deepEqual(parse("a\tb"), { pieces: [{ text: "a\tb", style: null, href: null }], more: false, ink: null });
  assert.deepEqual(parse(""), { pieces: [], more: false, ink: null });
});

test("styles", () => {
  const cases = [
    ["\x1b[31mx", { fg: 1 }],
    ["\x1b[97;100mx", { fg: 15, bg: 8 }],
    ["\x1b[1;3;4;7mx", { bold: true, italic: true, underline: true, inverse: true }],
    ["\x1b[1;2m\x1b[22;9mx", { strike: true }],
    ["\x1b[38;5;9mx", { fg: 9 }],
    ["\x1b[38;5;208mx", { fg: "#ff8700" }],
    ["\x1b[48;5;232mx", { bg: "#080808" }],
    ["\x1b[38;2;1;2;3;1mx", { fg: "#010203", bold: true }],
    ["\x1b[38:2::1:2:3mx", { fg: "#010203" }],
    ["\x1b[38:2:1:2:3mx", { fg: "#010203" }],
  ];
  const plain = { fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, inverse: false, strike: false };
  for (const [input, expected] of cases) assert.deepEqual(only(input).style, { ...plain, ...expected }, JSON.stringify(input));
  for (const input of ["\x1b[31m\x1b[mx", "\x1b[31m\x1b[39mx", "\x1b[38;2;1;2;300mx", "\x1b[38;5;999mx", "\x1b[?31mx", "\x1b[38mx"]) {
    assert.equal(only(input).style, null, JSON.stringify(input));
  }
});

test("links only to http and https", () => {
  const link = (url) => parse(`\x1b]8;id=1;${url}\x1b\\x\x1b]8;;\x1b\\y`).pieces;
  for (const url of ["http://a/", "https://a/b?c=d", "HTTPS://a"]) assert.deepEqual(link(url).map((p) => p.href), [url, null]);
  for (const url of ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//a", "", " https://a", "https://", "https://" + "a".repeat(3000)]) {
    assert.deepEqual(link(url), [{ text: "xy", style: null, href: null }], url);
  }
});

test("everything else is left out", () => {
  const cases = [
    ["a\x1b[2J\x1b[10;20H\x1b[?25lb", "ab"],
    ["a\x1b]52;c;eA==\x07b\x1b]0;title\x1b\\c\x1bPq#0\x1b\\d\x1b_x\x9ce", "abcde"],
    ["a\x1b(B\x1b)0\x1b=\x1b7b", "ab"],
    ["a\x0e\x0fb\r", "ab"],
    ["a\x00\x08b\x0c\x07\x7f\x85\x9b\rc", "a\x00\x08b\x0c\x07\x7f\x85\x9b\rc"],
    ["a\x1b", "a"],
    ["a\x1b[", "a"],
    ["a\x1b[31", "a"],
    ["a\x1b[31\x1b[1mb", "ab"],
    ["a\x1b]0;never ends", "a0;never ends"],
    ["a\x1b]0;broken\x1b[1mb", "a0;brokenb"],
    ["a\x1bé", "aé"],
  ];
  for (const [input, expected] of cases) assert.equal(text(input), expected, JSON.stringify(input));
});

test("a limit cuts visible text, and no character", () => {
  assert.deepEqual(parse("\x1b[31mab\x1b[0mcd", 3), { ...parse("\x1b[31mab\x1b[0mc"), more: true });
  assert.equal(parse("abc", 3).more, false);
  assert.equal(parse("a😀", 2).pieces[0].text, "a");
});

test("time grows with the input, no faster", () => {
  const size = 1_000_000;
  const inputs = [
    "x".repeat(size), "\x1b".repeat(size), "\x1b]".repeat(size / 2), "\x1b[".repeat(size / 2), "\x1b]8;;".repeat(size / 5), "\x1b]0;" + "a".repeat(size),
    "\x1b[" + "1;".repeat(size / 2), "\x1b[" + "1;".repeat(size / 2) + "m", "\x1b[31m".repeat(size / 5), "\x1b]8;\x07".repeat(size / 5), "\x1b(".repeat(size / 2), "\x1b ".repeat(size / 2),
  ];
  for (const input of inputs) {
    const started = performance.now();
    parse(input);
    const took = performance.now() - started;
    assert.ok(took < 2000, `${JSON.stringify(input.slice(0, 10))}: ${took} ms`);
  }
});

function events(chunks) {
  const seen = [];
  const parser = new SseParser((event) => seen.push(event));
  for (const chunk of chunks) parser.feed(chunk);
  return seen;
}

test("events, however they are cut", () => {
  const stream =
    "\ufeffretry: 1000\n\n: comment\n\nevent: log\nid: 1-1\ndata: {\"a\":1}\n\nevent: live\r\ndata: {}\r\n\r\nid: 1-9\n\n" +
    "data: two\rdata:lines\r\rdata\n\nid: bad\0id\ndata: x\n\nevent: lost without its end\ndata: y\n";
  const expected = [
    { name: "log", data: '{"a":1}', id: "1-1" },
    { name: "live", data: "{}", id: "1-1" },
    { name: "", data: null, id: "1-9" },
    { name: "message", data: "two\nlines", id: "1-9" },
    { name: "message", data: "", id: "1-9" },
    { name: "message", data: "x", id: "1-9" },
  ];
  assert.deepEqual(events([stream]), expected);
  assert.deepEqual(events([...stream]), expected);
  for (let at = 0; at < stream.length; at++) assert.deepEqual(events([stream.slice(0, at), stream.slice(at)]), expected, `cut at ${at}`);
});

test("colons separate the parts of one parameter", () => {
  assert.equal(only("\x1b[4:3mx").style.underline, "curly");
  assert.equal(only("\x1b[4:3mx\x1b[0m").style.italic, false);
  assert.equal(only("\x1b[31;4;4:0mx").style.underline, false);
  for (const input of ["\x1b[58;5;9mx", "\x1b[58:2::255:0:0mx", "\x1b[58;2;1;4;7mx"]) assert.equal(only(input).style, null, JSON.stringify(input));
});

test("what is lost does not look like a success", () => {
  const task = { status: "succeeded", attempt: 2, end: 70, lines: 30, dropped: 35_655, complete: false };
  assert.equal(summary(task, null, 70), "30 lines in attempt 2, 70 rows in all, succeeded, 35,655 lines lost");
  assert.equal(whatIsMissing(task), "35,655 lines were lost: rows of the log say where, and why");
  assert.equal(whatIsMissing({ ...task, dropped: 0 }), "incomplete: a process of this task did not say goodbye");
  assert.equal(isIncomplete({ ...task, dropped: 0, complete: true }), false);
});

test("what is found goes on in the next colour", () => {
  const pieces = ["\u00c9r", "r", "or, err", "", "or"].map((text) => ({ text }));
  const found = new Found(pieces, "rror");
  assert.deepEqual(pieces.map(({ text }) => found.take(text.length)), [[[1, 2]], [[0, 1]], [[0, 2], [5, 7]], [], [[0, 2]]]);
  assert.deepEqual(new Found([{ text: "aaaa" }], "aa").take(4), [[0, 2], [2, 4]]);
  for (const [text, needle] of [["abc", ""], ["abc", "x"], ["\u0130abc", "abc"]]) assert.deepEqual(new Found([{ text }], needle).take(9), []);
});

test("the end says whether every line is there", () => {
  const found = { state: "verified", lines: 12345, captured: 12345, missing: 0, dropped: 0 };
  const end = { attempt: 1, status: "succeeded", lines: 12345, dropped: 0, complete: true, completeness: found };
  assert.equal(proof(null, end), "12,345 of 12,345 lines, 0 missing, verified");
  assert.equal(summary(null, end, 0), "12,345 lines, succeeded, verified");
  const hole = { ...found, state: "incomplete", lines: 7, captured: 10, missing: 1, dropped: 2, reason: "seq 2 is not stored" };
  assert.equal(proof(null, { ...end, completeness: hole }), "7 of 10 lines, 2 dropped, 1 missing, incomplete: seq 2 is not stored");
  assert.equal(summary(null, { ...end, completeness: hole }, 0), "12,345 lines, succeeded, incomplete");
  assert.equal(summary(null, { ...end, completeness: undefined }, 0), "12,345 lines, succeeded");
  assert.equal(proof(null, null), "");
  const slow = { ...end, completeness: { state: "running", reason: "it takes long" } };
  assert.equal(proof(/** @type {any} */ ({ completeness: slow.completeness }), slow), "not verified yet: it takes long");
  assert.equal(proof(/** @type {any} */ ({ completeness: found }), slow), "12,345 of 12,345 lines, 0 missing, verified");
});

// The viewer's parsers, without a browser: node --test tests/browser/unit.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "../../server/viewer/ansi.js";
import { text as rowText } from "../../server/viewer/line.js";
import { Log } from "../../server/viewer/log.js";
import { SseParser } from "../../server/viewer/sse.js";
import { proof, summary } from "../../server/viewer/status.js";

const text = (input) => parse(input).pieces.map((piece) => piece.text).join("");
const only = (input) => {
  const { pieces } = parse(input);
  assert.equal(pieces.length, 1, JSON.stringify(pieces));
  return pieces[0];
};

test("text without sequences is one piece", () => {
  assert.deepEqual(parse("a\tb"), { pieces: [{ text: "a\tb", style: null, href: null }], more: false });
  assert.deepEqual(parse(""), { pieces: [], more: false });
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
    ["a\x07\x0e\x0f\x7f\x85\x9bb", "ab"],
    ["a\x00\x08b\x0c", "a\u2400\u2408b\u240c"],
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

// The model of a log. Lines are fetched from a pretended store.

function world() {
  const store = new Map();
  const put = (offset, message = `line ${offset}`, more = {}) => {
    const line = { offset, epoch: 1, time: "2024-01-01T00:00:00Z", stream: "stdout", producer: "p", message, ...more };
    store.set(offset, line);
    return line;
  };
  const fetches = [];
  const fetch = async (from, to) => {
    fetches.push([from, to]);
    return { lines: [...store.values()].filter(({ offset }) => offset >= from && offset <= to).sort((a, b) => a.offset - b.offset), floor: 1, end: store.size };
  };
  const log = new Log({ fetch, changed: () => {}, failed: assert.fail });
  const loaded = async (first, last) => {
    for (let round = 0; round < 50; round++) {
      log.want(first, last);
      await new Promise((done) => setImmediate(done));
    }
  };
  const shown = () => Array.from({ length: log.count() }, (_, block) => log.rows(block)).flat().map((row) => (row.kind === "line" ? rowText(row) : `${row.kind} ${row.offset} ${row.count}`));
  return { put, log, fetches, loaded, shown };
}

test("pages are fetched where one looks, the live end comes by itself", async () => {
  const { put, log, fetches, loaded, shown } = world();
  for (let offset = 1; offset <= 1000; offset++) put(offset);
  log.start({ from: 901, end: 1000, floor: 1 });
  assert.deepEqual(shown(), ["hole 1 256", "hole 257 256", "hole 513 256", "hole 769 232"]);
  await loaded(3, 3);
  assert.deepEqual(fetches, [[769, 900], [513, 768]], "what comes through the stream is not fetched");
  for (let offset = 901; offset <= 1000; offset++) log.append(put(offset));
  log.live();
  await loaded(0, 3);
  assert.deepEqual(shown(), Array.from({ length: 1000 }, (_, at) => `line ${at + 1}`));
});

test("a rollback takes back rows, and answers that were under way", async () => {
  const { put, log, loaded, shown } = world();
  log.start({ from: 1, end: 0, floor: 1 });
  for (let offset = 1; offset <= 300; offset++) log.append(put(offset));
  log.live();
  log.pages.get(0).lines.length = 100;
  log.want(0, 0); // The answer to this one is void.
  log.rollback(250, "lost");
  assert.deepEqual(shown().slice(-2), ["hole 101 150", "note 250 0"]);
  assert.equal(log.end, 250);
  for (let offset = 101; offset <= 260; offset++) put(offset, `new ${offset}`);
  for (let offset = 251; offset <= 260; offset++) log.append(put(offset, `new ${offset}`));
  await loaded(0, 1);
  assert.deepEqual(shown().slice(99, 102), ["line 100", "new 101", "new 102"]);
  assert.deepEqual(shown().slice(-2), ["new 259", "new 260"]);
  log.rollback(0, "anew");
  assert.deepEqual(shown(), ["note 0 0"]);
});

test("gaps are rows", async () => {
  const { put, log, loaded, shown } = world();
  for (const offset of [1, 2, 6, 7]) put(offset);
  log.start({ from: 8, end: 7, floor: 1 });
  log.live();
  await loaded(0, 0);
  assert.deepEqual(shown(), ["line 1", "line 2", "gap 3 3", "line 6", "line 7"]);
  assert.equal(log.rows(0)[2].text, "lines 3 to 5 are missing");
  log.gap({ from: 8, to: 9, reason: "missing" });
  assert.deepEqual(shown().at(-1), "gap 8 2");
  log.gap({ from: 1, to: 6, reason: "retention" });
  assert.deepEqual(shown(), ["note 6 0", "line 7", "gap 8 2"]);
});

test("parts join across pages and other streams", async () => {
  const { put, log, loaded, shown } = world();
  for (let offset = 1; offset <= 600; offset++) put(offset);
  put(255, "A", { continued: true });
  put(256, "between", { stream: "stderr" });
  for (let offset = 257; offset <= 520; offset++) put(offset, offset === 257 ? "B" : ".", { continued: true });
  put(521, "Z");
  log.start({ from: 601, end: 600, floor: 1 });
  log.live();
  await loaded(1, 1);
  await loaded(0, 2);
  const rows = shown();
  assert.deepEqual(rows.slice(253, 258), ["line 254", `AB${".".repeat(263)}Z`, "between", "line 522", "line 523"]);
  assert.deepEqual(log.locate(300), { block: 0, offset: 255 });
});

test("a progress bar is one row, the newest", () => {
  const { put, log, shown } = world();
  log.start({ from: 1, end: 0, floor: 1 });
  const bar = { update_id: 7, stream: "stderr" };
  log.append(put(1));
  log.append(put(2, "10%", bar));
  log.append(put(3));
  log.append(put(4, "20%", bar));
  assert.deepEqual(shown(), ["line 1", "line 3", "20%"]);
  log.frame({ producer: "p", message: "25%", ...bar });
  assert.deepEqual(shown(), ["line 1", "line 3", "frame 5 1"]);
  log.append(put(5, "done", bar));
  log.append(put(6, "other", { ...bar, update_id: 8 }));
  assert.deepEqual(shown(), ["line 1", "line 3", "done", "other"]);
  assert.deepEqual(log.locate(2), { block: 0, offset: 5 });
  log.rollback(4, "lost");
  assert.deepEqual(shown(), ["line 1", "line 3", "20%", "note 4 0"]);
});

test("memory does not grow with the log", () => {
  const { put, log } = world();
  log.start({ from: 1, end: 0, floor: 1 });
  for (let offset = 1; offset <= 100_000; offset++) log.append(put(offset));
  assert.ok(log.pages.size < 80, `${log.pages.size} pages`);
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

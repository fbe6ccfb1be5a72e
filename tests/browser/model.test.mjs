// The viewer's models of a log, without a browser: node --test tests/browser/*.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { text as rowText } from "../../server/viewer/line.js";
import { Log } from "../../server/viewer/log.js";
import { Match } from "../../server/viewer/match.js";

/** Lines are fetched from a pretended store. */
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
  assert.deepEqual(log.locate(300), { block: 0, offset: 255, key: "line 255" });
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
  assert.deepEqual(log.locate(2), { block: 0, offset: Infinity, key: "frame p/stderr/7" });
  log.append(put(5, "done", bar));
  log.append(put(6, "other", { ...bar, update_id: 8 }));
  assert.deepEqual(shown(), ["line 1", "line 3", "done", "other"]);
  assert.deepEqual(log.locate(2), { block: 0, offset: 5, key: "line 5" });
  log.rollback(4, "lost");
  assert.deepEqual(shown(), ["line 1", "line 3", "20%", "note 4 0"]);
});

test("memory does not grow with the log", () => {
  const { put, log } = world();
  log.start({ from: 1, end: 0, floor: 1 });
  for (let offset = 1; offset <= 100_000; offset++) log.append(put(offset));
  assert.ok(log.pages.size < 80, `${log.pages.size} pages`);
});

test("an answer that ends early leaves holes, not gaps, and nothing is joined across a gap", async () => {
  const { put, log, shown } = world();
  for (let offset = 1; offset <= 20; offset++) put(offset);
  put(5, "A", { continued: true });
  put(7, "B");
  const { fetch } = log.outside;
  // As a server whose pages end after four lines.
  log.outside.fetch = async (from, to) => {
    const page = await fetch(from, Math.min(to, from + 3));
    return from + 3 < to ? { ...page, next_from: from + 4 } : page;
  };
  log.start({ from: 21, end: 20, floor: 1 });
  log.live();
  log.want(0, 0);
  await new Promise((done) => setImmediate(done));
  assert.deepEqual(shown(), ["line 1", "line 2", "line 3", "line 4", "hole 5 16"]);
  for (let round = 0; round < 20; round++) {
    log.want(0, 0);
    await new Promise((done) => setImmediate(done));
  }
  assert.equal(shown().filter((row) => row.startsWith("hole") || row.startsWith("gap")).length, 0, shown().join());
  log.pages.get(0).lines[5] = null;
  log.voidRows();
  assert.deepEqual(shown().slice(4, 7), ["A", "gap 6 1", "B"]);
});

test("retention that passes under a reader leaves no hole", async () => {
  const { put, log, loaded, shown } = world();
  for (let offset = 1; offset <= 600; offset++) put(offset);
  log.start({ from: 601, end: 600, floor: 1 });
  log.live();
  await loaded(0, 0);
  const { fetch } = log.outside;
  log.outside.fetch = async (from, to) => ({ ...(await fetch(Math.max(from, 301), to)), floor: 301 });
  log.pages.get(0).lines.length = 10;
  log.voidRows();
  await loaded(0, 2);
  assert.deepEqual(shown().slice(0, 2), ["note 300 0", "line 301"]);
  assert.equal(shown().length, 301);
  log.raiseFloor(601);
  assert.deepEqual(shown(), ["note 600 0"]);
});

test("a filtered log is complete only when the server says so", async () => {
  const answers = [{ lines: [], next_before: 500 }, { lines: [{ offset: 3, stream: "stdout", message: "x" }], next_before: 3 }, { lines: [] }];
  const asked = [];
  const fetch = async (before) => (asked.push(before), { floor: 1, end: 900, ...answers.shift() });
  const match = new Match({ fetch, changed: () => {}, failed: assert.fail }, 1);
  match.start({ end: 900 });
  match.append({ offset: 900, stream: "stdout", message: "x" });
  match.live();
  for (let round = 0; round < 3; round++) {
    assert.equal(match.complete, false);
    match.want(0);
    await new Promise((done) => setImmediate(done));
  }
  assert.deepEqual([asked, match.complete, match.found], [[900, 500, 3], true, 2]);
});

test("a filtered log is bounded by its characters", () => {
  const match = new Match({ fetch: assert.fail, changed: () => {}, failed: assert.fail }, 1);
  const message = "x".repeat(100_000);
  for (let offset = 1; offset <= 2000; offset++) match.append({ offset, stream: "stdout", message });
  assert.ok(match.chars <= 26_000_000 && match.found < 600, `${match.chars} characters, ${match.found} lines`);
});

test("an endless line is cut into rows, none is swallowed, and a dead producer's costs nothing", async () => {
  const { put, log, loaded, shown } = world();
  for (let offset = 1; offset <= 2600; offset++) put(offset, ".", { continued: true });
  log.start({ from: 2601, end: 2600, floor: 1 });
  log.live();
  await loaded(0, 5);
  await loaded(5, 10);
  assert.deepEqual(shown().map((row) => row.length), [1024, 1024, 552]);
  log.takeDirty();
  log.append(put(2601, "another", { producer: "q" }));
  shown();
  log.takeDirty();
  log.append(put(2602, "another", { producer: "q" }));
  assert.deepEqual([...log.takeDirty()], [10, 11], "pages before are left alone");
});

test("colours run over line ends, as in a terminal", () => {
  const { put, log } = world();
  log.start({ from: 1, end: 0, floor: 1 });
  for (const [offset, message, more] of [[1, "\x1b[31mred"], [2, "other", { producer: "q" }], [3, "still red"], [4, "and\x1b[0m plain"], [5, "plain"]]) log.append(put(offset, message, more));
  assert.deepEqual(log.rows(0).map((row) => row.ink?.fg ?? null), [null, null, 1, 1, null]);
});

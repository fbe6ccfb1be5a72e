// The page of one task: ties the stream, the rows and the switches together.

import { apiUrl, getJson, LATE, reason, Refusal } from "./api.js";
import { count } from "./clock.js";
import { Cursor } from "./cursor.js";
import { FilterBar } from "./filter.js";
import { Head } from "./head.js";
import { List } from "./list.js";
import { Log } from "./log.js";
import { Match } from "./match.js";
import { RowView } from "./row.js";
import { Switch } from "./setting.js";
import { Stream } from "./stream.js";
import { set } from "./task-list.js";

/** @typedef {import("./api.js").Task} Task */
/** @typedef {import("./status.js").End} End */
/** @typedef {(id: string) => HTMLElement} ById */

/** Lines that a stream begins with; earlier ones are fetched where one looks. */
const FIRST_LINES = 300;
const FIRST_MATCHES = 1000;
const TICK_MS = 500;
/** A stream that has not begun after so long may be of a task that nobody knows: the server is asked. */
const UNBEGUN_MS = 250;
const ROLLBACK = "the server lost what it had not stored yet; what followed here comes again";
const RESET = "the log begins anew";
const TASK_EVERY_TICKS = 8;

export class TaskPage {
  /** @param {string} taskId @param {string | undefined} tenant @param {ById} byId */
  constructor(taskId, tenant, byId) {
    this.path = `/${encodeURIComponent(taskId)}`;
    this.tenant = tenant;
    this.byId = byId;
    /** @type {Task | null} */
    this.task = null;
    /** @type {End | null} */
    this.end = null;
    this.live = false;
    /** @type {import("./stream.js").StreamState} */
    this.state = { kind: "connecting" };
    /** New lines that nobody has been shown are those above it. */
    this.seen = 0;
    this.ticks = 0;
    /** The server said that nobody has printed to it. */
    this.isUnknown = false;
    /** Why the task's record could not be read. */
    this.problem = "";
    /** What pages of lines wait for. */
    this.trouble = "";
    /** When the connection opened without saying yet where it begins. ms */
    this.openSince = Infinity;
    this.wasLive = false;
    this.pages = new AbortController();
    /** @type {Log | Match | undefined} */
    this.source = undefined;
    /** @type {Stream | undefined} */
    this.stream = undefined;

    this.rows = new RowView({
      href: (offset) => this.lineHref(offset),
      resized: (row) => this.list.redraw(row),
      shownAt: (offset) => this.source?.locate(offset).key,
      hint: () => (this.filter.isActive() ? "show it among its neighbours" : "link to this line"),
    });
    this.list = new List(byId("pane"), { render: (row) => this.rows.render(row), moved: () => this.moved() });
    const bar = { q: byId("q"), level: byId("level"), stream: byId("stream"), clear: byId("clear") };
    this.filter = new FilterBar(bar, () => this.open());
    const isNarrow = matchMedia("(max-width: 760px)").matches;
    this.wrap = new Switch(byId("wrap"), "wrap", isNarrow, (on) => this.setWrap(on));
    this.times = new Switch(byId("times"), "times", !isNarrow, (on) => this.setTimes(on));
    byId("follow").addEventListener("click", () => this.toggleFollow());
    byId("jump").addEventListener("click", () => this.list.toEnd());
    byId("retry").addEventListener("click", () => this.stream?.wake());
    byId("pane").addEventListener("click", (event) => this.clicked(event));
    addEventListener("popstate", () => {
      this.filter.reload();
      this.goToHash();
    });
    this.cursor = new Cursor(this);
    this.head = new Head(this);
    this.open();
    this.goToHash();
    setInterval(() => this.tick(), TICK_MS);
  }

  /** Begins to read, with the filter as it is now. */
  open() {
    this.stream?.stop();
    const filter = this.asked();
    const isFiltered = this.filter.isActive();
    this.rows.needle = filter.q.toLowerCase();
    this.cursor.searching.abort();
    if (isFiltered) this.cursor.wanted = this.filter.current;
    [this.live, this.wasLive, this.seen, this.end, this.openSince] = [false, false, 0, null, Infinity];
    this.source = this.newSource();
    if (this.task || isFiltered) void this.refreshTask();
    for (const format of ["text", "ndjson"]) {
      const link = /** @type {HTMLAnchorElement} */ (this.byId(format));
      link.href = apiUrl(`${this.path}/logs/download`, { ...filter, format });
    }
    const url = apiUrl(`${this.path}/logs/stream`, { ...filter, tail: isFiltered ? FIRST_MATCHES : FIRST_LINES });
    this.stream = new Stream(url, {
      event: (name, data) => this.event(name, data),
      state: (state) => this.setState(state),
    });
    const at = this.list.following ? undefined : this.list.firstVisible();
    this.list.show(this.source);
    // Without a filter one goes on reading where one was; a new one shows its newest matches.
    if (at && !isFiltered) this.list.goTo(at);
    else this.list.toEnd();
    this.stream.start();
  }

  asked() {
    return { ...this.filter.current, tenant: this.tenant };
  }

  /** @returns {Log | Match} */
  newSource() {
    const changed = () => this.list.changed();
    const failed = (/** @type {string} */ why) => (this.trouble = why);
    const filter = this.asked();
    /** @param {import("./api.js").Query} query @returns {Promise<import("./api.js").LinePage>} */
    const get = async (query) => {
      const late = () => (this.trouble = LATE);
      const page = await getJson(apiUrl(`${this.path}/logs`, { ...filter, ...query }), { signal: this.pages.signal, late });
      this.trouble = "";
      return page;
    };
    if (this.filter.isActive()) return new Match({ fetch: (before, limit) => get({ before, limit }), changed, failed }, FIRST_MATCHES);
    return new Log({ fetch: (from, to) => get({ from, to, limit: to - from + 1 }), changed, failed });
  }

  /** What was there is void, also what is still under way: nothing of it goes on. */
  reset() {
    this.source = this.newSource();
    [this.seen, this.wasLive, this.live] = [0, false, false];
    this.source.note(0, RESET);
    this.list.show(this.source);
    this.list.toEnd();
  }

  /** @param {string} name @param {any} data */
  event(name, data) {
    const { source } = this;
    if (!source) return;
    if (name === "log") source.append(data);
    else if (name === "frame") source.frame(data);
    else if (name === "gap") source.gap(data);
    else if (name === "rollback") source.rollback(data.to, ROLLBACK);
    else if (name === "reset") this.reset();
    else if (name === "start") {
      [this.end, this.live, this.isUnknown, this.openSince] = [null, false, false, Infinity];
      source.start(data);
      // What was there before one came is not new.
      if (this.seen === 0) this.seen = source.tally;
      if (!this.task) void this.refreshTask();
    } else if (name === "live") {
      source.live();
      // What the search found of before one came is not new either.
      if (!this.wasLive) this.seen = source.tally;
      [this.live, this.wasLive] = [true, true];
      this.list.changed();
    } else if (name === "end") {
      this.end = data;
      source.clearFrames();
      void this.refreshTask();
      this.list.changed();
    }
    if (name !== "log" && name !== "frame") this.head.show();
  }

  // The address.

  /** A line's own address, without the filter: it shows the line among its neighbours. @param {number} offset */
  lineHref(offset) {
    const url = new URL(location.href);
    for (const name of ["q", "level", "stream"]) url.searchParams.delete(name);
    url.hash = `L${offset}`;
    return url.pathname + url.search + url.hash;
  }

  goToHash() {
    const offset = Number(/^#L([1-9][0-9]{0,14})$/.exec(location.hash)?.[1]);
    this.mark(offset || null);
    if (offset) this.list.goTo(offset);
  }

  /** @param {number | null} offset */
  mark(offset) {
    this.rows.marked = offset;
    for (const { row, element } of this.list.shown.values()) element.classList.toggle("marked", this.rows.isMarked(row));
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const link = /** @type {HTMLElement} */ (event.target).closest("a.no");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const { href } = /** @type {HTMLAnchorElement} */ (link);
    if (this.filter.isActive()) {
      // Back leads to the matches again.
      history.pushState(null, "", href);
      this.filter.reload();
      this.goToHash();
    } else {
      history.replaceState(null, "", href);
      this.mark(Number(link.textContent));
    }
  }

  // Switches.

  /** @param {boolean} on */
  setWrap(on) {
    this.byId("pane").classList.toggle("wrap", on);
    this.list.heights.wrap = on;
    this.list.reflow();
  }

  /** @param {boolean} on */
  setTimes(on) {
    this.byId("pane").classList.toggle("times", on);
    this.list.reflow();
  }

  toggleFollow() {
    if (this.list.following) this.list.leaveEnd();
    else this.list.toEnd();
    this.list.changed();
  }

  // What the top says.

  /** @param {import("./stream.js").StreamState} state */
  setState(state) {
    this.state = state;
    if (state.kind === "waiting" || state.kind === "paused") {
      this.live = false;
      // What is asked for over a dead path would never come.
      this.pages.abort();
      this.pages = new AbortController();
    }
    this.openSince = state.kind === "open" ? Date.now() : Infinity;
    if (state.kind === "done" && !this.end) void this.refreshTask();
    this.head.show();
  }

  async refreshTask() {
    try {
      this.task = await getJson(apiUrl(this.path, { tenant: this.tenant }), { signal: this.pages.signal });
      [this.isUnknown, this.problem] = [false, ""];
    } catch (error) {
      this.isUnknown = error instanceof Refusal && error.status === 404;
      if (this.isUnknown) this.task = null;
      else this.problem = reason(error);
    }
    this.head.show();
    // A task that ended may run again: then its stream goes on.
    const isMore = this.task && this.source && this.task.end > (this.end?.offset ?? this.source.end);
    if (this.state.kind === "done" && (isMore || this.task?.status === "running")) this.stream?.start();
  }

  tick() {
    this.ticks += 1;
    if (document.visibilityState !== "visible") return;
    // Of a task that nobody knows yet the stream's start tells: it is asked for once a connection.
    const isUnbegun = Date.now() - this.openSince > UNBEGUN_MS;
    const isDue = this.task ? this.ticks % TASK_EVERY_TICKS === 0 : isUnbegun;
    if (isUnbegun) this.openSince = Infinity;
    if (isDue && this.state.kind !== "waiting") void this.refreshTask();
    this.head.show();
  }

  /** The list has drawn or was scrolled. */
  moved() {
    const { source, list, byId } = this;
    if (!source || !list) return;
    if (list.following) this.seen = source.tally;
    const fresh = Math.max(0, source.tally - this.seen);
    byId("pane").style.setProperty("--digits", String(String(source.end).length));
    byId("follow").setAttribute("aria-pressed", String(list.following));
    byId("jump").hidden = list.following || (fresh === 0 && this.end !== null);
    if (source instanceof Match) {
      const found = count(source.found, "match", "matches");
      set(byId("clear"), `${found}${source.complete ? "" : " so far"} · clear`);
    }
    set(byId("jump"), fresh ? `↓ ${count(fresh, "new line", "new lines")}` : "↓ follow");
    if (this.end === null && source.end) this.head.showSummary();
    if (this.rows.marked !== null) this.mark(this.rows.marked);
  }
}

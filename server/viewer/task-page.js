// The page of one task: ties the stream, the rows and the switches together.

import { apiUrl, getJson, Refusal } from "./api.js";
import { count } from "./clock.js";
import { FilterBar } from "./filter.js";
import { List } from "./list.js";
import { Log } from "./log.js";
import { Match } from "./match.js";
import { RowView } from "./row.js";
import { Switch } from "./setting.js";
import { about, connection, proof, summary } from "./status.js";
import { Stream } from "./stream.js";
import { set } from "./task-list.js";

/** @typedef {import("./api.js").Task} Task */
/** @typedef {import("./status.js").End} End */
/** @typedef {(id: string) => HTMLElement} ById */

/** Lines that a stream begins with; earlier ones are fetched where one looks. */
const FIRST_LINES = 300;
const FIRST_MATCHES = 1000;
const TICK_MS = 500;
const ROLLBACK = "the server lost what it had not stored yet; what followed here comes again";
const RESET = "the log begins anew";
const NOTHING_YET = "Nothing has been printed yet.";
const NOBODY_YET = "Nobody has printed to this task yet. It appears here as soon as somebody does.";
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
    /** @type {Log | Match | undefined} */
    this.source = undefined;
    /** @type {Stream | undefined} */
    this.stream = undefined;

    this.rows = new RowView({ href: (offset) => this.lineHref(offset), resized: (row) => this.list.redraw(row) });
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
    addEventListener("hashchange", () => this.goToHash());
    for (const format of ["text", "ndjson"]) {
      const link = /** @type {HTMLAnchorElement} */ (byId(format));
      link.href = apiUrl(`${this.path}/logs/download`, { tenant, format });
    }
    this.open();
    this.goToHash();
    setInterval(() => this.tick(), TICK_MS);
  }

  /** Begins to read, with the filter as it is now. */
  open() {
    this.stream?.stop();
    const filter = { ...this.filter.current, tenant: this.tenant };
    const changed = () => this.list.changed();
    const failed = () => {}; // The stream says that the server is away; pages are asked for again.
    const isFiltered = this.filter.isActive();
    this.rows.needle = filter.q.toLowerCase();
    /** @param {import("./api.js").Query} query @returns {Promise<import("./api.js").LinePage>} */
    const get = (query) => getJson(apiUrl(`${this.path}/logs`, { ...filter, ...query }));
    this.source = isFiltered
      ? new Match({ fetch: (before, limit) => get({ before, limit }), changed, failed }, FIRST_MATCHES)
      : new Log({ fetch: (from, to) => get({ from, to, limit: to - from + 1 }), changed, failed });
    [this.live, this.seen] = [false, 0];
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

  /** @param {string} name @param {any} data */
  event(name, data) {
    const { source } = this;
    if (!source) return;
    if (name === "log") source.append(data);
    else if (name === "frame") source.frame(data);
    else if (name === "gap") source.gap(data);
    else if (name === "rollback") source.rollback(data.to, ROLLBACK);
    else if (name === "reset") source.rollback(0, RESET);
    else if (name === "start") {
      [this.end, this.live] = [null, false];
      source.start(data);
      // What was there before one came is not new.
      if (this.seen === 0) this.seen = source.tally;
      if (!this.task) void this.refreshTask();
    } else if (name === "live") {
      source.live();
      this.live = true;
      this.list.changed();
    } else if (name === "end") {
      this.end = data;
      source.clearFrames();
      void this.refreshTask();
      this.list.changed();
    }
    if (name !== "log" && name !== "frame") this.showState();
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
    history.replaceState(null, "", /** @type {HTMLAnchorElement} */ (link).href);
    if (this.filter.isActive()) {
      this.filter.clear();
      this.goToHash();
    } else this.mark(Number(link.textContent));
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
    if (state.kind === "waiting") this.live = false;
    if (state.kind === "done" && !this.end) void this.refreshTask();
    this.showState();
  }

  async refreshTask() {
    try {
      this.task = await getJson(apiUrl(this.path, { tenant: this.tenant }));
    } catch (error) {
      if (error instanceof Refusal && error.status === 404) this.task = null;
    }
    this.showState();
    // A task that ended may run again: then its stream goes on.
    const isMore = this.source instanceof Log && this.task && this.task.end > this.source.end;
    if (this.state.kind === "done" && (isMore || this.task?.status === "running")) this.stream?.start();
  }

  tick() {
    this.ticks += 1;
    if (document.visibilityState !== "visible") return;
    // Of a task that nobody knows yet the stream's start tells.
    if (this.task && this.ticks % TASK_EVERY_TICKS === 0 && this.state.kind !== "waiting") void this.refreshTask();
    this.showState();
  }

  showState() {
    const now = Date.now();
    const { byId, state, live, task } = this;
    const said = connection(state, { live, ended: this.end !== null, known: task !== null, now });
    byId("connection").dataset["kind"] = said.kind;
    set(byId("connection"), said.text);
    // Read aloud when it changes, without the seconds that count down.
    set(byId("said"), said.text.replace(/ in \d+ s:/, ":"));
    byId("retry").hidden = state.kind !== "waiting";
    const lines = Math.max(task?.end ?? 0, this.source?.end ?? 0);
    byId("summary").dataset["status"] = this.end?.status ?? task?.status ?? "";
    set(byId("summary"), task || lines ? summary(task, this.end, lines) : "");
    byId("summary").title = proof(task, this.end);
    set(byId("about"), about(task, now));
    const empty = lines === 0 && state.kind !== "connecting";
    byId("empty-log").hidden = !empty;
    if (empty) set(byId("empty-log"), task ? NOTHING_YET : NOBODY_YET);
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
    if (this.end === null) set(byId("summary"), summary(this.task, null, Math.max(this.task?.end ?? 0, source.end)));
  }
}

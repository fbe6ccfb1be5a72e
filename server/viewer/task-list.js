// The list of tasks, kept fresh by asking again. Rows are changed where they differ, so that nothing flickers, and what has
// the keyboard keeps it.

import { apiUrl, getJson, LATE, LATE_MS, pageUrl, reason } from "./api.js";
import { ago, count, duration, serverNow } from "./clock.js";
import { element, escaped } from "./row.js";
import { isIncomplete, whatIsMissing } from "./status.js";

/** @typedef {import("./api.js").Task} Task */
/** @typedef {Record<"text" | "status" | "count" | "body" | "empty" | "more" | "connection" | "said", HTMLElement>} Parts */

const EVERY_MS = 1500;
const PAGE = 100;
/** The most that one answer may hold. */
const MOST = 1000;
const COLUMNS = ["status", "task", "name wide", "number", "number wide", "number", "number wide", "number wide"];

export class TaskList {
  /** @param {Parts} parts @param {string | undefined} tenant */
  constructor(parts, tenant) {
    this.parts = parts;
    this.tenant = tenant;
    this.status = "";
    this.limit = PAGE;
    /** @type {Map<string, HTMLTableRowElement>} */
    this.rows = new Map();
    this.asking = new AbortController();
    /** When the question was asked that has no answer yet. ms */
    this.asked = 0;
    /** @type {number | undefined} */
    this.timer = undefined;
    this.fromAddress();
    parts.text.addEventListener("input", () => this.changed());
    parts.more.addEventListener("click", () => this.grow());
    for (const button of parts.status.querySelectorAll("button")) button.addEventListener("click", () => this.choose(button));
    parts.body.addEventListener("click", (event) => this.open(event));
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
    setInterval(() => this.sayLate(), LATE_MS / 5);
    void this.refresh();
  }

  /** What is asked for stands in the address, so that Back and a reload find it again. */
  fromAddress() {
    const params = new URLSearchParams(location.search);
    /** @type {HTMLInputElement} */ (this.parts.text).value = params.get("text") ?? "";
    const chosen = this.parts.status.querySelector(`button[data-status="${CSS.escape(params.get("status") ?? "")}"]`);
    if (chosen) this.press(/** @type {HTMLElement} */ (chosen));
  }

  changed() {
    const url = new URL(location.href);
    for (const [name, value] of [["text", this.query()], ["status", this.status]]) {
      if (name && value) url.searchParams.set(name, value);
      else if (name) url.searchParams.delete(name);
    }
    history.replaceState(null, "", url);
    void this.refresh();
  }

  query() {
    return /** @type {HTMLInputElement} */ (this.parts.text).value.trim();
  }

  clear() {
    /** @type {HTMLInputElement} */ (this.parts.text).value = "";
    this.changed();
  }

  /** @param {HTMLElement} button */
  press(button) {
    for (const other of this.parts.status.querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    this.status = button.dataset["status"] ?? "";
  }

  /** @param {HTMLElement} button */
  choose(button) {
    this.press(button);
    this.changed();
  }

  grow() {
    this.limit *= 2;
    void this.refresh();
  }

  /** Anywhere on a row opens it, as its link does. @param {MouseEvent} event */
  open(event) {
    const at = /** @type {HTMLElement} */ (event.target);
    if (at.closest("a") || getSelection()?.toString()) return;
    at.closest("tr")?.querySelector("a")?.click();
  }

  /** Moves the keyboard's place. @param {number} by */
  move(by) {
    const links = [...this.parts.body.querySelectorAll("a")];
    const at = links.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
    const next = at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by));
    links[next]?.focus();
  }

  async refresh() {
    clearTimeout(this.timer);
    this.asking.abort();
    const { signal } = (this.asking = new AbortController());
    const q = this.query();
    this.asked = Date.now();
    try {
      /** @type {Task[]} */
      const all = [];
      /** @type {string | undefined} */
      let cursor;
      do {
        const limit = Math.min(MOST, this.limit - all.length);
        const { tasks, next_cursor } = await getJson(apiUrl("", { tenant: this.tenant, status: this.status, q, limit, cursor }), { signal });
        all.push(...tasks);
        cursor = next_cursor ?? undefined;
      } while (cursor && all.length < this.limit);
      this.asked = 0;
      this.show(all, cursor !== undefined, Boolean(q || this.status));
      this.say("live", "live");
    } catch (error) {
      if (signal.aborted) return;
      this.asked = 0;
      this.say("waiting", `trying again: ${reason(error)}`);
    }
    // A page that nobody looks at asks nothing. A long list takes longer to read, and is asked for less often.
    const every = EVERY_MS * Math.ceil(this.limit / MOST);
    if (document.visibilityState === "visible") this.timer = setTimeout(() => this.refresh(), every);
  }

  /** What is shown may be old: a frozen server is not "live". */
  sayLate() {
    const waited = this.asked ? Date.now() - this.asked : 0;
    if (waited > LATE_MS) this.say("waiting", `${LATE.replace(";", ` for ${Math.floor(waited / 1000)} s;`)}`);
  }

  /** @param {string} kind @param {string} text */
  say(kind, text) {
    set(this.parts.connection, text);
    set(this.parts.said, text.replace(/ for \d+ s/, ""));
    this.parts.connection.dataset["kind"] = kind;
  }

  /** @param {Task[]} tasks @param {boolean} isMore @param {boolean} isFiltered */
  show(tasks, isMore, isFiltered) {
    const before = this.rows;
    this.rows = new Map();
    const now = serverNow();
    let at = this.parts.body.firstElementChild;
    for (const task of tasks) {
      const row = before.get(task.task_id) ?? this.newRow(task);
      before.delete(task.task_id);
      this.rows.set(task.task_id, row);
      fill(row, task, now);
      if (row === at) at = at.nextElementSibling;
      else this.parts.body.insertBefore(row, at);
    }
    for (const row of before.values()) row.remove();
    set(this.parts.count, `${count(tasks.length, "task", "tasks")}${isMore ? ", newest first" : ""}`);
    this.parts.more.hidden = !isMore;
    this.parts.empty.hidden = tasks.length > 0;
    this.parts.body.parentElement?.toggleAttribute("hidden", tasks.length === 0);
    set(this.parts.empty, isFiltered ? "No task is like that." : "No task has printed yet. Try:  flowforge run -- echo hello");
  }

  /** @param {Task} task */
  newRow(task) {
    const row = document.createElement("tr");
    row.append(...COLUMNS.map((kind) => element("td", kind)));
    const link = /** @type {HTMLAnchorElement} */ (element("a", "", task.task_id));
    link.href = pageUrl(task.task_id, this.tenant);
    row.children[0]?.append(element("span", "dot"), element("span", ""));
    row.children[1]?.append(link);
    return row;
  }
}

/** @param {HTMLTableRowElement} row @param {Task} task @param {number} now */
function fill(row, task, now) {
  const isMissing = task.status === "succeeded" && isIncomplete(task);
  row.className = isMissing ? "incomplete" : task.status;
  const missing = whatIsMissing(task);
  if (row.title !== missing) row.title = missing;
  const said = task.dropped ? `, ${count(task.dropped)} lost` : isIncomplete(task) ? ", incomplete" : "";
  const ended = task.ended_at ? Date.parse(task.ended_at) : now;
  set(row.children[0]?.lastElementChild, task.status + said);
  const texts = [
    escaped(task.name ?? ""),
    task.lines.toLocaleString("en"),
    duration(ended - Date.parse(task.started_at)),
    ago(task.started_at, now),
    task.attempt > 1 ? String(task.attempt) : "",
    task.exit_code === undefined ? "" : String(task.exit_code),
  ];
  texts.forEach((text, at) => set(row.children[at + 2], text));
  row.children[3]?.classList.toggle("one", task.lines === 1);
  const started = /** @type {HTMLElement} */ (row.children[5]);
  if (started.title !== task.started_at) started.title = task.started_at;
}

/** Touches the document only where it differs. @param {Element | null | undefined} at @param {string} text */
export function set(at, text) {
  if (at && at.textContent !== text) at.textContent = text;
}

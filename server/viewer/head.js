// What the top of a task's page says, and what stands where there are no lines. It only reads the page's state.

import { serverNow } from "./clock.js";
import { Match } from "./match.js";
import { escaped } from "./row.js";
import { about, connection, isIncomplete, proof, summary, whatIsMissing } from "./status.js";
import { set } from "./task-list.js";

/** @typedef {import("./task-page.js").TaskPage} TaskPage */

const NOTHING_YET = "Nothing has been printed yet.";
const NOBODY_YET = "Nobody has printed to this task yet. It appears here as soon as somebody does.";
/** An answer to a key stands so long. */
const TOLD_MS = 8_000;

export class Head {
  /** @param {TaskPage} page */
  constructor(page) {
    this.page = page;
    /** What the page began with stays. */
    this.first = page.byId("hint").textContent ?? "";
    this.timer = 0;
  }

  show() {
    const { byId, end, task } = this.page;
    this.showConnection();
    const status = end?.status ?? task?.status ?? "";
    byId("summary").dataset["status"] = status === "succeeded" && isIncomplete(task, end) ? "incomplete" : status;
    this.showSummary();
    set(byId("missing"), whatIsMissing(task, end));
    set(byId("about"), escaped(about(task, serverNow())));
    this.showHint();
    const empty = this.rows() === 0 ? this.whyEmpty() : "";
    byId("empty-log").hidden = !empty;
    if (empty) set(byId("empty-log"), empty);
  }

  showConnection() {
    const { byId, state, live, source, end, isUnknown, trouble } = this.page;
    const context = { live, ended: end !== null, known: !isUnknown, searching: source instanceof Match, now: Date.now() };
    const said = trouble && state.kind === "open" ? { kind: "waiting", text: trouble } : connection(state, context);
    byId("connection").dataset["kind"] = said.kind;
    set(byId("connection"), said.text);
    if (byId("connection").title !== said.text) byId("connection").title = said.text;
    // Read aloud when it changes, without the seconds that count down.
    set(byId("said"), said.text.replace(/ in \d+ s:/, ":"));
    byId("retry").hidden = state.kind !== "waiting";
  }

  showSummary() {
    const { byId, end, task } = this.page;
    set(byId("summary"), task || this.rows() ? summary(task, end, this.rows()) : "");
    byId("summary").title = proof(task, end);
  }

  /** All that the log has. */
  rows() {
    return Math.max(this.page.task?.end ?? 0, this.page.source?.end ?? 0);
  }

  /** Why there is nothing to see, if that is known. */
  whyEmpty() {
    const { state, problem, task, live, end, isUnknown } = this.page;
    if (state.kind === "refused" || state.kind === "waiting") return state.why;
    if (problem) return problem;
    if (task) return live || end ? NOTHING_YET : "";
    return isUnknown ? NOBODY_YET : "";
  }

  /** What stands there while no key has been answered. */
  resting() {
    const { rows: { marked }, end } = this.page;
    if (marked === null || end === null || marked <= this.rows()) return this.first;
    return `there is no line ${marked.toLocaleString("en")}: the log ends at ${this.rows().toLocaleString("en")}`;
  }

  showHint() {
    if (this.timer === 0) set(this.page.byId("hint"), this.resting());
  }

  /** What a key did. @param {string} text */
  tell(text) {
    set(this.page.byId("hint"), text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.showHint();
    }, TOLD_MS);
  }
}

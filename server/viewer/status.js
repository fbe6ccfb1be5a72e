// The words at the top of a task's page: how the task stands, and how the connection does.

import { count, duration } from "./clock.js";

/** @typedef {import("./api.js").Task} Task */
/** @typedef {import("./stream.js").StreamState} StreamState */
/** @typedef {{ attempt: number, offset: number, status: string, exit_code?: number, lines: number, dropped: number, complete: boolean, completeness?: Completeness }} End */
/** @typedef {{ state: "verified" | "incomplete" | "unproven" | "running", lines?: number, captured?: number, missing?: number, dropped?: number, reason?: string }} Completeness */

/**
 * How a task stands. `lines` are those of the running attempt, `rows` all that the log has.
 * @param {Task | null} task @param {End | null} end @param {number} rows
 */
export function summary(task, end, rows) {
  const attempt = end?.attempt ?? task?.attempt ?? 1;
  const status = end?.status ?? task?.status ?? "";
  const exit = end?.exit_code ?? (end ? undefined : task?.exit_code);
  // The rows of earlier attempts do not change: what came since the record was read are lines of this one.
  const lines = end?.lines ?? (task && task.status !== "running" ? task.lines : rows - (task ? task.end - task.lines : 0));
  const parts = [attempt > 1 ? `${count(lines)} in attempt ${attempt}, ${rows.toLocaleString("en")} rows in all` : count(lines), status];
  if (exit !== undefined) parts.push(`exit code ${exit}`);
  if (lost(task, end)) parts.push(`${count(lost(task, end))} lost`);
  else if (isIncomplete(task, end)) parts.push("incomplete");
  else if (end && completeness(task, end)?.state === "verified") parts.push("verified");
  return parts.filter(Boolean).join(", ");
}

/** @param {Task | null} task @param {End | null} [end] */
const lost = (task, end) => end?.dropped ?? task?.dropped ?? 0;

/** Something of it is missing: it must not look like a success. @param {Task | null} task @param {End | null} [end] */
export function isIncomplete(task, end) {
  const found = end && completeness(task, end)?.state;
  return lost(task, end) > 0 || found === "incomplete" || (end ? !end.complete : task?.complete === false);
}

/** What is missing, in a sentence. @param {Task | null} task @param {End | null} [end] */
export function whatIsMissing(task, end) {
  const many = lost(task, end);
  if (many) return `${count(many, "line was", "lines were")} lost: rows of the log say where, and why`;
  if (end && completeness(task, end)?.state === "incomplete") return proof(task, end);
  return isIncomplete(task, end) ? "incomplete: a process of this task did not say goodbye" : "";
}

/** What the end said, or the task does since: reading many lines back takes longer than the end waits. @param {Task | null} task @param {End} end */
function completeness(task, end) {
  return end.completeness?.state === "running" ? task?.completeness : end.completeness;
}

/** `67 of 67 lines, 0 missing, verified`; why, where it is not. @param {Task | null} task @param {End | null} end */
export function proof(task, end) {
  const found = end && completeness(task, end);
  if (!found) return "";
  const state = { verified: "verified", incomplete: "incomplete", unproven: "not proven", running: "not verified yet" }[found.state];
  const number = (/** @type {number | undefined} */ of) => (of ?? 0).toLocaleString("en");
  const parts = [`${number(found.lines)} of ${count(found.captured ?? 0)}`];
  if (found.dropped) parts.push(`${number(found.dropped)} dropped`);
  parts.push(`${number(found.missing)} missing`, state);
  const said = found.captured === undefined ? state : parts.join(", ");
  return said + (found.reason ? `: ${found.reason}` : "");
}

/** Name, attempt, and how long. @param {Task | null} task @param {number} now ms */
export function about(task, now) {
  if (!task) return "";
  const parts = [];
  if (task.name) parts.push(task.name);
  if (task.attempt > 1) parts.push(`attempt ${task.attempt}`);
  parts.push(duration((task.ended_at ? Date.parse(task.ended_at) : now) - Date.parse(task.started_at)));
  return parts.join(" · ");
}

/** @param {StreamState} state
 * @param {{ live: boolean, ended: boolean, known: boolean, searching: boolean, now: number }} context */
export function connection(state, { live, ended, known, searching, now }) {
  switch (state.kind) {
    case "done":
      return { kind: "ended", text: "ended" };
    case "refused":
      return { kind: "refused", text: `refused: ${state.why}` };
    case "waiting":
      return { kind: "waiting", text: `reconnecting in ${Math.max(0, Math.ceil((state.until - now) / 1000))} s: ${state.why}` };
    case "connecting":
      return { kind: state.why ? "waiting" : "connecting", text: state.why ?? "connecting…" };
    case "paused":
      return { kind: "paused", text: "paused while hidden" };
    case "open":
      if (ended) return { kind: "ended", text: "ended" };
      if (live) return { kind: "live", text: "live" };
      if (searching && known) return { kind: "loading", text: "searching…" };
      return { kind: "loading", text: known ? "reading history…" : "waiting for the first line" };
  }
}

// The words at the top of a task's page: how the task stands, and how the connection does.

import { count, duration } from "./clock.js";

/** @typedef {import("./api.js").Task} Task */
/** @typedef {import("./stream.js").StreamState} StreamState */
/** @typedef {{ attempt: number, status: string, exit_code?: number, lines: number, dropped: number, complete: boolean, completeness?: Completeness }} End */
/** @typedef {{ state: "verified" | "incomplete" | "unproven" | "running", lines?: number, captured?: number, missing?: number, dropped?: number, reason?: string }} Completeness */

/** `67 lines, succeeded, exit code 0`. @param {Task | null} task @param {End | null} end @param {number} lines */
export function summary(task, end, lines) {
  const status = end?.status ?? task?.status ?? "";
  const exit = end?.exit_code ?? (end ? undefined : task?.exit_code);
  const dropped = end?.dropped ?? task?.dropped ?? 0;
  const parts = [count(end?.lines ?? lines), status];
  if (exit !== undefined) parts.push(`exit code ${exit}`);
  if (dropped) parts.push(`${count(dropped)} dropped`);
  const found = end && completeness(task, end)?.state;
  if (found === "verified") parts.push("verified");
  else if (end && (!end.complete || found === "incomplete")) parts.push("incomplete");
  return parts.filter(Boolean).join(", ");
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

/** @param {StreamState} state @param {{ live: boolean, ended: boolean, known: boolean, now: number }} context */
export function connection(state, { live, ended, known, now }) {
  switch (state.kind) {
    case "done":
      return { kind: "ended", text: "ended" };
    case "refused":
      return { kind: "refused", text: `refused: ${state.why}` };
    case "waiting":
      return { kind: "waiting", text: `reconnecting in ${Math.max(0, Math.ceil((state.until - now) / 1000))} s: ${state.why}` };
    case "connecting":
      return { kind: "connecting", text: "connecting…" };
    case "open":
      if (ended) return { kind: "ended", text: "ended" };
      if (live) return { kind: "live", text: "live" };
      return { kind: "loading", text: known ? "reading history…" : "waiting for the first line" };
  }
}

// Where the server answers, and what it answers. Errors are its problem details, as text for people.

import { setClock } from "./clock.js";

/** @typedef {import("./line.js").Line} Line */

/**
 * @typedef {object} Task
 * @property {string} tenant
 * @property {string} task_id
 * @property {number} attempt
 * @property {"running" | "succeeded" | "failed" | "lost"} status
 * @property {string} created_at
 * @property {string} started_at
 * @property {string} [ended_at]
 * @property {number} end
 * @property {number} lines  of this attempt
 * @property {number} floor
 * @property {number} dropped
 * @property {string} [name]
 * @property {number} [exit_code]
 * @property {boolean} [complete]
 * @property {import("./status.js").Completeness} [completeness]
 */

/** @typedef {{ lines: Line[], floor: number, end: number, next_from?: number, next_before?: number }} LinePage */

/** @typedef {Record<string, string | number | undefined>} Query */

/** A refusal: asking again would not help, unless the status says so. */
export class Refusal extends Error {
  /** @param {number} status @param {string} detail */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** @param {string} path below /api/v1/tasks @param {Query} [query] empty values are left out */
export function apiUrl(path, query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") params.set(name, String(value));
  }
  return `/api/v1/tasks${path}${params.size ? `?${params}` : ""}`;
}

/** The address of a task's page. @param {string} taskId @param {string | undefined} tenant */
export function pageUrl(taskId, tenant) {
  const params = new URLSearchParams({ task: taskId });
  if (tenant && tenant !== "default") params.set("tenant", tenant);
  return `/?${params}`;
}

/** What a failed answer says. @param {Response} response */
export async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new Refusal(response.status, body?.detail ?? `the server answered ${response.status} ${response.statusText}`.trim());
}

/** Something else answers here: a login page, a portal, another program. @param {Response} response @param {string} kind */
export function checkKind(response, kind) {
  const found = (response.headers.get("content-type") ?? "nothing").split(";")[0]?.trim();
  if (found !== kind) throw new Foreign(`what answers is not FlowForge Logs: it sent ${found}`);
}

/** An answer that is none of ours. */
export class Foreign extends Error {}

/** An answer that takes longer is given up: its connection may be dead. */
const ANSWER_MS = 20_000;
/** After so long without one, people are told. */
export const LATE_MS = 5_000;
export const LATE = "no answer; too many open tabs of this server?";

/** @param {string} url @param {{ signal?: AbortSignal, late?: () => void }} [options] @returns {Promise<any>} */
export async function getJson(url, { signal, late } = {}) {
  const limit = AbortSignal.timeout(ANSWER_MS);
  const timer = late && setTimeout(late, LATE_MS);
  try {
    const response = await fetch(url, { signal: signal ? AbortSignal.any([signal, limit]) : limit });
    clearTimeout(timer);
    setClock(response.headers.get("date"));
    if (!response.ok) throw await refusal(response);
    checkKind(response, "application/json");
    return await response.json();
  } finally {
    clearTimeout(timer);
  }
}

/** For people. @param {unknown} error */
export function reason(error) {
  if (error instanceof Refusal || error instanceof Foreign) return error.message;
  if (error instanceof DOMException && error.name === "TimeoutError") return `no answer for ${ANSWER_MS / 1000} s`;
  return error instanceof SyntaxError ? "its answer was cut off or changed on the way" : "the server does not answer";
}

// Where the server answers, and what it answers. Errors are its problem details, as text for people.

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
 * @property {number} floor
 * @property {number} dropped
 * @property {string} [name]
 * @property {number} [exit_code]
 * @property {boolean} [complete]
 * @property {import("./status.js").Completeness} [completeness]
 */

/** @typedef {{ lines: Line[], floor: number, end: number, next_from?: number }} LinePage */

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
  return new Refusal(response.status, body?.detail ?? `the server answered ${response.status}`);
}

/** @param {string} url @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function getJson(url, signal) {
  const response = await fetch(url, signal ? { signal } : {});
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** @param {unknown} error */
export function reason(error) {
  if (error instanceof Refusal) return error.message;
  return error instanceof TypeError ? "the server does not answer" : String(error);
}

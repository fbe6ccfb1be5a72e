// Times and numbers as people read them.

const two = (/** @type {number} */ number) => String(number).padStart(2, "0");

/** How far the server's clock is ahead of this one, ms. */
let ahead = 0;

/** A Date header is exact to a second; less than two are no news. @param {string | null} date */
export function setClock(date) {
  const found = Date.parse(date ?? "") + 500 - Date.now();
  if (!Number.isNaN(found)) ahead = Math.abs(found) < 2000 ? 0 : found;
}

/** The time on the server, where the times of tasks come from. ms */
export const serverNow = () => Date.now() + ahead;

/** `14:03:07.125` here. @param {string} time RFC 3339 */
export function timeOfDay(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return "";
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

/** `3 min ago`. @param {string} time @param {number} now ms */
export function ago(time, now) {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** `1 h 04 min`. @param {number} ms */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(Math.floor(seconds % 60))} s`;
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
}

/** @param {number} count @param {string} [one] @param {string} [many] */
export function count(count, one = "line", many = "lines") {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

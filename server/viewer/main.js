// The page: the list of tasks at `/`, the log of one at `/?task=…`.

import { help, onKeys } from "./key.js";
import { escaped } from "./row.js";
import { TaskList } from "./task-list.js";
import { TaskPage } from "./task-page.js";
import { theme } from "./theme.js";

/** @param {string} id */
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

const query = new URLSearchParams(location.search);
const taskId = query.get("task");
const tenant = query.get("tenant") ?? undefined;

theme(byId("theme"));
const openHelp = help(byId("help"), byId("help-button"), byId("help-close"));

/** @param {string} query @param {"value" | "data-status"} attribute */
const choices = (query, attribute) => [...document.querySelectorAll(query)].map((choice) => choice.getAttribute(attribute) ?? "");

/** What the address may say: any text, or one of some. @type {Record<string, string[] | null>} */
const known = taskId
  ? { task: null, tenant: null, q: null, level: choices("#level option", "value"), stream: choices("#stream option", "value") }
  : { tenant: null, text: null, status: choices("#task-status button", "data-status"), task: null };
const strange = [...query].filter(([name, value]) => !Object.hasOwn(known, name) || known[name]?.includes(value) === false);
if (strange.length) {
  const said = strange.map(([name, value]) => escaped(value ? `${name}=${value}` : name));
  byId("hint").textContent = `The address says something that this page does not know: ${[...new Set(said)].join(", ")}`;
}

const home = /** @type {HTMLAnchorElement} */ (document.querySelector("a.home"));
if (tenant) home.href = `/?${new URLSearchParams({ tenant })}`;
for (const other of document.querySelectorAll(taskId ? ".of-home" : ".of-task")) other.remove();

if (taskId) {
  document.title = `${taskId} · FlowForge Logs`;
  byId("title").textContent = tenant ? `${tenant}/${taskId}` : taskId;
  byId("task").hidden = false;
  const page = new TaskPage(taskId, tenant, byId);
  const pane = byId("pane");
  const scroll = (/** @type {number} */ views) => pane.scrollBy(0, pane.clientHeight * views);
  onKeys({
    "/": () => byId("q").focus(),
    "?": openHelp,
    f: () => page.toggleFollow(),
    t: () => page.times.toggle(),
    w: () => page.wrap.toggle(),
    g: () => page.list.toTop(),
    G: () => page.list.toEnd(),
    ArrowDown: () => pane.scrollBy(0, 60),
    ArrowUp: () => pane.scrollBy(0, -60),
    PageDown: () => scroll(0.9),
    PageUp: () => scroll(-0.9),
    " ": (event) => scroll(event.shiftKey ? -0.9 : 0.9),
    Escape: () => page.filter.clear(),
    u: () => home.click(),
    j: () => page.cursor.move(1),
    k: () => page.cursor.move(-1),
    y: () => page.cursor.copy(),
    n: () => page.cursor.match(1),
    N: () => page.cursor.match(-1),
    Home: () => page.list.toTop(),
    End: () => page.list.toEnd(),
  });
} else {
  byId("home").hidden = false;
  const body = /** @type {HTMLElement} */ (byId("tasks").querySelector("tbody"));
  const list = new TaskList(
    {
      text: byId("task-text"), status: byId("task-status"), count: byId("task-count"), body,
      empty: byId("empty"), more: byId("more-tasks"), connection: byId("connection"), said: byId("said"),
    },
    tenant,
  );
  onKeys({
    "/": () => byId("task-text").focus(),
    "?": openHelp,
    j: () => list.move(1),
    k: () => list.move(-1),
    ArrowDown: () => list.move(1),
    ArrowUp: () => list.move(-1),
    Escape: () => list.clear(),
  });
}

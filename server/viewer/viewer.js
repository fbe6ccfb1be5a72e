// @ts-check
// One page: the list of tasks, or the log of one. What comes from a log reaches the document as text only.

const MAX_ROWS = 5000;
const LIST_EVERY_MS = 2000;
const RECONNECT_MS = 1000;

const query = new URLSearchParams(location.search);
const task = query.get("task");
const tenant = query.get("tenant");

/** @param {string} id @returns {HTMLElement} */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {string} path @param {Record<string, string>} [more] */
function api(path, more = {}) {
  const params = new URLSearchParams(more);
  if (tenant) params.set("tenant", tenant);
  return `/api/v1/tasks${path}${params.size ? "?" + params : ""}`;
}

/** Terminal sequences are not text: colours, titles, links and cursor moves are left out. @param {string} text */
const plain = (text) =>
  text.replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]/g, "");

/** @param {string} tag @param {string} text @param {string} [kind] */
function element(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function showTasks() {
  const table = byId("tasks");
  const body = /** @type {HTMLTableSectionElement} */ (table.querySelector("tbody"));
  try {
    const response = await fetch(api("", { limit: "200" }));
    if (!response.ok) throw new Error((await response.json()).detail);
    const { tasks } = await response.json();
    body.replaceChildren(...tasks.map(taskRow));
    table.hidden = tasks.length === 0;
    notice(tasks.length ? "" : "No task has printed yet. Try: flowforge run -- echo hello");
    byId("state").textContent = "";
  } catch (error) {
    byId("state").textContent = `not connected: ${error instanceof Error ? error.message : error}`;
  }
  setTimeout(showTasks, LIST_EVERY_MS);
}

/** @param {any} entry */
function taskRow(entry) {
  const row = document.createElement("tr");
  const link = /** @type {HTMLAnchorElement} */ (element("a", entry.task_id));
  const params = new URLSearchParams({ task: entry.task_id });
  if (tenant) params.set("tenant", tenant);
  link.href = `/?${params}`;
  const cell = document.createElement("td");
  cell.append(link);
  const exit = entry.exit_code ? ` (${entry.exit_code})` : "";
  row.append(
    cell,
    element("td", entry.status + exit, entry.status),
    element("td", entry.end.toLocaleString()),
    element("td", new Date(entry.started_at).toLocaleString()),
    element("td", entry.name ?? ""),
  );
  return row;
}

/** @param {string} text */
function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

class Log {
  constructor() {
    this.list = byId("log");
    this.list.hidden = false;
    this.lastId = "";
    /** Rows of progress bars by producer, stream and id. @type {Map<string, HTMLElement>} */
    this.bars = new Map();
    /** Lines that wait for the next picture, so that a burst is one change of the document. @type {(() => void)[]} */
    this.waiting = [];
    this.following = true;
    this.pane = /** @type {HTMLElement} */ (document.querySelector("main"));
    this.pane.addEventListener("scroll", () => {
      this.following = this.pane.scrollTop + this.pane.clientHeight >= this.pane.scrollHeight - 40;
      byId("follow").hidden = this.following;
    });
    byId("follow").addEventListener("click", () => this.toEnd());
  }

  connect() {
    /** @type {Record<string, string>} */
    const more = this.lastId ? { last_event_id: this.lastId } : {};
    const source = new EventSource(api(`/${encodeURIComponent(task ?? "")}/logs/stream`, more));
    /** @param {string} name @param {(data: any) => void} act */
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        if (event.lastEventId) this.lastId = event.lastEventId;
        const data = JSON.parse(event.data);
        this.later(() => act(data));
      });
    source.onopen = () => this.state("connected");
    on("log", (line) => this.line(line));
    on("frame", (frame) => this.bar(frame, "frame"));
    on("live", () => this.state("live"));
    on("gap", (gap) => this.note(`lines ${gap.from} to ${gap.to} are not here any more (${gap.reason})`));
    on("rollback", ({ to }) => this.rollback(to));
    on("reset", () => this.rollback(0));
    on("end", (end) => {
      source.close();
      const exit = end.exit_code === undefined ? "" : `, exit code ${end.exit_code}`;
      this.state(`${end.status}${exit}, ${end.lines.toLocaleString()} lines${end.complete ? "" : ", incomplete"}`, end.status);
    });
    source.onerror = () => {
      this.state("reconnecting…");
      // The browser comes back by itself, unless the server refused: then we do.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.connect(), RECONNECT_MS);
    };
  }

  /** @param {() => void} change */
  later(change) {
    if (this.waiting.push(change) > 1) return;
    requestAnimationFrame(() => {
      const changes = this.waiting;
      this.waiting = [];
      for (const one of changes) one();
      while (this.list.childElementCount > MAX_ROWS) this.list.firstElementChild?.remove();
      if (this.following) this.toEnd();
    });
  }

  toEnd() {
    this.pane.scrollTop = this.pane.scrollHeight;
  }

  /** @param {any} line */
  line(line) {
    if (line.update_id) {
      this.bar(line, "");
    } else {
      this.list.append(this.row(line, ""));
    }
  }

  /** A progress bar is one row, whatever it showed before. @param {any} line @param {string} kind */
  bar(line, kind) {
    const key = `${line.producer}/${line.stream}/${line.update_id}`;
    const old = this.bars.get(key);
    const row = this.row(line, kind);
    if (old?.isConnected && kind === "frame") row.dataset.offset = old.dataset.offset ?? "";
    if (old?.isConnected) old.replaceWith(row);
    else this.list.append(row);
    this.bars.set(key, row);
  }

  /** @param {any} line @param {string} kind */
  row(line, kind) {
    const row = document.createElement("li");
    row.className = [line.stream, line.level ?? "", kind].join(" ").trim();
    row.dataset.offset = line.offset ?? "";
    row.append(element("span", plain(line.message)));
    return row;
  }

  /** @param {string} text */
  note(text) {
    const row = document.createElement("li");
    row.className = "notice system";
    row.append(element("span", text));
    this.list.append(row);
  }

  /** @param {number} to */
  rollback(to) {
    for (const row of [...this.list.children]) {
      if (Number(/** @type {HTMLElement} */ (row).dataset.offset) > to) row.remove();
    }
    this.note(to ? `the server lost what it had not stored; lines after ${to} come again` : "the log begins anew");
  }

  /** @param {string} text @param {string} [kind] */
  state(text, kind = "") {
    byId("state").textContent = text;
    byId("state").className = kind;
  }
}

if (task) {
  document.title = `${task} · FlowForge Logs`;
  byId("title").textContent = tenant ? `${tenant}/${task}` : task;
  for (const format of ["text", "ndjson"]) {
    /** @type {HTMLAnchorElement} */ (byId(format)).href = api(`/${encodeURIComponent(task ?? "")}/logs/download`, { format });
  }
  byId("links").hidden = false;
  new Log().connect();
} else {
  showTasks();
}

// A connection to a log's events that comes back by itself and always says how it stands.
//
// Not an EventSource: that one is closed for good by a 204, a 404 or a 503, hides when it will come back, and cannot tell
// an idle connection from a dead one. Invariant: the place sent on reconnecting is that of the last event handed on.

import { checkKind, LATE, LATE_MS, reason, refusal } from "./api.js";
import { SseParser } from "./sse.js";

/**
 * @typedef {{ kind: "connecting", why?: string } | { kind: "open" | "done" | "paused" }
 *   | { kind: "waiting", until: number, why: string }
 *   | { kind: "refused", why: string }} StreamState
 */

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
/** The server gives a sign of life every 15 s. */
const SILENCE_MS = 40_000;
/** A connection that lasted so long was a good one. */
const GOOD_MS = 5_000;
/** A browser keeps six HTTP/1.1 connections to a server, over all tabs. One that is not looked at gives its own back. */
const HIDDEN_MS = 4_000;

export class Stream {
  /**
   * @param {string} url
   * @param {{ event: (name: string, data: any) => void, state: (state: StreamState) => void }} handlers
   */
  constructor(url, handlers) {
    this.url = url;
    this.handlers = handlers;
    this.lastId = "";
    this.failures = 0;
    this.running = false;
    this.paused = false;
    /** When the connection gave its first event. ms */
    this.since = Infinity;
    this.connection = new AbortController();
    /** @type {number | undefined} */
    this.timer = undefined;
    /** @type {number | undefined} */
    this.hiding = undefined;
    this.wake = () => this.timer !== undefined && document.visibilityState === "visible" && this.connect();
    this.looked = () => this.seen(document.visibilityState === "visible");
  }

  start() {
    this.stop();
    this.running = true;
    addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.looked);
    void this.connect();
    // A tab may be opened in the background.
    this.seen(document.visibilityState === "visible");
  }

  stop() {
    this.running = this.paused = false;
    for (const timer of [this.timer, this.hiding]) clearTimeout(timer);
    this.timer = this.hiding = undefined;
    this.connection.abort();
    removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.looked);
  }

  /** @param {boolean} isVisible */
  seen(isVisible) {
    clearTimeout(this.hiding);
    this.hiding = undefined;
    if (!isVisible) this.hiding = setTimeout(() => this.pause(), HIDDEN_MS);
    else if (this.paused) void this.connect();
    else this.wake();
  }

  pause() {
    this.hiding = undefined;
    this.paused = true;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.connection.abort();
    this.handlers.state({ kind: "paused" });
  }

  async connect() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.paused = false;
    const connection = (this.connection = new AbortController());
    const isCurrent = () => this.running && !this.paused && this.connection === connection;
    this.since = Infinity;
    this.handlers.state({ kind: "connecting" });
    const late = setTimeout(() => isCurrent() && this.handlers.state({ kind: "connecting", why: LATE }), LATE_MS);
    try {
      const why = await this.read(connection, late);
      if (isCurrent()) this.comeBack(why);
    } catch (error) {
      const why = connection.signal.aborted ? "no sign of life" : reason(error);
      connection.abort();
      if (isCurrent()) this.comeBack(why);
    } finally {
      clearTimeout(late);
    }
  }

  /** Reads until the connection ends; why it did. @param {AbortController} connection @param {number} late */
  async read(connection, late) {
    const headers = new Headers({ Accept: "text/event-stream" });
    if (this.lastId) headers.set("Last-Event-ID", this.lastId);
    const silence = new Silence(() => connection.abort());
    try {
      const response = await fetch(this.url, { headers, cache: "no-store", signal: connection.signal });
      clearTimeout(late);
      if (response.status === 204) return this.finish({ kind: "done" });
      if (!response.ok || !response.body) {
        const refused = await refusal(response);
        const again = refused.status >= 500 || refused.status === 404 || refused.status === 429;
        return again ? refused.message : this.finish({ kind: "refused", why: refused.message });
      }
      checkKind(response, "text/event-stream");
      this.handlers.state({ kind: "open" });
      const parser = new SseParser((event) => connection === this.connection && this.take(event));
      const text = response.body.pipeThrough(new TextDecoderStream());
      for (const reader = text.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done || !this.running) return "the connection ended";
        silence.broken();
        parser.feed(value);
      }
    } finally {
      silence.end();
    }
  }

  /** @param {import("./sse.js").SseEvent} event */
  take({ name, data, id }) {
    if (!this.running || this.paused) return;
    if (data !== null) this.handlers.event(name, JSON.parse(data));
    if (id) this.lastId = id;
    this.since = Math.min(this.since, Date.now());
    if (name === "end") this.finish({ kind: "done" });
  }

  /** @param {StreamState} state */
  finish(state) {
    this.stop();
    this.handlers.state(state);
    return "";
  }

  /** @param {string} why */
  comeBack(why) {
    // One that opens and ends at once is as bad as one that does not open.
    if (Date.now() - this.since >= GOOD_MS) this.failures = 0;
    const longest = Math.min(FIRST_WAIT_MS * 2 ** this.failures, LONGEST_WAIT_MS);
    this.failures += 1;
    // Many viewers lose a server at one moment and should not come back at one moment.
    const wait = longest * (0.6 + 0.4 * Math.random());
    this.handlers.state({ kind: "waiting", until: Date.now() + wait, why });
    this.timer = setTimeout(() => this.connect(), wait);
  }
}

/** Calls when nothing has happened for too long. */
class Silence {
  /** @param {() => void} tooLong */
  constructor(tooLong) {
    this.since = Date.now();
    this.timer = setInterval(() => Date.now() - this.since > SILENCE_MS && tooLong(), SILENCE_MS / 4);
  }

  broken() {
    this.since = Date.now();
  }

  end() {
    clearInterval(this.timer);
  }
}

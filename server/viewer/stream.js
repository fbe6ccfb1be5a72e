// A connection to a log's events that comes back by itself and always says how it stands.
//
// Not an EventSource: that one is closed for good by a 204, a 404 or a 503, hides when it will come back, and cannot tell
// an idle connection from a dead one. Invariant: the place sent on reconnecting is that of the last event handed on.

import { reason, refusal } from "./api.js";
import { SseParser } from "./sse.js";

/**
 * @typedef {{ kind: "connecting" | "open" | "done" }
 *   | { kind: "waiting", until: number, why: string }
 *   | { kind: "refused", why: string }} StreamState
 */

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
/** The server gives a sign of life every 15 s. */
const SILENCE_MS = 40_000;

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
    this.connection = new AbortController();
    /** @type {number | undefined} */
    this.timer = undefined;
    this.wake = () => this.waiting() && document.visibilityState === "visible" && this.connect();
  }

  start() {
    this.running = true;
    addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    void this.connect();
  }

  stop() {
    this.running = false;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.connection.abort();
    removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
  }

  waiting() {
    return this.running && this.timer !== undefined;
  }

  async connect() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const connection = (this.connection = new AbortController());
    this.handlers.state({ kind: "connecting" });
    try {
      const why = await this.read(connection);
      if (this.running && !connection.signal.aborted) this.comeBack(why);
    } catch (error) {
      const why = connection.signal.aborted ? "no sign of life" : reason(error);
      if (this.running && this.connection === connection) this.comeBack(why);
    }
  }

  /** Reads until the connection ends; why it did. @param {AbortController} connection */
  async read(connection) {
    const headers = new Headers({ Accept: "text/event-stream" });
    if (this.lastId) headers.set("Last-Event-ID", this.lastId);
    const silence = new Silence(() => connection.abort());
    try {
      const response = await fetch(this.url, { headers, cache: "no-store", signal: connection.signal });
      if (response.status === 204) return this.finish({ kind: "done" });
      if (!response.ok || !response.body) {
        const refused = await refusal(response);
        const again = refused.status >= 500 || refused.status === 404 || refused.status === 429;
        return again ? refused.message : this.finish({ kind: "refused", why: refused.message });
      }
      this.handlers.state({ kind: "open" });
      const parser = new SseParser((event) => this.take(event));
      const text = response.body.pipeThrough(new TextDecoderStream());
      for (const reader = text.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done || !this.running) return "the connection ended";
        silence.broken();
        this.failures = 0;
        parser.feed(value);
      }
    } finally {
      silence.end();
    }
  }

  /** @param {import("./sse.js").SseEvent} event */
  take({ name, data, id }) {
    if (!this.running) return;
    if (data !== null) this.handlers.event(name, JSON.parse(data));
    if (id) this.lastId = id;
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

// Server-Sent Events, parsed (WHATWG HTML, section 9.2.6). Pure: text in, events out.
// Unlike an EventSource it tells of an id without data too: that is how a filtered stream records its place.

/** @typedef {{ name: string, data: string | null, id: string }} SseEvent */

export class SseParser {
  /** @param {(event: SseEvent) => void} dispatch `id` is the last one seen; `data` is null where only an id came. */
  constructor(dispatch) {
    this.dispatch = dispatch;
    this.rest = "";
    /** Up to here `rest` holds no line break. */
    this.clean = 0;
    this.name = "";
    /** @type {string[]} */
    this.data = [];
    this.id = "";
    this.hasId = false;
    this.begun = false;
  }

  /** @param {string} text the next characters, cut anywhere */
  feed(text) {
    if (!text) return;
    if (!this.begun) {
      this.begun = true;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    const all = this.rest + text;
    let start = 0;
    let scan = this.clean;
    for (;;) {
      const stop = lineEnd(all, scan);
      // A last \r may be the first half of a \r\n.
      if (stop < 0 || (all[stop] === "\r" && stop + 1 === all.length)) {
        this.rest = all.slice(start);
        this.clean = (stop < 0 ? all.length : stop) - start;
        return;
      }
      this.line(all.slice(start, stop));
      start = scan = stop + (all[stop] === "\r" && all[stop + 1] === "\n" ? 2 : 1);
    }
  }

  /** @param {string} line */
  line(line) {
    if (line === "") return this.end();
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") this.name = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id" && !value.includes("\0")) {
      this.id = value;
      this.hasId = true;
    }
  }

  end() {
    const { name, data, hasId } = this;
    this.name = "";
    this.data = [];
    this.hasId = false;
    if (data.length) this.dispatch({ name: name || "message", data: data.join("\n"), id: this.id });
    else if (hasId) this.dispatch({ name: "", data: null, id: this.id });
  }
}

/** @param {string} text @param {number} from */
function lineEnd(text, from) {
  const newline = text.indexOf("\n", from);
  const before = newline < 0 ? text.slice(from) : text.slice(from, newline);
  const carriage = before.indexOf("\r");
  return carriage < 0 ? newline : from + carriage;
}

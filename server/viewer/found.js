// Where a line holds the text that is filtered by, given out piece by piece: a colour may begin within a word.

export class Found {
  /** @param {{ text: string }[]} pieces @param {string} needle in lower case; empty: nothing is to be found */
  constructor(pieces, needle) {
    this.size = needle.length;
    /** @type {number[]} */
    this.places = needle ? places(pieces.map(({ text }) => text).join(""), needle) : [];
    this.next = 0;
    this.at = 0;
  }

  /** What of it is in the next so many characters, from where they begin. @param {number} length */
  take(length) {
    const [begin, end] = [this.at, this.at + length];
    this.at = end;
    /** @type {[number, number][]} */
    const here = [];
    for (; this.next < this.places.length; this.next++) {
      const from = this.places[this.next] ?? 0;
      if (from >= end || length === 0) break;
      here.push([Math.max(from, begin) - begin, Math.min(from + this.size, end) - begin]);
      // It goes on in the next piece.
      if (from + this.size > end) break;
    }
    return here;
  }
}

/** @param {string} text @param {string} needle */
function places(text, needle) {
  const lower = text.toLowerCase();
  /** @type {number[]} */
  const all = [];
  // Where lower case has another length, places do not agree.
  if (lower.length !== text.length) return all;
  for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, at + needle.length)) all.push(at);
  return all;
}

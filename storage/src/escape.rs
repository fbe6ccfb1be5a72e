//! Text without terminal sequences: what a person sees of a line, and so what a search looks through.
//!
//! The rules are those of the viewer (`server/viewer/ansi.js`), so that what is shown is what is found. A string sequence that
//! never ends loses its introducer only. Each character is looked at twice at most, whatever the input.

use std::borrow::Cow;
use std::ops::RangeInclusive;

const ESC: char = '\x1b';

/// The text without its escape sequences; without any, no copy.
pub(crate) fn without_escapes(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(ESC) else { return Cow::Borrowed(text) };
    let mut plain = String::with_capacity(text.len());
    plain.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(sequence) = rest.strip_prefix(ESC) {
        rest = after(sequence);
        let next = rest.find(ESC).unwrap_or(rest.len());
        plain.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    Cow::Owned(plain)
}

/// What follows the sequence that an ESC began.
fn after(sequence: &str) -> &str {
    match sequence.as_bytes().first() {
        Some(b'[') => after_final(skip(&sequence[1..], ' '..='?'), '@'..='~'),
        Some(b']' | b'P' | b'X' | b'^' | b'_') => after_string(&sequence[1..]),
        _ => after_final(skip(sequence, ' '..='/'), '\0'..='~'),
    }
}

fn skip(text: &str, intermediates: RangeInclusive<char>) -> &str {
    text.trim_start_matches(|c| intermediates.contains(&c))
}

/// Without the final character; a sequence that is broken ends before the character that breaks it.
fn after_final(text: &str, finals: RangeInclusive<char>) -> &str {
    text.strip_prefix(|c| c != ESC && finals.contains(&c)).unwrap_or(text)
}

/// A title, a link, a picture: ended by BEL, CAN, SUB or ST.
fn after_string(text: &str) -> &str {
    let Some(end) = text.find(['\x07', '\x18', '\x1a', ESC, '\u{9c}']) else { return text };
    let mut from_end = text[end..].chars();
    match from_end.next() {
        Some(ESC) => from_end.as_str().strip_prefix('\\').unwrap_or(text),
        _ => from_end.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of the viewer's own test.
    #[test]
    fn only_what_is_seen_stays() {
        for (text, seen) in [
            ("plain", "plain"),
            ("\x1b[31mer\x1b[0mror", "error"),
            ("a\x1b[2J\x1b[10;20H\x1b[?25lb", "ab"),
            ("a\x1b]52;c;eA==\x07b\x1b]0;title\x1b\\c\x1bPq#0\x1b\\d\x1b_x\u{9c}e", "abcde"),
            ("\x1b]8;;https://a/\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("a\x1b(B\x1b)0\x1b=\x1b7b", "ab"),
            ("a\x1b", "a"),
            ("a\x1b[", "a"),
            ("a\x1b[31", "a"),
            ("a\x1b[31\x1b[1mb", "ab"),
            ("a\x1b]0;never ends", "a0;never ends"),
            ("a\x1b]0;broken\x1b[1mb", "a0;brokenb"),
            ("a\x1b\u{e9}", "a\u{e9}"),
            ("\u{e9}\x1b[1m\u{4f60}\x1b[m", "\u{e9}\u{4f60}"),
        ] {
            assert_eq!(without_escapes(text), seen, "{text:?}");
        }
        assert!(matches!(without_escapes("no copy"), Cow::Borrowed(_)));
    }

    #[test]
    fn time_grows_with_the_text_and_no_faster() {
        for sequence in ["\x1b", "\x1b]", "\x1b[", "\x1b]8;;", "\x1b(", "\x1b[1;"] {
            let text = sequence.repeat(1_000_000 / sequence.len());
            let started = std::time::Instant::now();
            assert!(without_escapes(&text).len() <= text.len());
            assert!(started.elapsed().as_secs() < 2, "{sequence:?}");
        }
    }
}

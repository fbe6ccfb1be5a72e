//! The part of a text search that ClickHouse does.
//!
//! [`LogFilter::matches`](crate::LogFilter::matches) decides, by Unicode's lower case; no function of ClickHouse agrees with
//! it on every text (`positionCaseInsensitiveUTF8` differs on U+0130, on final sigma, and on bytes that are not UTF-8). So
//! rows are chosen by a part of the needle on which there can be no two opinions, and the rest is looked at here. So is each
//! line with a terminal sequence in it, which may begin within the needle.

use std::fmt::Write as _;

/// A condition that every line passes whose lower-cased text contains the needle, and few others; `None` if there is none.
pub(super) fn superset(lower_needle: &str) -> Option<String> {
    let anchor = lower_needle.split(|c| !is_anchor(c)).max_by_key(|part| part.len())?;
    (!anchor.is_empty()).then(|| {
        format!("(positionCaseInsensitive(message, {}) > 0 OR position(message, char(27)) > 0)", literal(anchor))
    })
}

/// Whether this character of a lower-cased text stands for itself in the bytes of the original, at most with the case of an
/// ASCII letter changed.
fn is_anchor(c: char) -> bool {
    match c {
        // The Kelvin sign and the dotted capital I become these, and the dot that the latter leaves; the replacement character
        // may stand for bytes that are not UTF-8.
        'k' | 'i' | '\u{307}' | char::REPLACEMENT_CHARACTER => false,
        c if c.is_ascii() => true,
        c => c.to_uppercase().eq([c]) && c.to_lowercase().eq([c]),
    }
}

/// Any text as an expression, whatever is in it.
pub(super) fn literal(text: &str) -> String {
    let mut sql = String::with_capacity(2 * text.len() + 9);
    sql.push_str("unhex('");
    for byte in text.bytes() {
        let _ = write!(sql, "{byte:02x}");
    }
    sql.push_str("')");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_character_becomes_an_anchor() {
        for from in ('\0'..=char::MAX).filter(|c| !c.is_ascii()) {
            let lower: Vec<char> = from.to_lowercase().collect();
            if lower != [from] {
                let wrong: Vec<_> = lower.iter().filter(|to| is_anchor(**to)).collect();
                assert!(wrong.is_empty(), "{from:?} becomes {wrong:?}");
            }
        }
        // In a word's middle and at its end it has two lower cases, neither of which may be relied on.
        assert!(!is_anchor('\u{3c3}') && !is_anchor('\u{3c2}'));
    }

    #[test]
    fn the_longest_part_is_searched() {
        for (needle, part) in [("timeout", "meout"), ("ok", "o"), ("\u{3c3}\u{4f60}\u{597d}", "\u{4f60}\u{597d}")] {
            let expected = format!("positionCaseInsensitive(message, {}) > 0 OR ", literal(part));
            let found = superset(needle).unwrap();
            assert!(found.contains(&expected), "{needle}: {found}");
        }
        assert_eq!(literal("meout"), "unhex('6d656f7574')");
        assert_eq!(superset("ki"), None);
        assert_eq!(superset("\u{e9}"), None);
    }
}

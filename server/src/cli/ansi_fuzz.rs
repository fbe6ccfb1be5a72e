//! Hostile lines, for `tests/fuzz` and the tests: whatever a log holds, it cannot drive the terminal that it is shown on.

use serde_json::json;

use super::render::{Line, Printer, Style};

/// A log that shows every style: by the bits of its first byte.
const COLOURS: u8 = 1;
const STAMPS: u8 = 2;
const SYSTEM: u8 = 4;
const CONTINUED: u8 = 8;

/// The body of the target `ansi`: the first byte is the style, each text up to a 0 byte is a line.
pub(crate) fn ansi(input: &[u8]) {
    let Some((how, text)) = input.split_first() else { return };
    let texts: Vec<_> = text.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let has = |bit| how & bit != 0;
    let style = Style { terminal: true, colours: has(COLOURS), timestamps: has(STAMPS), offsets: has(STAMPS) };
    let mut printer = Printer::new(Vec::new(), style);
    for text in &texts {
        let stream = if has(SYSTEM) { "system" } else { "stderr" };
        let json = json!({
            "offset": 7, "stream": stream, "message": text, "time": text, "producer": text,
            "severity": how, "continued": has(CONTINUED), "no_newline": !has(COLOURS),
        })
        .to_string();
        let line: Line<'_> = serde_json::from_str(&json).expect("a line");
        printer.line(&line).expect("memory takes all");
        json_is_harmless(&json);
    }
    printer.finish().expect("memory takes all");
    let printed = String::from_utf8(printer.into_inner()).expect("text");
    check(&printed, has(COLOURS), texts.len());
    // The text, perhaps the time as well, and a few bytes a line for colours and the offset.
    let most = 2 * texts.iter().map(|text| text.len()).sum::<usize>() + 64 * texts.len();
    assert!(printed.len() <= most, "{} bytes of {most}", printed.len());
}

/// Text, tabs, one line break for each line, and colours if they are wanted.
fn check(printed: &str, colours: bool, lines: usize) {
    let mut rest = printed;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t' && c != '\n') {
        rest = rest[at..].strip_prefix("\x1b[").expect("no control character but that of a colour");
        assert!(colours, "colours that nobody wanted");
        rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';' || c == ':');
        rest = rest.strip_prefix('m').expect("no sequence but a colour");
    }
    assert!(printed.matches('\n').count() <= lines, "a line cannot make another");
    assert!(printed.ends_with('\n'), "nor stay open");
    assert!(!colours || printed.rfind('\x1b').is_none_or(|at| printed[at..].starts_with("\x1b[0m")), "colours end");
}

/// The same line as JSON shows nothing but text, and means the same.
fn json_is_harmless(json: &str) {
    let mut printer = Printer::new(Vec::new(), Style { terminal: true, ..Style::default() });
    printer.json(json).expect("memory takes all");
    let printed = String::from_utf8(printer.into_inner()).expect("text");
    let line = printed.strip_suffix('\n').expect("a line");
    assert!(!line.contains(char::is_control));
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(parse(line), parse(json));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::render::safe;
    use super::*;
    use crate::replay;

    #[test]
    fn a_hostile_line_cannot_drive_a_terminal() {
        replay::replay("ansi", 20_000, ansi);
    }

    /// The fastest of a few, so that a busy machine does not count.
    fn fastest(text: &str) -> Duration {
        let time = || {
            let began = Instant::now();
            std::hint::black_box(safe(std::hint::black_box(text), true));
            began.elapsed()
        };
        (0..5).map(|_| time()).min().unwrap_or_default()
    }

    /// Fifty times the text takes about fifty times the time, and not two thousand times.
    #[test]
    fn hostile_text_takes_linear_time() {
        for hostile in ["\x1b]\x07", "\x1b]\x1b\\", "\x1b]\u{9c}", "\x1b]", "\x1b[", "\x1b[31m", "\u{9b}", "\x1bP\x1b"]
        {
            let (short, long) = (hostile.repeat(2_000), hostile.repeat(100_000));
            let (short, long) = (fastest(&short), fastest(&long));
            assert!(long < short * 600 + Duration::from_millis(20), "{hostile:?}: {short:?}, then {long:?}");
        }
    }

    /// `cargo test -p flowforge-server --lib writes_the_ansi_seeds -- --ignored`
    #[test]
    #[ignore = "makes the corpus"]
    fn writes_the_ansi_seeds() {
        let seeds = [
            ("colours", b"\x01\x1b[1;31mred\x1b[0m\x00plain\ttab\r\n".to_vec()),
            ("stamps", b"\x03text\x00more".to_vec()),
            ("strings", b"\x01\x1b]0;title\x07a\x1bPq\x1b\\b\x1b_c\xc2\x9cd\x1b]8;;http://h\x1b\\".to_vec()),
            ("cut", b"\x09\x1b[31\x00\x1b\x00\x1b]\x00\xc2\x9b".to_vec()),
            ("system", b"\x04\x1bc\x08\x7f\xc2\x85end".to_vec()),
            ("moves", b"\x01\x1b[2J\x1b[?25l\xc2\x9b3A\x1b[>1m\x1b[38:5:9mx".to_vec()),
        ];
        replay::write_seeds("ansi", &seeds);
    }
}

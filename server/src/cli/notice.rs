//! What we say ourselves on standard error: short, marked as ours, coloured only for people.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use super::render::safe;

/// The terminal is in raw mode: a line has to return the carriage itself.
static RAW_TERMINAL: AtomicBool = AtomicBool::new(false);

/// To be told when the terminal enters or leaves raw mode.
pub(super) fn set_raw_terminal(raw: bool) {
    RAW_TERMINAL.store(raw, Ordering::Relaxed);
}

/// Whether to colour what goes to a terminal: <https://no-color.org>.
pub(super) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Something to know.
pub(super) fn info(text: &str) {
    say(text, "2");
}

/// Something to worry about.
pub(super) fn warning(text: &str) {
    say(text, "33");
}

/// Why we stop.
pub(super) fn error(text: &str) {
    say(text, "31");
}

fn say(text: &str, sgr: &str) {
    let end = if RAW_TERMINAL.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
    // It may quote a server or a file name: no control characters.
    let lines: Vec<_> = text.trim_end().split('\n').map(|line| safe(line, false)).collect();
    let text = lines.join(&format!("{end}  "));
    let line = if stderr().is_terminal() && colours_wanted() {
        format!("\x1b[{sgr}mflowforge: {text}\x1b[0m{end}")
    } else {
        format!("flowforge: {text}{end}")
    };
    // Nobody to tell, if even this fails.
    let _ = stderr().lock().write_all(line.as_bytes());
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 line`, `1,234 lines`.
pub(super) fn lines(number: u64) -> String {
    format!("{} {}", grouped(number), if number == 1 { "line" } else { "lines" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([lines(1), lines(2)], ["1 line", "2 lines"]);
    }
}

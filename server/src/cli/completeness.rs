//! `12,345 of 12,345 lines, 0 missing, verified`: the last word on a task, for a person.

use std::fmt;

use serde::Deserialize;

use super::notice;

/// What the server found, in the shape of its JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Completeness {
    state: String,
    lines: u64,
    captured: u64,
    missing: u64,
    dropped: u64,
    reason: String,
}

impl From<&flowforge_client::Completeness> for Completeness {
    fn from(of: &flowforge_client::Completeness) -> Self {
        let flowforge_client::Completeness { state, lines, captured, missing, dropped, reason } = of.clone();
        Self { state: state.to_owned(), lines, captured, missing, dropped, reason }
    }
}

impl Completeness {
    /// Says it; what is known to be wrong as a warning, the rest unless `quiet`.
    pub(super) fn tell(&self, quiet: bool) {
        match self.state.as_str() {
            "incomplete" => notice::warning(&self.to_string()),
            _ if quiet => {}
            _ => notice::info(&self.to_string()),
        }
    }
}

impl fmt::Display for Completeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state.as_str() {
            "unproven" => "not proven",
            "running" => "not verified yet",
            state => state,
        };
        // Without a number nothing was read, or there is nothing: the reason tells.
        if self.captured > 0 || self.reason.is_empty() {
            write!(f, "{} of {}", notice::grouped(self.lines), notice::lines(self.captured))?;
            if self.dropped > 0 {
                write!(f, ", {} dropped", notice::grouped(self.dropped))?;
            }
            write!(f, ", {} missing, ", notice::grouped(self.missing))?;
        }
        f.write_str(state)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_a_person() {
        let said = |json: &str| serde_json::from_str::<Completeness>(json).expect("JSON").to_string();
        let verified = r#"{"state":"verified","lines":12345,"captured":12345,"missing":0,"dropped":0}"#;
        assert_eq!(said(verified), "12,345 of 12,345 lines, 0 missing, verified");
        let incomplete =
            r#"{"state":"incomplete","lines":1,"captured":4,"missing":1,"dropped":2,"reason":"seq 2 is not stored"}"#;
        assert_eq!(said(incomplete), "1 of 4 lines, 2 dropped, 1 missing, incomplete: seq 2 is not stored");
        let unproven = r#"{"state":"unproven","lines":1,"captured":1,"reason":"no"}"#;
        assert_eq!(said(unproven), "1 of 1 line, 0 missing, not proven: no");
        assert_eq!(said(r#"{"state":"running","reason":"it takes long"}"#), "not verified yet: it takes long");
    }
}

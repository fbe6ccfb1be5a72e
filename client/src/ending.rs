//! How a stream to the server comes to its end, and what the server's status means.

use std::time::Duration;

use tonic::{Code, Status};

/// How a server says when to try again, in milliseconds (gRPC's retry design, A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A server that asks for more is not obeyed: lines would wait for it.
const WAIT_MOST: Duration = Duration::from_secs(30);

/// Why a stream ended, and what follows from it.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The Close is stored.
    Closed,
    /// Another stream is this producer now.
    Fenced(String),
    /// Saying the same again cannot help.
    Refused(String),
    /// Say Hello again.
    Retry {
        reason: String,
        /// The server took something: it is well.
        progress: bool,
        /// The cause is removed: no need to wait.
        at_once: bool,
        /// The server asks to be left alone for so long.
        not_before: Duration,
        /// The server took offence at something that is not one line.
        refused: bool,
    },
}

pub(crate) fn retry(reason: impl Into<String>) -> SessionEnd {
    retry_after(reason, Duration::ZERO)
}

fn retry_after(reason: impl Into<String>, not_before: Duration) -> SessionEnd {
    SessionEnd::Retry { reason: reason.into(), progress: false, at_once: false, not_before, refused: false }
}

/// Where the fault is the server's: when it wants to be asked again, if it says so.
pub(crate) fn retry_as_told(status: &Status) -> SessionEnd {
    let told = status.metadata().get(RETRY_PUSHBACK).and_then(|value| value.to_str().ok()?.parse().ok());
    retry_after(describe(status), told.map_or(Duration::ZERO, Duration::from_millis).min(WAIT_MOST))
}

/// Before Welcome only the Hello can be at fault, and it will not change.
pub(crate) fn classify_opening(status: &Status) -> SessionEnd {
    match status.code() {
        Code::Aborted => SessionEnd::Fenced(describe(status)),
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => SessionEnd::Refused(describe(status)),
        _ => retry_as_told(status),
    }
}

pub(crate) fn describe(status: &Status) -> String {
    let detail = std::error::Error::source(status).map(innermost);
    let message = if status.message().is_empty() { detail.unwrap_or_default() } else { status.message().to_owned() };
    if is_not_grpc(&message) {
        return "what answers there does not speak gRPC; is it the HTTP port? gRPC is on 50051 by default".to_owned();
    }
    format!("{}: {message}", status.code().description())
}

/// An HTTP server's error page, read as gRPC.
fn is_not_grpc(message: &str) -> bool {
    message.contains("invalid compression flag") || message.contains("grpc-status header missing")
}

/// The cause at the bottom says what happened ("Connection refused"); the layers above say "transport error".
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The sequence number that a refusal names: "… seq 17 …".
pub(crate) fn refused_seq(message: &str) -> Option<u64> {
    message.match_indices("seq").find_map(|(at, word)| {
        let rest = message[at + word.len()..].trim_start_matches([' ', '=', ':']);
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest[..digits].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_number_is_read_from_the_message() {
        assert_eq!(refused_seq("entry with seq 17: level 99 is above 24"), Some(17));
        assert_eq!(refused_seq("entry seq=4 is too large"), Some(4));
        assert_eq!(refused_seq("the sequence is wrong at seq 9"), Some(9));
        assert_eq!(refused_seq("no number at all"), None);
    }

    #[test]
    fn a_server_that_asks_for_time_is_given_it() {
        let waits = |told: Option<&'static str>| {
            let mut status = Status::resource_exhausted("full");
            if let Some(told) = told {
                status.metadata_mut().insert(RETRY_PUSHBACK, told.parse().unwrap());
            }
            let SessionEnd::Retry { not_before, .. } = retry_as_told(&status) else { panic!("not tried again") };
            not_before
        };
        assert_eq!(waits(None), Duration::ZERO);
        assert_eq!(waits(Some("2000")), Duration::from_secs(2));
        assert_eq!(waits(Some("999999999")), WAIT_MOST);
        assert_eq!(waits(Some("-1")), Duration::ZERO);
    }
}

//! Wall-clock readings and their text form. Order never depends on them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since 1970 now. A clock before 1970 reads 0.
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339, UTC, from milliseconds.
pub fn rfc3339_ms(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// RFC 3339, UTC, from nanoseconds.
pub fn rfc3339_ns(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

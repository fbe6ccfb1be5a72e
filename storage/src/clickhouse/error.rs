//! What ClickHouse's exception codes mean for the caller.

use clickhouse::error::Error;
use rustls::CertificateError;

use crate::error::{ErrorKind, StoreError};

/// Exception codes (`src/Common/ErrorCodes.cpp`) that are the fault of the row itself: text, number or type out of what the
/// column holds, or a constraint that somebody put on the table.
const ROW_FAULTS: [u32; 10] = [6, 27, 41, 53, 69, 70, 72, 117, 131, 469];

/// Unknown or wrong user and password.
const AUTHENTICATION: [u32; 5] = [192, 193, 194, 516, 519];
const ACCESS_DENIED: u32 = 497;
const UNKNOWN_DATABASE: u32 = 81;
const READONLY: u32 = 164;
const BAD_CLUSTER: [u32; 3] = [170, 139, 701];

/// What the native port answers to a request by HTTP.
const NATIVE_PORT_WORDS: &str = "is for clickhouse-client program";

/// The exception's code: `Code: 60. DB::Exception: …`.
pub(super) fn code(error: &Error) -> Option<u32> {
    let Error::BadResponse(text) = error else { return None };
    let digits = text.split("Code: ").nth(1)?;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// Whether another host may do better: this one cannot be reached, does not answer in time, or hides behind a proxy that
/// cannot reach it.
pub(super) fn is_away(error: &Error) -> bool {
    match error {
        Error::Network(_) | Error::TimedOut => true,
        Error::BadResponse(text) => ["502 ", "503 ", "504 "].iter().any(|status| text.starts_with(status)),
        _ => false,
    }
}

/// Whether the server at the other end speaks ClickHouse's native protocol.
pub(super) fn is_native_port(error: &Error) -> bool {
    error.to_string().contains(NATIVE_PORT_WORDS)
}

/// An error of a request at run time. Never the fault of a row, and never for good: lines must not be given up for it.
pub(super) fn failed(what: &'static str, error: Error) -> StoreError {
    StoreError::new(ErrorKind::Unavailable, what, error)
}

/// An error of an insert of lines. Only here a row can be to blame.
pub(super) fn insert_failed(what: &'static str, error: Error) -> StoreError {
    let is_row_fault = code(&error).is_some_and(|code| ROW_FAULTS.contains(&code));
    let kind = if is_row_fault { ErrorKind::Rejected } else { ErrorKind::Unavailable };
    StoreError::new(kind, what, error)
}

/// The row can never be stored.
pub(super) fn rejected(what: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Rejected, what, "the value is out of range for this store")
}

/// A stored value that this version cannot have written.
pub(super) fn unreadable(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::new(ErrorKind::Unavailable, what, source)
}

/// The configuration is wrong; the context says what to do.
pub(super) fn misconfigured(
    context: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::new(ErrorKind::Misconfigured, context, source)
}

/// An error while the store is opened. `hosts`, `user` and `database` are as configured.
pub(super) fn opening(hosts: &str, user: &str, database: &str, error: Error) -> StoreError {
    if is_native_port(&error) {
        return misconfigured(native_port_hint(hosts), error);
    }
    if let Some(why) = untrusted(&error) {
        return misconfigured(untrusted_hint(hosts, why), error);
    }
    let context = match code(&error) {
        Some(code) if AUTHENTICATION.contains(&code) => format!(
            "ClickHouse at {hosts} refuses user {user:?}. Set clickhouse.user and clickhouse.password (or FLOWFORGE__CLICKHOUSE__PASSWORD)"
        ),
        Some(ACCESS_DENIED) => format!(
            "user {user:?} of ClickHouse at {hosts} lacks a right. Grant it all on {database}.*: GRANT ALL ON {database}.* TO {user}"
        ),
        Some(UNKNOWN_DATABASE) => format!(
            "database {database} is not there, and user {user:?} may not create it. Create it, or name another in clickhouse.database"
        ),
        Some(READONLY) => {
            format!("user {user:?} of ClickHouse at {hosts} may only read. Set clickhouse.user to one that may write")
        }
        Some(code) if BAD_CLUSTER.contains(&code) => {
            format!("ClickHouse at {hosts} does not know the cluster of clickhouse.cluster, or has no Keeper for it")
        }
        None if mentions_native_port(hosts) => native_port_hint(hosts),
        _ => {
            let root = causes(&error).last().map_or_else(String::new, ToString::to_string);
            let context =
                format!("cannot open ClickHouse at {hosts} ({root}). See that it runs, or set clickhouse.hosts");
            return StoreError::new(ErrorKind::Unavailable, context, error);
        }
    };
    misconfigured(context, error)
}

/// An error and what caused it, the outermost first. What is inside of an `io::Error` is not among its sources.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inside.map(|inside| inside as &(dyn std::error::Error + 'static)).or_else(|| error.source())
    })
}

/// Why TLS does not trust the server, if that is the error.
fn untrusted(error: &Error) -> Option<&CertificateError> {
    causes(error).find_map(|cause| match cause.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why),
        _ => None,
    })
}

fn untrusted_hint(hosts: &str, why: &CertificateError) -> String {
    let advice = match why {
        CertificateError::UnknownIssuer => "Name its authority's certificate in clickhouse.ca_file",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "Write the host in clickhouse.hosts as its certificate has it"
        }
        _ => "See that the certificate is in order",
    };
    format!("the certificate of ClickHouse at {hosts} is not trusted: {why}. {advice}")
}

/// Whether a host is given with a port that is ClickHouse's for native TCP unless somebody changed it.
fn mentions_native_port(hosts: &str) -> bool {
    hosts.split(", ").any(|host| host.ends_with(":9000") || host.ends_with(":9440"))
}

fn native_port_hint(hosts: &str) -> String {
    format!(
        "clickhouse.hosts is {hosts}: 9000 is the port of ClickHouse's native protocol. flowforge speaks HTTP, whose port is 8123 unless somebody changed it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(text: &str) -> Error {
        Error::BadResponse(text.to_owned())
    }

    #[test]
    fn only_a_rows_own_fault_is_rejected() {
        let kind = |text: &str| insert_failed("insert", exception(text)).kind();
        assert_eq!(kind("Code: 469. DB::Exception: Constraint `c` is violated at row 1"), ErrorKind::Rejected);
        assert_eq!(kind("Code: 131. DB::Exception: Too large string size"), ErrorKind::Rejected);
        for passing in [
            "Code: 252. DB::Exception: Too many parts (3000)",
            "Code: 241. DB::Exception: Memory limit exceeded",
            "Code: 242. DB::Exception: Table is in readonly mode",
            "Code: 999. DB::Exception: Session expired (Keeper)",
            "Code: 202. DB::Exception: Too many simultaneous queries",
            "Code: 516. DB::Exception: default: Authentication failed",
            "Code: 33. DB::Exception: Cannot read all data",
            "Code: 60. DB::Exception: Table x does not exist",
            "500 Internal Server Error",
        ] {
            assert_eq!(kind(passing), ErrorKind::Unavailable, "{passing}");
        }
        assert_eq!(insert_failed("insert", Error::TimedOut).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn what_a_person_must_mend_is_said_at_the_start() {
        let words = |text: &str| {
            let error = opening("http://db:8123", "ff", "logs", exception(text));
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
            error.to_string()
        };
        assert!(words("Code: 516. DB::Exception: ff: Authentication failed").contains("clickhouse.password"));
        assert!(words("Code: 497. DB::Exception: Not enough privileges").contains("GRANT ALL ON logs.* TO ff"));
        assert!(words("Code: 81. DB::Exception: Database logs does not exist").contains("clickhouse.database"));
        assert!(
            words("Port 9000 is for clickhouse-client program\r\nYou must use port 8123 for HTTP.").contains("8123")
        );
        let error = opening("http://db:9000", "ff", "logs", Error::TimedOut);
        assert!(error.to_string().contains("8123"), "{error}");
        assert!(opening("http://db:8123", "ff", "logs", Error::TimedOut).is_retryable());
    }
}

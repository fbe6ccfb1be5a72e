//! What PostgreSQL's error codes mean for the caller (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use std::io;

use sqlx::postgres::PgDatabaseError;

use crate::error::{ErrorKind, StoreError};

/// What every statement may fail with.
pub(super) type SqlResult<T> = Result<T, sqlx::Error>;

/// An error at run time. Only the row's own fault is [`ErrorKind::Rejected`]: whatever else fails (connection lost, server
/// going down, too many connections, deadlock, disk full, read-only, out of time) may pass, and the lines must not be given
/// up for it.
pub(super) fn failed(what: &'static str, error: sqlx::Error) -> StoreError {
    let kind = if is_row_at_fault(&error) { ErrorKind::Rejected } else { ErrorKind::Unavailable };
    StoreError::new(kind, what, error)
}

fn is_row_at_fault(error: &sqlx::Error) -> bool {
    if is_partition_missing(error) {
        return false;
    }
    match code(error) {
        // Data exceptions, broken constraints, limits of the program, and what a trigger raises.
        Some(code) => ["22", "23", "54"].contains(&&code[..2.min(code.len())]) || code == "P0001",
        None => matches!(error, sqlx::Error::Encode(_)),
    }
}

/// A line's day has no partition. The code is that of a broken CHECK, so the place that raised it must tell.
pub(super) fn is_partition_missing(error: &sqlx::Error) -> bool {
    let database = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    database.is_some_and(|error| error.code() == "23514" && error.routine() == Some("ExecFindPartition"))
}

/// Somebody else holds a lock for longer than we may wait, or waits for one of ours.
pub(super) fn is_lock_missed(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "55P03" || code == "40P01")
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// The row can never be stored: a value does not fit into the schema.
pub(super) fn rejected(what: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Rejected, what, "the value is out of range for PostgreSQL")
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

const DO_NOT_AGREE: &str = "and this server do not agree on TLS. Check sslmode and sslrootcert in postgres.url";

/// An error at start-up. `place` is where we connect to, without the password.
pub(super) fn opening(place: &str, error: sqlx::Error) -> StoreError {
    let advice = match (code(&error).as_deref(), &error) {
        (Some("28P01" | "28000"), _) => {
            "lets this user not in. Check user and password in postgres.url (or PGUSER, PGPASSWORD, ~/.pgpass), and pg_hba.conf on the server"
        }
        (Some("3D000"), _) => {
            "does not have this database. Create it (CREATE DATABASE … OWNER …), or set postgres.url to another one"
        }
        (Some("42501"), _) => {
            "does not let this user make tables. Make it owner of the database, or GRANT CREATE ON SCHEMA … TO it"
        }
        (Some("3F000"), _) => {
            "has no schema to make tables in. Create one, or set search_path in postgres.url (options[search_path]=…)"
        }
        (Some("42P07"), _) => {
            "has tables of the same names that are not flowforge's. Set postgres.url to a database of its own"
        }
        (None, sqlx::Error::Tls(_)) => DO_NOT_AGREE,
        (None, sqlx::Error::Io(io)) if is_of_tls(io) => DO_NOT_AGREE,
        (None, sqlx::Error::Configuration(_)) => "cannot be connected to with this postgres.url",
        _ => return unavailable(place, error),
    };
    misconfigured(format!("PostgreSQL at {place} {advice}"), error)
}

/// A handshake's failure comes as one of reading.
fn is_of_tls(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<rustls::Error>())
}

fn unavailable(place: &str, error: sqlx::Error) -> StoreError {
    let advice = match &error {
        sqlx::Error::Io(io) if matches!(io.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            ". Start the server, or set postgres.url to where it listens"
        }
        _ => "",
    };
    StoreError::new(ErrorKind::Unavailable, format!("cannot reach PostgreSQL at {place}{advice}"), error)
}

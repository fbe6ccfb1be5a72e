//! What SQLite's result codes mean for the caller.

use std::path::Path;

use crate::error::{ErrorKind, StoreError};

/// Primary result codes (<https://www.sqlite.org/rescode.html>) that are the fault of the row itself.
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const RANGE: u32 = 25;

/// Those that a wrong path or file gives at start-up.
const READONLY: u32 = 8;
const CORRUPT: u32 = 11;
const CANTOPEN: u32 = 14;
const NOTADB: u32 = 26;

/// An error at run time. Only the row's own fault is [`ErrorKind::Rejected`]: whatever else fails (busy, full, I/O, a pool
/// that has no connection in time) may pass, and the lines must not be given up for it.
pub(super) fn failed(what: &'static str, error: sqlx::Error) -> StoreError {
    let kind = match primary_code(&error) {
        Some(TOOBIG | CONSTRAINT | MISMATCH | RANGE) => ErrorKind::Rejected,
        _ => ErrorKind::Unavailable,
    };
    StoreError::new(kind, what, error)
}

/// The row can never be stored: a value does not fit into the schema.
pub(super) fn rejected(what: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Rejected, what, "the value is out of range for SQLite")
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

/// An error while the file is opened.
pub(super) fn opening(path: &Path, error: sqlx::Error) -> StoreError {
    let file = path.display();
    let context = match primary_code(&error) {
        Some(NOTADB) => {
            format!("{file} is not a SQLite database. Move it away, or set sqlite.path to another file")
        }
        Some(CORRUPT) => {
            format!("the database {file} is damaged. Restore it from a backup, or set sqlite.path to another file")
        }
        Some(READONLY | CANTOPEN) => {
            format!(
                "the database {file} cannot be opened for writing. Give this user write access to it and to its folder, or set sqlite.path to another file"
            )
        }
        _ => return StoreError::new(ErrorKind::Unavailable, format!("cannot open the database {file}"), error),
    };
    misconfigured(context, error)
}

/// The low byte of the extended result code.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

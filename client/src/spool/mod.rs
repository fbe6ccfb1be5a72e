//! The spool: what a producer has captured and the server has not stored survives the producer's death.
//!
//! Each producer has one file: a ring of records in a shared mapping, written on the capturing thread before a push returns,
//! and before it the text of lines that have not ended.
//! The kernel keeps it whatever becomes of the process: SIGKILL, `_exit`, a segmentation fault. It does not survive the
//! machine's own death: nothing is fsynced. A file whose owner is gone is uploaded later with the owner's id, so that the
//! server leaves out what it has.
//!
//! - `map`: the mapping; a child of `fork` cannot write to its parent's.
//! - `sys`: disk space and locks. `dir`: names.
//! - `format`: the bytes. `ring`: writing, reading back, giving way. `recover`: what a dead producer left.
//! - `open`: what is printed and has not become a line yet.
//! - `dead`: taking over a file. `upload`: sending it.

mod dead;
pub(crate) mod death;
mod dir;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod map;
pub(crate) mod open;
pub(crate) mod recover;
pub(crate) mod ring;
mod sys;
mod upload;

use std::path::{Path, PathBuf};

pub use dead::{Contents, DeadSpool, Found, Unreadable, find};
pub use dir::run_dir;
pub use format::FormatError;
pub(crate) use format::Kind;
pub(crate) use format::Meta;
pub use recover::Damage;
pub use upload::{Observer, Summary, Upload, Uploaded, upload, upload_all, upload_in_background};

/// How large a producer's file may become.
pub const DEFAULT_BYTES: u64 = 64 << 20;

/// Where a producer keeps its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Made if it is not there, for this user alone.
    pub dir: PathBuf,
    /// How large the ring may become; it takes disk space as it needs it, in steps: 256 KiB, then four times as much each.
    pub bytes: u64,
}

impl SpoolConfig {
    /// A directory, and the default size.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), bytes: DEFAULT_BYTES }
    }
}

/// `$XDG_STATE_HOME/flowforge/spool`, else `~/.local/state/flowforge/spool`, else one per user in the temporary directory.
pub fn default_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(state) => state.join("flowforge/spool"),
        None => std::env::temp_dir().join(format!("flowforge-spool-{}", rustix::process::getuid().as_raw())),
    }
}

/// What a setting says: `off`, `0` and nothing are no directory, `on` and `1` the default one.
pub fn dir_of_setting(setting: &str) -> Option<PathBuf> {
    match setting {
        "" | "off" | "0" | "false" | "no" => None,
        "on" | "1" | "true" | "yes" => Some(default_dir()),
        path => Some(std::path::absolute(Path::new(path)).unwrap_or_else(|_| path.into())),
    }
}

/// `1048576`, `64KiB`, `64MiB`, `1GiB`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let factor = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

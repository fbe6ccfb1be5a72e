//! The directory: what files are called, and which of them are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flowforge_proto::v1;

/// Of whole files.
const EXTENSION: &str = "spool";
/// Of files that are being made.
pub(crate) const NEW: &str = "new";
/// Of a supervised command's own directory.
const RUN: &str = "run";
/// Directories in directories, as supervisors in supervisors make them.
const MAX_DEPTH: usize = 8;

/// `<task>.<producer>.<process>.spool`. The process is in the name, because a process that opens a file of its own and
/// closes it again would lose its lock on it.
pub(crate) fn file_name(hello: &v1::Hello) -> String {
    let task: String = hello.task_id.chars().take(80).collect();
    let producer = hello.producer.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{task}.{producer:032x}.{:016x}.{EXTENSION}", process_tag())
}

/// The directory for what a supervised command's own producers leave.
pub fn run_dir(dir: &Path, producer: [u8; 16]) -> PathBuf {
    dir.join(format!("{:032x}.{RUN}", u128::from_be_bytes(producer)))
}

/// Names this process: the process id above, random bits below.
fn process_tag() -> u64 {
    static TAG: AtomicU64 = AtomicU64::new(0);
    let pid = u64::from(std::process::id());
    let known = TAG.load(Ordering::Relaxed);
    if known >> 32 == pid {
        return known;
    }
    let tag = pid << 32 | u64::from(fastrand::u32(..));
    match TAG.compare_exchange(known, tag, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => tag,
        Err(other) => other,
    }
}

/// The files of others, oldest first. A directory that is not there has none.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(dir, MAX_DEPTH, &mut found)?;
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn collect(dir: &Path, depth: usize, found: &mut Vec<(std::time::SystemTime, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let own = format!(".{:016x}.{EXTENSION}", process_tag());
    for entry in entries.flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        let is_a = |extension: &str| path.extension().is_some_and(|of| of == extension);
        if meta.is_dir() && is_a(RUN) && depth > 0 {
            // One that goes away meanwhile is empty.
            let _ = collect(&path, depth - 1, found);
            let _ = fs::remove_dir(&path);
        }
        if meta.is_file() && is_a(EXTENSION) && !entry.file_name().to_string_lossy().ends_with(&own) {
            found.push((meta.modified().unwrap_or(std::time::UNIX_EPOCH), path));
        }
    }
    Ok(())
}

/// After the last file of a supervised command its directory goes too.
pub(crate) fn remove_if_empty_run(file: &Path) {
    if let Some(dir) = file.parent()
        && dir.extension().is_some_and(|of| of == RUN)
    {
        let _ = fs::remove_dir(dir);
    }
}

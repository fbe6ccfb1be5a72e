//! What a spool asks of the file system: room that cannot be refused later, and locks that tell the living from the dead.
//!
//! Two locks, because each has a hole. A record lock (`fcntl`) ends with its process and is not inherited by children, so it
//! says whether the *owner* lives; but it also ends when its process closes any descriptor of the file. A lock of the open
//! file (`flock`) does not, so it keeps *uploaders* apart; but children inherit it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Makes the directory and those above it, for this user alone. Refuses one in the temporary directory that somebody else
/// has put there.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::symlink_metadata(dir)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if dir.starts_with(std::env::temp_dir()) && (found.is_symlink() || !own) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory is not ours"));
    }
    Ok(())
}

/// A new file for this user alone.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// An existing regular file, to read and write.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Marks this process as the file's owner, until it ends.
pub(crate) fn lock_as_owner(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// Who has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// This descriptor, as long as it is open.
    Ours,
    /// The producer that writes it lives.
    OwnerLives,
    /// Another uploader has it.
    Uploading,
}

/// Claims a dead producer's file for uploading.
pub(crate) fn claim(file: &File) -> io::Result<Claim> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Claim::Uploading),
        Err(error) => return Err(error.into()),
    }
    match lock_as_owner(file) {
        Ok(()) => Ok(Claim::Ours),
        Err(error) if is_held(&error) => Ok(Claim::OwnerLives),
        Err(error) => Err(error),
    }
}

fn is_held(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::AGAIN.raw_os_error()) || code == Some(Errno::ACCESS.raw_os_error())
}

/// The file is still the one that this path names: nobody has deleted it between opening and claiming.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let Ok(named) = fs::symlink_metadata(path) else { return false };
    file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Makes sure of the disk space of a range. Writing to it through a mapping then cannot end in SIGBUS, but on file systems
/// that copy on write (btrfs, ZFS), which may need room even for what was allocated.
pub(crate) fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    if from + bytes > size_limit() {
        return Err(Errno::FBIG.into());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes) {
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => write_zeros(file, from, bytes),
        other => Ok(other?),
    }
}

/// The largest file that this process may make: one byte beyond it is not an error but a signal.
pub(crate) fn size_limit() -> u64 {
    getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX)
}

fn write_zeros(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 64 << 10];
    let mut at = from;
    while at < from + bytes {
        let some = zeros.len().min((from + bytes - at) as usize);
        file.write_all_at(&zeros[..some], at)?;
        at += some as u64;
    }
    Ok(())
}

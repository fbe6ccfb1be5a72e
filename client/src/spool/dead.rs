//! Taking over the file of a producer that is gone.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flowforge_proto::v1;

use super::format::{Layout, Meta, State};
use super::recover::{self, Damage, Scan};
use super::ring::Ring;
use super::sys::{self, Claim};
use super::{FormatError, dir, map};

/// Enough for everything before the ring.
const HEAD_BYTES: u64 = 2 << 20;

/// A file in a spool directory.
#[derive(Debug)]
pub enum Found {
    /// Its producer is gone. As long as this value lives, nobody else takes the file.
    Dead(Box<DeadSpool>),
    /// Its producer lives, or another uploader is at it.
    InUse(PathBuf),
    /// It cannot be read; it is left as it is.
    Unreadable(PathBuf, Unreadable),
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The operating system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what this program writes.
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// What waits in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Empty means `default`.
    pub tenant: String,
    /// Whose lines they are.
    pub task_id: String,
    /// Where its producer would have sent them.
    pub server: String,
    /// Lines that can be sent; the server may have some of them.
    pub lines: u64,
    /// Their message bytes.
    pub bytes: u64,
    /// When the last one was captured, ns since 1970; 0: there is none.
    pub last_time_unix_nano: i64,
    /// The producer has said how it ended.
    pub is_closed: bool,
    /// What cannot be read any more.
    pub damage: Option<Damage>,
}

/// A dead producer's file, claimed.
#[derive(Debug)]
pub struct DeadSpool {
    path: PathBuf,
    file: File,
    meta: Meta,
    layout: Layout,
    state: State,
    scan: Scan,
}

/// What a client goes on with.
pub(crate) struct Resumed {
    pub(crate) ring: Ring,
    pub(crate) scan: Scan,
    pub(crate) first_seq: u64,
    pub(crate) hello: v1::Hello,
    pub(crate) server: String,
}

/// Looks at every file of a directory, and of supervised commands' directories in it, but not at this process's own.
/// Oldest first; each dead one is claimed as it is reached.
pub fn find(folder: &Path) -> io::Result<impl Iterator<Item = Found>> {
    Ok(dir::files(folder)?.into_iter().filter_map(|path| match DeadSpool::open(&path) {
        Ok(found) => found,
        // Uploaded and deleted meanwhile.
        Err(Unreadable::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Found::Unreadable(path, error)),
    }))
}

impl DeadSpool {
    /// Claims and reads a file. `None`: it has just been deleted.
    fn open(path: &Path) -> Result<Option<Found>, Unreadable> {
        let file = sys::open(path)?;
        if sys::claim(&file)? != Claim::Ours {
            return Ok(Some(Found::InUse(path.to_owned())));
        }
        if !sys::is_at(&file, path) {
            return Ok(None);
        }
        let mut head = Vec::new();
        (&file).take(HEAD_BYTES).read_to_end(&mut head)?;
        let (meta, layout, state) = recover::read_head(&head)?;
        let length = file.metadata()?.len();
        if length < layout.file_bytes() as u64 {
            // Cut off: what is missing reads as zeros, which are no records.
            if layout.file_bytes() as u64 > sys::size_limit() {
                return Err(io::Error::other("it was cut off, and the limit of file sizes is too small").into());
            }
            file.set_len(layout.file_bytes() as u64)?;
        }
        let mut scan = recover::scan(&map::read_only(&file, layout.file_bytes())?, layout, &state);
        if length < layout.ring_at as u64 {
            // Nobody can say which lines were open.
            scan.damage.get_or_insert(Damage::Unknown);
        }
        Ok(Some(Found::Dead(Box::new(Self { path: path.to_owned(), file, meta, layout, state, scan }))))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What waits in it.
    pub fn contents(&self) -> Contents {
        let Meta { hello, server } = &self.meta;
        Contents {
            tenant: hello.tenant.clone(),
            task_id: hello.task_id.clone(),
            server: server.clone(),
            lines: self.scan.lines,
            bytes: self.scan.bytes,
            last_time_unix_nano: self.scan.last_time,
            is_closed: self.scan.close.is_some(),
            damage: self.scan.damage,
        }
    }

    /// Everything is stored, and nothing is to be said about the end.
    pub(crate) fn is_empty(&self) -> bool {
        self.scan.pieces.is_empty() && self.scan.open.is_empty() && self.scan.close.is_none()
    }

    /// Its producer has captured nothing at all.
    pub(crate) fn is_unused(&self) -> bool {
        self.scan.next_seq == 1 && self.scan.open.is_empty()
    }

    pub(crate) fn close(&self) -> Option<v1::Close> {
        self.scan.close.clone()
    }

    pub(crate) fn resume(self) -> io::Result<Resumed> {
        let Self { path, file, meta, layout, state, scan } = self;
        let ring = Ring::resume(file, path, layout, state, &scan)?;
        Ok(Resumed { ring, scan, first_seq: state.acked + 1, hello: meta.hello, server: meta.server })
    }

    /// Deletes the file.
    pub(crate) fn delete(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        dir::remove_if_empty_run(&self.path);
        Ok(())
    }
}

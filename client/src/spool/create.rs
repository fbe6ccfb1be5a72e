//! Making a producer's file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::format::{self, Layout, Meta, State};
use super::super::map::Map;
use super::super::open::Area;
use super::super::{dir, sys};
use super::Ring;

/// The first step; each is four times the one before.
const FIRST_CAPACITY: usize = 256 << 10;
/// A ring of less is no use.
const MIN_CAPACITY: usize = 4096;

impl Ring {
    /// Makes the file. It gets its name only when it is whole and locked, so that no uploader sees it before.
    pub(crate) fn create(folder: &Path, meta: &Meta, max_bytes: u64) -> io::Result<Self> {
        sys::make_dir(folder)?;
        let max_capacity = max_bytes.min(format::MAX_CAPACITY as u64) as usize / 8 * 8;
        let mut layout = Layout::new(meta, max_capacity);
        let most = (sys::size_limit().saturating_sub(layout.ring_at as u64)).min(max_capacity as u64);
        layout.max_capacity = most as usize / 8 * 8;
        if layout.max_capacity < MIN_CAPACITY {
            return Err(io::Error::other("there is no room for it"));
        }
        let path = folder.join(dir::file_name(&meta.hello));
        let hidden = path.with_extension(dir::NEW);
        let file = sys::create(&hidden)?;
        let made = Self::fill(file, path, meta, layout).and_then(|ring| {
            std::fs::rename(&hidden, &ring.path)?;
            Ok(ring)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&hidden);
        }
        made
    }

    fn fill(file: File, path: PathBuf, meta: &Meta, layout: Layout) -> io::Result<Self> {
        sys::lock_as_owner(&file)?;
        file.set_len(layout.file_bytes() as u64)?;
        let capacity = FIRST_CAPACITY.min(layout.max_capacity);
        sys::allocate(&file, 0, (layout.ring_at + capacity) as u64)?;
        let mut map = Map::new(&file, layout.file_bytes())?;
        let state = State { head_seq: 1, capacity: capacity as u64, ..State::default() };
        let bytes = map.bytes_mut().ok_or_else(|| io::Error::other("the process has forked"))?;
        format::write_meta(bytes, meta, layout);
        format::write_state(bytes, &state);
        format::write_next_seq(bytes, 1);
        let (open, tail, wrapped, next_seq, cursor) = (Area::new(&map, &file, layout)?, 0, false, 1, (1, 0));
        Ok(Self { open, map, file, path, layout, state, tail, wrapped, next_seq, cursor, closed: false, limited: None })
    }
}

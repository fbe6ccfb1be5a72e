//! The file in memory: the one place with `unsafe`.
//!
//! Why a mapping: a store into it costs what a store costs, and the kernel keeps the page when the process dies, however it
//! dies. Only the machine's own death can take it.

#![allow(
    unsafe_code,
    reason = "mapping a file, storing a number in one piece, and wiping a page in children have no safe form"
)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use memmap2::{Mmap, MmapMut, MmapOptions};

/// A shared mapping of a part of a file, which knows whether this process made it.
#[derive(Debug)]
pub(crate) struct Map {
    map: MmapMut,
    owner: Arc<Owner>,
}

impl Map {
    /// Maps the first `bytes` of the file; it must be at least so long.
    pub(crate) fn new(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: memory behind a `&[u8]` must not change under it, and must be there. Nobody else writes to the file or
        // cuts it: it lies in a directory of this user alone, a live producer's file is locked, and whoever takes over a
        // dead producer's file locks it first. Every page that is written to was allocated before (`sys::allocate`).
        let map = unsafe { MmapOptions::new().len(bytes).map_mut(file)? };
        Ok(Self { map, owner: Arc::new(Owner::this_process()) })
    }

    /// Maps a part of the same file once more, for a writer of its own; the file must be at least so long.
    pub(crate) fn part(&self, file: &File, from: usize, bytes: usize) -> io::Result<Self> {
        // SAFETY: as in `Map::new`; and of the two mappings only this one is used for this part while its producer lives.
        let map = unsafe { MmapOptions::new().offset(from as u64).len(bytes).map_mut(file)? };
        Ok(Self { map, owner: Arc::clone(&self.owner) })
    }

    /// The bytes, to read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The bytes, to write; `None` in a child of the process that made the mapping: they are its parent's.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        self.owner.is_this_process().then_some(&mut self.map)
    }

    /// Writes a number to a multiple of eight, in one store: whenever the process dies, the old one or the new one is there.
    /// All before it is stored before it, and all after it after it. False: in a child.
    #[expect(clippy::cast_ptr_alignment, reason = "looked at before it is used")]
    pub(crate) fn store(&mut self, at: usize, number: u64) -> bool {
        let Some(place) = self.bytes_mut().and_then(|bytes| bytes.get_mut(at..at + 8)) else { return false };
        let place = place.as_mut_ptr().cast::<u64>();
        if !place.is_aligned() {
            return false;
        }
        // The kernel sees the stores of a killed process in their order; the compiler has to keep it.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: eight bytes of a slice that is ours alone, and aligned.
        unsafe { AtomicU64::from_ptr(place) }.store(number.to_le(), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Who made the mapping, for what has to know it without the mapping.
    pub(crate) fn owner(&self) -> Arc<Owner> {
        Arc::clone(&self.owner)
    }

    /// Whether this process made the mapping.
    pub(crate) fn is_own(&self) -> bool {
        self.owner.is_this_process()
    }
}

/// Maps the first `bytes` of a file that is claimed; it must be at least so long.
pub(crate) fn read_only(file: &File, bytes: usize) -> io::Result<Mmap> {
    // SAFETY: as in `Map::new`: whoever else might write to it is kept away by the claim.
    unsafe { MmapOptions::new().len(bytes).map(file) }
}

/// Tells a process from its children for the price of a load: a page that the kernel wipes in every child. A process id
/// would cost a syscall for each line.
#[derive(Debug)]
pub(crate) struct Owner {
    page: Option<MmapMut>,
    pid: u32,
}

impl Owner {
    fn this_process() -> Self {
        Self { page: wiped_in_children(), pid: std::process::id() }
    }

    pub(crate) fn is_this_process(&self) -> bool {
        match &self.page {
            Some(page) => page[0] == 1,
            None => std::process::id() == self.pid,
        }
    }
}

#[cfg(target_os = "linux")]
fn wiped_in_children() -> Option<MmapMut> {
    let mut page = MmapMut::map_anon(1).ok()?;
    // SAFETY: the pointer and the length are of a private anonymous mapping of our own, which is what this advice is for;
    // it changes nothing in this process.
    unsafe {
        rustix::mm::madvise(page.as_mut_ptr().cast(), page.len(), rustix::mm::Advice::LinuxWipeOnFork).ok()?;
    }
    page[0] = 1;
    Some(page)
}

#[cfg(not(target_os = "linux"))]
fn wiped_in_children() -> Option<MmapMut> {
    None
}

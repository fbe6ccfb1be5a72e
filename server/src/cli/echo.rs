//! Reads what the command prints: to our terminal first, then to the server.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use flowforge_client::{Client, Stream};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// One read takes what a pipe holds by default.
const READ_BYTES: usize = 64 << 10;
/// The most that can be in a pipe (`/proc/sys/fs/pipe-max-size`, by default).
const MAX_PIPE_BYTES: usize = 1 << 20;

/// A descriptor of ours to write to, at once. After it has failed (`| head` is gone), writing does nothing.
#[derive(Debug)]
pub(super) struct Echo(Option<File>);

impl Echo {
    /// To a copy of this descriptor.
    pub(super) fn to(fd: &impl AsFd) -> Self {
        Self(fd.as_fd().try_clone_to_owned().ok().map(File::from))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        let Some(file) = &mut self.0 else { return };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(written) if written > 0 => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever shares it has set it to non-blocking: its reader is slow, not gone.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                _ => {
                    self.0 = None;
                    return;
                }
            }
        }
    }
}

/// How copying came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// Nobody can write any more.
    All,
    /// It was cut off, and somebody can still write.
    UntilCut,
}

/// Copies until the end of `source`, a pipe or a pty, on a thread of its own: writing to a terminal blocks, and so does a
/// full buffer. After `cut` it takes what is there and does not wait for more, however long the taking lasts.
pub(super) fn copy(
    source: OwnedFd,
    mut echo: Echo,
    client: Arc<Client>,
    stream: Stream,
    cut: CancellationToken,
) -> io::Result<oneshot::Receiver<Copied>> {
    let (ended, end) = oneshot::channel();
    rustix::io::ioctl_fionbio(&source, true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name(format!("flowforge-{stream:?}").to_lowercase()).spawn(move || {
        let take = |bytes: &[u8]| {
            echo.write(bytes);
            client.write(stream, bytes);
        };
        // A pty ends with EIO once nobody holds its other side, and whatever else cannot be read has ended too.
        let copied = runtime.block_on(copy_to(source, take, &cut)).unwrap_or(Copied::All);
        let _ = ended.send(copied);
    })?;
    Ok(end)
}

async fn copy_to(source: OwnedFd, mut take: impl FnMut(&[u8]), cut: &CancellationToken) -> io::Result<Copied> {
    let mut rest = File::from(source.try_clone()?);
    // Unchecked, because a pty is as good as a pipe.
    let source = pipe::Receiver::from_owned_fd_unchecked(source)?;
    let mut buffer = vec![0; READ_BYTES];
    while !cut.is_cancelled() {
        match source.try_read(&mut buffer) {
            Ok(0) => return Ok(Copied::All),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::select! {
                ready = source.readable() => ready?,
                () = cut.cancelled() => {}
            },
            Err(error) => return Err(error),
        }
    }
    take_rest(&mut rest, &mut buffer, take)
}

/// Takes what is in a pipe now; no more than fits into one, because somebody may be filling it still.
fn take_rest(source: &mut File, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> io::Result<Copied> {
    let mut left = MAX_PIPE_BYTES;
    while left > 0 {
        match source.read(buffer) {
            Ok(0) => return Ok(Copied::All),
            Ok(count) => {
                take(&buffer[..count]);
                left = left.saturating_sub(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Copied::UntilCut)
}

/// The next bytes; `None` at the end.
pub(super) fn read_some<'a>(source: &mut impl Read, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match source.read(buffer) {
            Ok(0) => return None,
            Ok(count) => return Some(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_takes_what_is_there_and_leaves_the_rest() {
        let (source, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"last words").expect("room in the pipe");
        let source = OwnedFd::from(source);
        rustix::io::ioctl_fionbio(&source, true).expect("non-blocking");
        let (cut, mut taken) = (CancellationToken::new(), Vec::new());
        cut.cancel();
        let copied = copy_to(source, |bytes| taken.extend_from_slice(bytes), &cut).await.expect("readable");
        assert_eq!((copied, taken.as_slice()), (Copied::UntilCut, &b"last words"[..]));
    }

    #[tokio::test]
    async fn a_cut_ends_a_source_that_never_ends() {
        let (source, mut writer) = io::pipe().expect("a pipe");
        let source = OwnedFd::from(source);
        rustix::io::ioctl_fionbio(&source, true).expect("non-blocking");
        writer.write_all(&vec![0; READ_BYTES]).expect("room in the pipe");
        let (cut, mut count) = (CancellationToken::new(), 0);
        cut.cancel();
        let refill = |bytes: &[u8]| {
            count += bytes.len();
            writer.write_all(bytes).expect("room in the pipe");
        };
        assert_eq!(copy_to(source, refill, &cut).await.expect("readable"), Copied::UntilCut);
        assert_eq!(count, MAX_PIPE_BYTES);
    }
}

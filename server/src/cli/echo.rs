//! Reads what the command prints: to our terminal first, then to the server.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowforge_client::{Client, Stream};
use tokio::sync::oneshot;

/// One read takes what a pipe can hold.
const READ_BYTES: usize = 64 << 10;

/// Our own standard output or error, unbuffered. Once it fails (`| head` is gone), the command goes on without it.
#[derive(Debug)]
pub(super) struct Echo(Option<File>);

impl Echo {
    /// To a copy of this descriptor.
    pub(super) fn to(fd: &impl AsFd) -> Self {
        Self(fd.as_fd().try_clone_to_owned().ok().map(File::from))
    }

    fn write(&mut self, mut bytes: &[u8]) {
        let Some(file) = &mut self.0 else { return };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(written) if written > 0 => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody else set our terminal to non-blocking: its reader is slow, not gone.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                _ => {
                    self.0 = None;
                    return;
                }
            }
        }
    }
}

/// Copies until the end of `source` on a thread of its own: writing to a terminal blocks, and so does a full buffer. The
/// receiver is told of the end. After `stop`, nothing is copied any more.
pub(super) fn copy(
    source: OwnedFd,
    mut echo: Echo,
    client: Arc<Client>,
    stream: Stream,
    stop: Arc<AtomicBool>,
) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let mut source = File::from(source);
    std::thread::Builder::new().name(format!("flowforge-{stream:?}").to_lowercase()).spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Some(bytes) = read_some(&mut source, &mut buffer) {
            if stop.load(Ordering::Acquire) {
                break;
            }
            echo.write(bytes);
            client.write(stream, bytes);
        }
        let _ = ended.send(());
    })?;
    Ok(end)
}

/// The next bytes; `None` at the end. A pty ends with EIO once nobody holds its other side.
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

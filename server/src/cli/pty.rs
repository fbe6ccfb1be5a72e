//! `run --pty`: the command sees a terminal, and ours becomes its window.

use std::io::{self, IsTerminal as _, stdin};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::process::Child;

use super::echo::{Echo, read_some};
use super::notice;
use super::run::{SUPERVISED, identity};

/// Rows and columns where we have no terminal to copy: a command that reads 0 divides by it.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Our side of the command's terminal.
#[derive(Debug)]
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// Starts the command on a new terminal, as large as ours.
    pub(super) fn spawn(
        argv: &[std::ffi::OsString],
        mut env: Vec<(&'static str, String)>,
    ) -> Result<(Self, Child), pty_process::Error> {
        let (pty, pts) = pty_process::open()?;
        let (rows, columns) = our_size().map_or(DEFAULT_SIZE, |size| (size.ws_row, size.ws_col));
        let name = rustix::pty::ptsname(&pty, Vec::new())?;
        let file = std::fs::metadata(std::ffi::OsStr::from_bytes(name.as_bytes()))?;
        env.push((SUPERVISED, identity(&file)));
        pty.resize(pty_process::Size::new(rows, columns))?;
        let child = pty_process::Command::new(&argv[0]).args(&argv[1..]).envs(env).spawn(pts)?;
        Ok((Self(pty.into()), child))
    }

    /// For reading what the command prints.
    pub(super) fn reader(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Makes it as large as ours is now.
    pub(super) fn follow_size(&self) {
        if let Some(size) = our_size() {
            // A command that is gone does not care.
            let _ = tcsetwinsize(&self.0, size);
        }
    }

    /// Passes our standard input on, on a thread that ends with the process. At its end the command reads its end too.
    pub(super) fn forward_stdin(&self) -> io::Result<()> {
        /// What a terminal takes as the end of the input at the beginning of a line: Ctrl-D.
        const END_OF_TRANSMISSION: &[u8] = &[4];
        let mut to = Echo::to(&self.0);
        std::thread::Builder::new().name("flowforge-stdin".to_owned()).spawn(move || {
            let (mut buffer, mut line_is_open) = ([0; 4096], false);
            while let Some(bytes) = read_some(&mut stdin().lock(), &mut buffer) {
                line_is_open = bytes.last() != Some(&b'\n');
                to.write(bytes);
                if to.is_gone() {
                    return;
                }
            }
            if line_is_open {
                // In the middle of a line the first one only hands over what is there.
                to.write(END_OF_TRANSMISSION);
            }
            to.write(END_OF_TRANSMISSION);
        })?;
        Ok(())
    }
}

fn our_size() -> Option<Winsize> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(size)
}

/// What our terminal was set to before.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Our terminal passes every key on, until this is dropped.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    /// `None` if standard input is not a terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        restore_on_panic();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        notice::set_raw_terminal(true);
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &saved);
        notice::set_raw_terminal(false);
    }
}

/// A panic aborts in release builds and drops nothing; the terminal must not stay raw.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}

//! The signals that `run` passes on to the command, and `send` ends on.

use std::fs::File;
use std::io;

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{self, SignalKind};

/// Handlers for the signals that end or inform a command. Make it *before* the command is started: a signal that comes
/// in between would kill us and leave the command alone.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    window: unix::Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hangup: unix::signal(SignalKind::hangup())?,
            quit: unix::signal(SignalKind::quit())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
            window: unix::signal(SignalKind::window_change())?,
        })
    }

    /// The next signal that came. Nothing is lost when this is dropped and called again.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
            _ = self.window.recv() => Signal::WINCH,
        }
    }

    /// Waits for the next SIGINT or SIGTERM.
    pub(super) async fn asked_to_stop(&mut self) {
        while !matches!(self.next().await, Signal::INT | Signal::TERM) {}
    }
}

/// Passes a signal on to the command.
pub(super) fn forward(signal: Signal, child: u32, own_session: bool) {
    if !own_session && came_from_terminal(signal) {
        return;
    }
    if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile; its exit is about to be seen.
        let _ = kill_process(pid, signal);
    }
}

/// Whether the command has this signal already.
///
/// Ctrl-C and Ctrl-\ make the terminal send SIGINT and SIGQUIT to its whole foreground process group. The command is in
/// our group, so when that group is in the foreground it got the signal together with us, and passing it on would be a
/// second Ctrl-C, which many programs take as "stop without cleaning up". In the background (`&`, a service, a CI job
/// without a terminal) the signal was sent to us alone, by `kill`, and is passed on. A `kill -INT` from elsewhere to
/// a `run` in the foreground cannot be told from Ctrl-C and is not passed on: use SIGTERM, which always is.
/// A command on a pty of ours has a session of its own and never gets our terminal's signals.
fn came_from_terminal(signal: Signal) -> bool {
    if signal != Signal::INT && signal != Signal::QUIT {
        return false;
    }
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(&terminal).is_ok_and(|foreground| foreground == getpgrp())
}

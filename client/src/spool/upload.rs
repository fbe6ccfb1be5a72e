//! Sends what dead producers left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowforge_proto::v1;

use super::dead::{Contents, DeadSpool, Found, find};
use crate::client::{Client, wire_status};
use crate::stats::{End, Status};

/// How often the progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Where to, and what of.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Everything goes here. `None`: each file where its producer would have sent it.
    pub server: Option<String>,
    /// Only files whose producers would have sent them here.
    pub only_of_server: Option<String>,
    /// How a producer ended that could not say so itself, from one who knows. `None`: nobody does; the server counts it
    /// as lost when its lease runs out.
    pub end: Option<(Status, Option<i32>)>,
    /// Give up after so long without progress.
    pub patience: Duration,
}

/// What became of one file.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// The file, which is gone if it is done.
    pub path: PathBuf,
    /// What it held.
    pub contents: Contents,
    /// Everything is stored.
    pub is_done: bool,
    /// Lines that are not known to be stored.
    pub left: u64,
    /// The last failure, if it is not done.
    pub error: Option<String>,
}

/// Is told of each file; what it is not interested in does nothing.
pub trait Observer: Send {
    /// This is what it holds.
    fn begins(&mut self, _contents: &Contents) {}
    /// So many lines are left.
    fn goes_on(&mut self, _contents: &Contents, _left: u64) {}
    /// It is done, or will not be.
    fn ended(&mut self, _uploaded: &Uploaded) {}
    /// It is not uploaded, and why.
    fn skipped(&mut self, _path: &Path, _because: &str) {}
}

impl Observer for () {}

/// What became of a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that are done.
    pub files: u64,
    /// Lines in them.
    pub lines: u64,
    /// Files that stay though their producers are gone.
    pub failed: u64,
    /// Files whose producers live, or that others upload.
    pub in_use: u64,
}

/// Uploads all dead producers' files, oldest first, one after the other.
pub async fn upload_all(dir: &Path, how: &Upload, observer: &mut dyn Observer) -> io::Result<Summary> {
    let mut summary = Summary::default();
    for found in find(dir)? {
        match found {
            Found::InUse(_) => summary.in_use += 1,
            Found::Unreadable(path, error) => {
                summary.failed += 1;
                observer.skipped(&path, &error.to_string());
            }
            Found::Dead(dead) => {
                let server = dead.contents().server;
                if how.only_of_server.as_ref().is_some_and(|only| *only != server) {
                    continue;
                }
                let uploaded = upload(*dead, how, observer).await;
                summary.files += u64::from(uploaded.is_done);
                summary.failed += u64::from(!uploaded.is_done);
                summary.lines += if uploaded.is_done { uploaded.contents.lines } else { 0 };
            }
        }
    }
    Ok(summary)
}

/// Uploads one file and deletes it when everything is stored. Within a runtime.
pub async fn upload(dead: DeadSpool, how: &Upload, observer: &mut dyn Observer) -> Uploaded {
    let (path, contents) = (dead.path().to_owned(), dead.contents());
    let failed = |error: String| (false, contents.lines, Some(error));
    observer.begins(&contents);
    let (is_done, left, error) = if dead.is_empty() && (how.end.is_none() || dead.is_unused()) {
        dead.delete().map_or_else(|error| failed(error.to_string()), |()| (true, 0, None))
    } else {
        let close = |(status, exit_code)| v1::Close { status: wire_status(status), exit_code, ..v1::Close::default() };
        let end = how.end.map(close);
        let runtime = tokio::runtime::Handle::current();
        match Client::resume_on(dead, how.server.clone(), end, &runtime) {
            Ok(client) => follow(&client, how.patience, |left| observer.goes_on(&contents, left)).await,
            Err(error) => failed(error.to_string()),
        }
    };
    let uploaded = Uploaded { path, contents, is_done, left, error };
    observer.ended(&uploaded);
    uploaded
}

async fn follow(client: &Client, patience: Duration, mut tell: impl FnMut(u64)) -> (bool, u64, Option<String>) {
    let mut last = (0, Instant::now());
    while !client.is_over_or_stored_within(PROGRESS_INTERVAL).await {
        let stats = client.stats();
        tell(stats.buffered_lines);
        let progress = stats.stored_seq.saturating_add(stats.queued_seq);
        if progress > last.0 {
            last = (progress, Instant::now());
        }
        if last.1.elapsed() >= patience {
            break;
        }
    }
    let outcome = client.abandon();
    let reason = match outcome.end {
        End::Fenced(reason) | End::Refused(reason) => Some(reason),
        _ => outcome.error,
    };
    let is_done = outcome.spool.is_none();
    (is_done, outcome.undelivered, if is_done { None } else { reason })
}

/// Uploads on a thread of its own, without a word, for as long as the process lives. What is not done by then stays. Waits
/// until the server has answered `client`: a dead producer of the same task must not come before the living one, because
/// the first decides how the task ends.
pub fn upload_in_background(dir: PathBuf, how: Upload, client: Arc<Client>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("flowforge-spool".to_owned()).spawn(move || {
        if !client.wait_welcome(Duration::MAX) {
            return;
        }
        drop(client);
        // A directory that cannot be read has nothing for us.
        let _ = runtime.block_on(upload_all(&dir, &how, &mut ()));
    })?;
    Ok(())
}

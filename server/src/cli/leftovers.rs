//! What the processes of a supervised command leave in the spool: they ship by themselves, and may be killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowforge_client::spool::{
    Contents, Observer, SpoolConfig, Upload, Uploaded, run_dir, upload_all, upload_in_background,
};
use flowforge_client::{Client, CloseOutcome, Status};

use super::{notice, spool};

/// Files of earlier runs may wait for the server so long; this run does not wait for them.
const BACKGROUND_PATIENCE: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Leftovers {
    spool: Option<Place>,
    server: String,
}

struct Place {
    /// The supervisor's own file is here.
    dir: PathBuf,
    /// Its command's files are here.
    run: PathBuf,
}

impl Leftovers {
    /// Begins to upload what earlier runs left for the same server, in the background.
    pub(super) fn new(spool: Option<SpoolConfig>, server: &str, client: &Arc<Client>) -> Self {
        let place = spool.map(|spool| Place { run: run_dir(&spool.dir, client.producer()), dir: spool.dir });
        let this = Self { spool: place, server: server.to_owned() };
        if let Some(place) = &this.spool {
            // Without a thread they stay where they are.
            let _ = upload_in_background(place.dir.clone(), this.upload(None, BACKGROUND_PATIENCE), Arc::clone(client));
        }
        this
    }

    fn upload(&self, end: Option<(Status, Option<i32>)>, patience: Duration) -> Upload {
        Upload { server: None, only_of_server: Some(self.server.clone()), end, patience }
    }

    /// Where the command's processes keep their files.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.spool.as_ref().map(|place| place.run.as_path())
    }

    /// What is to be said about an outcome that is not complete.
    pub(super) fn kept(&self, outcome: &CloseOutcome) -> String {
        let Some((place, _)) = self.spool.as_ref().zip(outcome.spool.as_ref()) else { return String::new() };
        let push = spool::push_command(&place.dir);
        if outcome.spooled < outcome.undelivered {
            return format!("; {} of them are in the spool: {push}", notice::grouped(outcome.spooled));
        }
        format!("; kept in the spool: {push}")
    }

    /// Uploads what the command's dead processes left. With a server that is away it only says that there is something.
    pub(super) async fn collect(&self, code: u8, server_is_there: bool, limit: Duration) {
        let Some(place) = &self.spool else { return };
        let status = if code == 0 { Status::Succeeded } else { Status::Failed };
        let patience = if server_is_there { limit } else { Duration::ZERO };
        let how = self.upload(Some((status, Some(i32::from(code)))), patience);
        let mut found = Found::default();
        let _ = tokio::time::timeout(limit, upload_all(&place.run, &how, &mut found)).await;
        let left = found.begun - found.stored;
        if found.stored > 0 {
            notice::info(&format!("uploaded {} that the command's processes left", notice::lines(found.stored)));
        }
        if left > 0 {
            let push = spool::push_command(&place.dir);
            let lines = notice::lines(left);
            notice::warning(&format!("{lines} of the command's processes not delivered; kept in the spool: {push}"));
        }
        // It stays if there is something in it.
        let _ = std::fs::remove_dir(&place.run);
    }
}

/// Lines found, and lines stored.
#[derive(Default)]
struct Found {
    begun: u64,
    stored: u64,
}

impl Observer for Found {
    fn begins(&mut self, contents: &Contents) {
        self.begun += contents.lines;
    }

    fn ended(&mut self, uploaded: &Uploaded) {
        self.stored += uploaded.contents.lines - uploaded.left.min(uploaded.contents.lines);
    }

    fn skipped(&mut self, path: &Path, because: &str) {
        notice::warning(&format!("{}: {because}; left as it is", path.display()));
    }
}

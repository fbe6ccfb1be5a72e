//! The handle that a program holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowforge_proto::v1;
use tonic::transport::Endpoint;

use crate::config::{ClientConfig, ClientError};
use crate::entry::{Entry, Stream};
use crate::lane::Lane;
use crate::queue::Queue;
use crate::sender;
use crate::session::introduction;
use crate::shared::Shared;
use crate::spool::ring::Ring;
use crate::spool::{self, DeadSpool};
use crate::state::State;
use crate::stats::{CloseOutcome, End, Stats, Status};

/// One producer. All methods take `&self`, may be called from any thread, and never panic. Those that wait without
/// `_async` in their name block the thread.
///
/// Dropping a client without [`Client::close`] stops the sender; what was not delivered by then is lost, or stays in the spool.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// How often closing looks again for a stream that another thread is writing to.
const BUSY_STREAM_POLL: Duration = Duration::from_millis(2);

impl Client {
    /// Starts the sender on a thread of its own, `flowforge-sender`. Returns at once: the server may come later.
    pub fn start(config: ClientConfig) -> Result<Self, ClientError> {
        let (shared, endpoint) = prepare(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("flowforge-sender".to_owned())
            .spawn(move || runtime.block_on(sender::run(sender, endpoint)))?;
        Ok(Self { shared })
    }

    /// Starts the sender as a task of a runtime, for programs with many producers.
    pub fn start_on(config: ClientConfig, runtime: &tokio::runtime::Handle) -> Result<Self, ClientError> {
        let (shared, endpoint) = prepare(config)?;
        runtime.spawn(sender::run(Arc::clone(&shared), endpoint));
        Ok(Self { shared })
    }

    /// Goes on for a dead producer, on a runtime: sends what its spool holds, with its id, and its end if `end` or the file
    /// says so. `server`: somewhere else than where the producer would have sent it.
    pub(crate) fn resume_on(
        dead: DeadSpool,
        server: Option<String>,
        end: Option<v1::Close>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, ClientError> {
        let recovery = match dead.contents().damage {
            None => v1::Recovery::Clean,
            Some(_) => v1::Recovery::Damaged,
        };
        // Its own Close says that nobody else speaks for it.
        let close = dead.close().or(end.map(|end| v1::Close { recovery: recovery.into(), ..end }));
        let resumed = dead.resume()?;
        let hello = resumed.hello;
        let mut config = ClientConfig::new(server.unwrap_or(resumed.server), hello.task_id);
        (config.tenant, config.workflow_id, config.name) = (hello.tenant, hello.workflow_id, hello.name);
        (config.attempt, config.owner, config.sdk) = (hello.attempt, hello.owner, hello.sdk);
        config.labels = hello.labels.into_iter().collect();
        let producer = hello.producer.as_ref().try_into().unwrap_or_default();
        let endpoint = config.endpoint()?;
        let queue = Queue::resume(resumed.ring, resumed.first_seq, resumed.scan);
        let final_seq = queue.last_seq();
        let mut state = State::new(queue);
        state.close = close.map(|close| v1::Close { final_seq, ..close });
        let shared = Arc::new(Shared::with_state(config, producer, state));
        runtime.spawn(sender::run(Arc::clone(&shared), endpoint));
        Ok(Self { shared })
    }

    /// The id that this producer's lines carry, made for this client.
    pub fn producer(&self) -> [u8; 16] {
        self.shared.producer
    }

    /// Captures one line. Blocks only where [`Overflow`](crate::Overflow) says so.
    pub fn push(&self, entry: Entry) {
        self.shared.push(entry, None, None);
    }

    /// [`Client::push`] for tasks: waits for room without blocking the thread.
    pub async fn push_async(&self, entry: Entry) {
        self.shared.push_async(entry, None, None).await;
    }

    /// Captures what a program wrote: any bytes, whole lines or not. Blocks like [`Client::push`].
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        self.shared.write(&self.shared.lane, stream, bytes);
    }

    /// [`Client::write`] for programs whose threads take turns in the middle of a line: each `lane` (a thread) has an
    /// unfinished line of its own, and lines leave in the order in which they end.
    pub fn write_from(&self, lane: &Lane, stream: Stream, bytes: &[u8]) {
        self.shared.write(lane, stream, bytes);
    }

    /// The longest message, and the longest `fields_json`, that the server takes: [`Client::write`] splits by itself,
    /// who calls [`Client::push`] keeps to it.
    pub fn max_line_bytes(&self) -> usize {
        self.shared.max_line_bytes.load(Ordering::Relaxed)
    }

    /// Shows a state of a row that is not kept, at most 4 a second for each row. Lost without a connection.
    pub fn frame(&self, update_id: u64, stream: Stream, message: impl Into<Bytes>) {
        self.shared.offer_frame(v1::Frame { update_id, message: message.into(), stream: stream.wire() });
    }

    /// Answers a [`Command`](crate::Command).
    pub fn reply(&self, id: impl Into<String>, ok: bool, data: impl Into<Bytes>) {
        self.shared.offer_reply(v1::CommandResult { id: id.into(), ok, data: data.into() });
    }

    /// Waits until all that was captured before the call is stored. False: not in time, or never (see [`Stats::end`]).
    /// An unfinished line is not captured yet.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.flush_while(timeout, &mut || true)
    }

    /// [`Client::flush`] that can be given up: asked about 20 times a second whether to go on.
    pub fn flush_while(&self, timeout: Duration, go_on: &mut dyn FnMut() -> bool) -> bool {
        let target = self.shared.lock().flush_target();
        self.shared.wait_while(after(timeout), go_on, |state| state.reached(target)).unwrap_or(false)
    }

    /// [`Client::flush`] for tasks.
    pub async fn flush_async(&self, timeout: Duration) -> bool {
        let target = self.shared.lock().flush_target();
        self.shared.wait_async(after(timeout), |state| state.reached(target)).await.unwrap_or(false)
    }

    /// Waits until the server has answered; false: not in time, or never.
    pub fn wait_welcome(&self, timeout: Duration) -> bool {
        self.shared.wait(after(timeout), crate::state::State::welcomed).unwrap_or(false)
    }

    /// [`Client::wait_welcome`] for tasks.
    pub async fn wait_welcome_async(&self, timeout: Duration) -> bool {
        self.shared.wait_async(after(timeout), crate::state::State::welcomed).await.unwrap_or(false)
    }

    /// Waits until the sender has stopped for good, and why.
    pub async fn ended(&self) -> End {
        let end = self.shared.wait_async(None, |state| state.end.clone()).await;
        end.unwrap_or(End::Abandoned)
    }

    /// Ends the producer: captures unfinished lines, sends everything and the Close, and waits until the server has stored
    /// it. After `timeout` the sender is stopped, and the outcome says how much stayed behind. A second call waits for the
    /// same Close, and tells the same outcome once there is one.
    pub fn close(&self, status: Status, exit_code: Option<i32>, timeout: Duration) -> CloseOutcome {
        self.close_while(status, exit_code, timeout, &mut || true)
    }

    /// [`Client::close`] that can be given up, see [`Client::flush_while`]: as if its time were up.
    pub fn close_while(
        &self,
        status: Status,
        exit_code: Option<i32>,
        timeout: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> CloseOutcome {
        let deadline = after(timeout);
        loop {
            let (streams, all) = self.shared.finish_streams();
            for mut last in streams {
                while let Some((entry, seal)) = last.next() {
                    self.shared.push(entry, seal, deadline);
                }
            }
            if all || is_past(deadline) {
                break;
            }
            std::thread::sleep(BUSY_STREAM_POLL);
        }
        self.request_close(status, exit_code);
        let ended = self.shared.wait_while(deadline, go_on, |state| state.end.is_some().then_some(()));
        self.conclude(ended.is_some())
    }

    /// [`Client::close`] for tasks.
    pub async fn close_async(&self, status: Status, exit_code: Option<i32>, timeout: Duration) -> CloseOutcome {
        let deadline = after(timeout);
        loop {
            let (streams, all) = self.shared.finish_streams();
            for mut last in streams {
                while let Some((entry, seal)) = last.next() {
                    self.shared.push_async(entry, seal, deadline).await;
                }
            }
            if all || is_past(deadline) {
                break;
            }
            tokio::time::sleep(BUSY_STREAM_POLL).await;
        }
        self.request_close(status, exit_code);
        let ended = self.shared.wait_async(deadline, |state| state.end.is_some().then_some(())).await;
        self.conclude(ended.is_some())
    }

    /// Gives up at once: stops the sender. What [`Client::close`] does when its time is up.
    pub fn abandon(&self) -> CloseOutcome {
        self.conclude(false)
    }

    /// Waits until the sender has stopped, or nothing is left to send and no end to be told. False: not in time.
    pub(crate) async fn is_over_or_stored_within(&self, timeout: Duration) -> bool {
        let check = |state: &State| {
            let is_stored = state.close.is_none() && state.queue.is_empty();
            (state.end.is_some() || is_stored).then_some(())
        };
        self.shared.wait_async(after(timeout), check).await.is_some()
    }

    /// Counters, now.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats()
    }

    /// Where people look at this task, if the server has said so.
    pub fn viewer_url(&self) -> Option<String> {
        self.shared.lock().viewer_url.clone()
    }

    fn request_close(&self, status: Status, exit_code: Option<i32>) {
        let mut state = self.shared.lock();
        if state.close.is_none() {
            let final_seq = state.queue.last_seq();
            let close = v1::Close { final_seq, status: wire_status(status), exit_code, ..v1::Close::default() };
            state.queue.spool_close(&close);
            state.close = Some(close);
        }
        drop(state);
        self.shared.wake.notify_one();
        self.shared.closing.notify_one();
        self.shared.notify();
    }

    fn conclude(&self, ended: bool) -> CloseOutcome {
        if !ended {
            self.shared.finish(End::Abandoned);
            self.shared.abandon.notify_one();
        }
        let state = self.shared.lock();
        state.outcome(state.end.clone().unwrap_or(End::Abandoned))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.abandon.notify_one();
    }
}

fn prepare(config: ClientConfig) -> Result<(Arc<Shared>, Endpoint), ClientError> {
    let endpoint = config.endpoint()?;
    let mut producer = [0; 16];
    getrandom::fill(&mut producer).map_err(ClientError::Random)?;
    let state = new_state(&config, producer);
    let shared = Arc::new(Shared::with_state(config, producer, state));
    if let Some(budget) = &shared.config.budget {
        budget.join(&shared);
    }
    Ok((shared, endpoint))
}

/// A spool that cannot be made is no reason not to capture.
fn new_state(config: &ClientConfig, producer: [u8; 16]) -> State {
    let Some(spool) = &config.spool else { return State::new(Queue::default()) };
    let meta = spool::Meta { hello: introduction(config, producer), server: config.server.clone() };
    match Ring::create(&spool.dir, &meta, spool.bytes) {
        Ok(ring) => State::new(Queue::with_spool(ring)),
        Err(error) => {
            let mut state = State::new(Queue::default());
            state.spool_problem = Some(format!("{}: {error}", spool.dir.display()));
            state
        }
    }
}

/// `None`: so far away that it never comes.
fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

pub(crate) fn wire_status(status: Status) -> i32 {
    let status = match status {
        Status::Unknown => v1::Status::Unspecified,
        Status::Succeeded => v1::Status::Succeeded,
        Status::Failed => v1::Status::Failed,
    };
    status as i32
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

//! A producer of numbered lines that survives everything and remembers what it was promised.
//!
//! It keeps no text: a line is a function of tag and number, so that "still holding a line" is keeping a number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_proto::v1::stream_logs_response::Message as Response;
use flowforge_proto::v1::{Close, LogBatch, LogEntry, Proof, StreamLogsRequest};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::line;
use crate::producer::{Call, connect_watchful, entry, hello, new_producer, prove};
use crate::wait::PATIENCE;

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(20);
/// The first line's time, ns; each is one later. What is proven must not change when it is sent again.
const CAPTURED_AT: i64 = 1_790_000_000_000_000_000;

/// What a generator does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `http://host:port` of gRPC.
    pub grpc_url: String,
    /// More of them: each call after the first goes to the next.
    pub others: Vec<String>,
    /// Which task.
    pub task: String,
    /// Begins every line; names the producer in failures.
    pub tag: String,
    /// Lines a second; `None` = as fast as they are taken.
    pub rate: Option<u32>,
    /// How many lines; `None` = until told to stop.
    pub lines: Option<u64>,
    /// Lines a batch, at most.
    pub batch: u64,
    /// Lines sent and not stored, at most: what an SDK's buffer holds.
    pub window: u64,
    /// Close at the end.
    pub close: bool,
}

impl Plan {
    /// At full speed, with a Close at the end.
    pub fn new(grpc_url: &str, task: &str, tag: &str, lines: u64) -> Self {
        Self {
            grpc_url: grpc_url.to_owned(),
            others: Vec::new(),
            task: task.to_owned(),
            tag: tag.to_owned(),
            rate: None,
            lines: Some(lines),
            batch: 500,
            window: 50_000,
            close: true,
        }
    }

    /// At a rate, until [`Generator::finish`].
    pub fn endless(grpc_url: &str, task: &str, tag: &str, rate: u32) -> Self {
        Self { rate: Some(rate), lines: None, ..Self::new(grpc_url, task, tag, 0) }
    }
}

/// What a producer knows and was told.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Its id.
    pub producer: u128,
    /// What its lines begin with.
    pub tag: String,
    /// Highest number it has given.
    pub captured: u64,
    /// Highest number acked as stored.
    pub acked: u64,
    /// The server said that its Close is stored.
    pub closed: bool,
    /// Welcomes got.
    pub welcomes: u64,
    /// How each call but the last ended.
    pub failures: Vec<Code>,
    /// The longest time without any progress, with lines to be acked.
    pub longest_stall: Duration,
    /// What the server said that it must never say.
    pub broken: Option<String>,
}

/// A running generator.
#[derive(Debug)]
pub struct Generator {
    journal: Arc<Mutex<Journal>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl Generator {
    /// Starts it on the current runtime.
    pub fn start(plan: Plan) -> Self {
        let producer = new_producer();
        let journal = Journal {
            producer,
            tag: plan.tag.clone(),
            captured: 0,
            acked: 0,
            closed: false,
            welcomes: 0,
            failures: Vec::new(),
            longest_stall: Duration::ZERO,
            broken: None,
        };
        let journal = Arc::new(Mutex::new(journal));
        let (stop, stopped) = watch::channel(false);
        let run = Run {
            plan,
            producer,
            journal: Arc::clone(&journal),
            stopped,
            start: Instant::now(),
            moved: Instant::now(),
            captured: 0,
            stored: 0,
            calls: 0,
        };
        let task = tokio::spawn(async move {
            // Said at once: whoever waits for acks would only learn that none come.
            run.run().await.inspect_err(|error| eprintln!("a generator gave up: {error:#}"))
        });
        Self { journal, stop, task }
    }

    /// What it knows now.
    pub fn journal(&self) -> Journal {
        lock(&self.journal).clone()
    }

    /// Lets it send what it has captured, waits until that is acked (and closed, if so planned), and takes its journal.
    pub async fn finish(self) -> Result<Journal> {
        self.stop.send_replace(true);
        self.join().await
    }

    /// Waits until all planned lines are acked.
    pub async fn join(self) -> Result<Journal> {
        self.task.await??;
        Ok(lock(&self.journal).clone())
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Run {
    plan: Plan,
    producer: u128,
    journal: Arc<Mutex<Journal>>,
    stopped: watch::Receiver<bool>,
    start: Instant,
    /// When the last progress was.
    moved: Instant,
    captured: u64,
    stored: u64,
    calls: usize,
}

impl Run {
    async fn run(mut self) -> Result<()> {
        loop {
            match self.one_call().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => match error.downcast_ref::<Status>().map(Status::code) {
                    Some(code) if is_passing(code) => lock(&self.journal).failures.push(code),
                    Some(_) => return Err(error.context(format!("producer {}", self.plan.tag))),
                    // Nobody listens.
                    None => {}
                },
            }
            self.note_stall();
            if self.moved.elapsed() > PATIENCE {
                bail!(
                    "producer {}: no progress for {PATIENCE:?}, {} of {} acked",
                    self.plan.tag,
                    self.stored,
                    self.captured
                );
            }
            sleep(RECONNECT).await;
        }
    }

    /// One call, from Hello to its end. `true`: everything is done.
    async fn one_call(&mut self) -> Result<bool> {
        let mut say = hello(&self.plan.task, self.producer);
        say.first_unacked_seq = self.stored + 1;
        let url = self.address();
        let mut call = Call::open_on(connect_watchful(&url).await?).await?;
        let welcome = call.say_hello(say).await?;
        lock(&self.journal).welcomes += 1;
        self.told(welcome.queued_seq, welcome.stored_seq);
        let Some(sender) = call.sender() else { return Ok(false) };
        let (mut next, mut sender) = (welcome.queued_seq + 1, Some(sender));
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            self.capture(next);
            let done = self.is_final() && next > self.captured;
            if done && !self.plan.close && self.stored == self.captured {
                return Ok(true);
            }
            if done
                && self.plan.close
                && let Some(sender) = sender.take()
            {
                let close = Close { final_seq: self.captured, proof: Some(self.proof()), ..Close::default() };
                let _ = sender.send(StreamLogsRequest { message: Some(Request::Close(close)) }).await;
                call.half_close();
            }
            let ready = next <= self.captured && next <= self.stored + self.plan.window;
            tokio::select! {
                answer = call.receive() => match answer? {
                    Some(Response::Ack(ack)) => self.told(ack.queued_seq, ack.stored_seq),
                    Some(Response::Resync(resync)) => next = resync.expected_seq,
                    Some(_) => {}
                    None if sender.is_none() => {
                        self.told(self.captured, self.captured);
                        lock(&self.journal).closed = true;
                        return Ok(true);
                    }
                    None => bail!("producer {}: the server ended the call OK before Close", self.plan.tag),
                },
                room = reserve(sender.as_ref()), if ready => {
                    let Some(room) = room else { continue };
                    let last = self.captured.min(next + self.plan.batch - 1).min(self.stored + self.plan.window);
                    let entries = (next..=last).map(|seq| self.entry(seq)).collect();
                    room.send(StreamLogsRequest { message: Some(Request::Batch(LogBatch { first_seq: next, entries })) });
                    next = last + 1;
                }
                _ = ticks.tick() => {
                    self.note_stall();
                    if self.moved.elapsed() > PATIENCE && self.stored < self.captured {
                        bail!("producer {}: no ack for {PATIENCE:?}, {} of {}", self.plan.tag, self.stored, self.captured);
                    }
                }
            }
        }
    }

    /// Where the next call goes.
    fn address(&mut self) -> String {
        let at = self.calls % (1 + self.plan.others.len());
        self.calls += 1;
        if at == 0 { self.plan.grpc_url.clone() } else { self.plan.others[at - 1].clone() }
    }

    /// The same whenever it is sent.
    fn entry(&self, seq: u64) -> LogEntry {
        LogEntry { time_unix_nano: CAPTURED_AT + seq.cast_signed(), ..entry(line::text(&self.plan.tag, seq)) }
    }

    /// What it has sent.
    fn proof(&self) -> Proof {
        prove(1, (1..=self.captured).map(|seq| self.entry(seq)))
    }

    fn is_final(&self) -> bool {
        self.plan.lines.is_some_and(|lines| self.captured >= lines) || *self.stopped.borrow()
    }

    /// Gives numbers to the lines that are due.
    fn capture(&mut self, next: u64) {
        if *self.stopped.borrow() {
            return;
        }
        let due = match self.plan.rate {
            Some(rate) => (self.start.elapsed().as_secs_f64() * f64::from(rate)) as u64,
            None => next + self.plan.batch,
        };
        let due = due.min(self.plan.lines.unwrap_or(u64::MAX));
        if due > self.captured {
            if self.stored == self.captured {
                self.moved = Instant::now();
            }
            self.captured = due;
            lock(&self.journal).captured = due;
        }
    }

    fn told(&mut self, queued: u64, stored: u64) {
        let mut journal = lock(&self.journal);
        if stored < self.stored {
            journal.broken = Some(format!("ack of {stored} after an ack of {}", self.stored));
        } else if stored > queued || queued > self.captured {
            journal.broken = Some(format!("stored {stored}, queued {queued}, but only {} exist", self.captured));
        }
        if stored > self.stored {
            journal.longest_stall = journal.longest_stall.max(self.moved.elapsed());
            self.moved = Instant::now();
        }
        self.stored = self.stored.max(stored);
        journal.acked = self.stored;
    }

    fn note_stall(&self) {
        if self.stored < self.captured {
            let mut journal = lock(&self.journal);
            journal.longest_stall = journal.longest_stall.max(self.moved.elapsed());
        }
    }
}

/// Whether to connect again.
fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::ResourceExhausted)
}

/// Room for one message; `None` once the call is over. Never, without a sender.
async fn reserve(
    sender: Option<&tokio::sync::mpsc::Sender<StreamLogsRequest>>,
) -> Option<tokio::sync::mpsc::Permit<'_, StreamLogsRequest>> {
    let Some(sender) = sender else { return std::future::pending().await };
    if let Ok(room) = sender.reserve().await {
        return Some(room);
    }
    // The call is over, and the answer that says why is on its way.
    sleep(Duration::from_millis(1)).await;
    None
}

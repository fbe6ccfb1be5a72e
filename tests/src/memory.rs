//! The resident memory of one process, over time.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

/// Between two samples.
const EVERY: Duration = Duration::from_millis(250);

/// Where curves are written, if this is set: a file each, `seconds,bytes` a line.
const FOLDER: &str = "FLOWFORGE_CURVES";

/// Bytes of a process: resident now, and the most that ever were.
pub fn resident(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        anyhow::Ok(kib * 1024)
    };
    Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// Bytes of a process now.
pub fn rss(pid: u32) -> Result<u64> {
    resident(pid).map(|(now, _)| now)
}

type Samples = Arc<Mutex<Vec<(Duration, u64)>>>;

/// A process whose memory is being looked at.
#[derive(Debug)]
pub struct Curve {
    began: u64,
    samples: Samples,
    sampling: JoinHandle<()>,
}

impl Curve {
    /// Looks from now on, until the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let (began, since, samples) = (rss(pid)?, Instant::now(), Samples::default());
        let kept = Arc::clone(&samples);
        let sampling = tokio::spawn(async move {
            while let Ok(bytes) = rss(pid) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((since.elapsed(), bytes));
                tokio::time::sleep(EVERY).await;
            }
        });
        Ok(Self { began, samples, sampling })
    }

    /// The most that it grew by, bytes. Says so on stderr, and keeps the curve where it is wanted.
    pub fn grown(&self, name: &str) -> Result<u64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let most = samples.iter().map(|(_, bytes)| *bytes).max().unwrap_or(self.began);
        let last = samples.last().map_or(self.began, |(_, bytes)| *bytes);
        eprintln!("{name}: memory {} KiB at first, {} at most, {} at last", self.began >> 10, most >> 10, last >> 10);
        if let Some(folder) = std::env::var_os(FOLDER) {
            let mut text = String::new();
            for (at, bytes) in &samples {
                writeln!(text, "{:.2},{bytes}", at.as_secs_f64())?;
            }
            std::fs::create_dir_all(&folder)?;
            std::fs::write(Path::new(&folder).join(format!("{name}.csv")), text)?;
        }
        Ok(most.saturating_sub(self.began))
    }
}

impl Drop for Curve {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

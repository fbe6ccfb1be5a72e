//! What a process has used, from /proc.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flowforge_tests::memory;

/// At one moment.
pub(crate) struct Usage {
    /// User and system time so far.
    pub(crate) cpu: Duration,
    /// Bytes resident now.
    pub(crate) rss: u64,
    /// Most bytes resident ever.
    pub(crate) peak_rss: u64,
}

impl Usage {
    /// Of a process, proc(5).
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields count from behind the name, which may hold anything: utime and stime are the 12th and 13th there.
        let fields: Vec<&str> = stat.rsplit_once(") ").context("an odd /proc/pid/stat")?.1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let (rss, peak_rss) = memory::resident(pid)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_millis(ticks * 1000 / ticks_per_second);
        Ok(Self { cpu, rss, peak_rss })
    }
}

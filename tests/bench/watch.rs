//! Viewers: they read a stream as a browser does, and note how old each line is when its bytes are here.

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;

use crate::load::now_ns;

/// What one viewer saw.
pub(crate) struct Report {
    /// Lines.
    pub(crate) lines: u64,
    /// Nanoseconds from send to here.
    pub(crate) latency: Histogram<u64>,
}

/// Watches from the first line to the end of the task. What it looks for is the time at the start of a message.
pub(crate) async fn watch(task_url: String, line_bytes: usize) -> Result<Report> {
    let mut report = Report { lines: 0, latency: Histogram::new(3)? };
    let response = reqwest::get(format!("{task_url}/logs/stream?from=1")).await?.error_for_status()?;
    let (mut chunks, mut rest) = (response.bytes_stream(), Vec::with_capacity(16 * line_bytes));
    while let Some(chunk) = chunks.next().await {
        let now = now_ns();
        rest.extend_from_slice(&chunk?);
        let mut done = 0;
        while let Some(length) = rest[done..].iter().position(|byte| *byte == b'\n') {
            if let Some(sent) = sent_at(&rest[done..done + length])? {
                report.lines += 1;
                report.latency.record(now.saturating_sub(sent).max(1))?;
            }
            done += length + 1;
        }
        rest.drain(..done);
    }
    Ok(report)
}

fn sent_at(line: &[u8]) -> Result<Option<u64>> {
    const MARK: &[u8] = b"\"message\":\"t=";
    if !line.starts_with(b"data: {") {
        return Ok(None);
    }
    let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { return Ok(None) };
    let digits = line.get(at + MARK.len()..at + MARK.len() + 20).context("a line without its time")?;
    Ok(Some(std::str::from_utf8(digits)?.parse()?))
}

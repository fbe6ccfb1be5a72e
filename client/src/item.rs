//! What a queue consists of: lines, lines that are in the spool alone, and runs of lines that were given up.

use flowforge_proto::v1;

use crate::entry::{ENTRY_OVERHEAD_BYTES, Entry, now_unix_nano};

/// Lines given up, which one entry of the log stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// Sequence numbers covered.
    pub(crate) lines: u64,
    /// Message bytes lost with them.
    pub(crate) bytes: u64,
    /// How many of the lines the server has been told are lost. The others were sent as themselves before they were
    /// dropped here, so an ack may yet prove that they arrived. Which ones is not kept: where a run is cut, the told ones
    /// count as the first. So what is counted as dropped may be too much by lines that arrived after all, never too little.
    pub(crate) announced: u64,
    pub(crate) time_unix_nano: i64,
}

#[derive(Debug)]
pub(crate) enum Body {
    Line(Entry),
    /// So many lines, one after the other, that the spool has.
    Spooled(u64),
    Run(Run),
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) first_seq: u64,
    pub(crate) body: Body,
}

impl Item {
    pub(crate) fn lines(&self) -> u64 {
        match &self.body {
            Body::Line(_) => 1,
            Body::Spooled(lines) => *lines,
            Body::Run(run) => run.lines,
        }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.lines() - 1
    }

    /// Lines that the spool has.
    pub(crate) fn spooled(&self) -> u64 {
        if let Body::Spooled(lines) = self.body { lines } else { 0 }
    }

    /// Of lines in memory, and of those given up.
    pub(crate) fn message_bytes(&self) -> u64 {
        match &self.body {
            Body::Line(entry) => entry.message.len() as u64,
            Body::Spooled(_) => 0,
            Body::Run(run) => run.bytes,
        }
    }

    pub(crate) fn cost(&self) -> usize {
        match &self.body {
            Body::Line(entry) => entry.cost(),
            Body::Spooled(_) => 0,
            Body::Run(_) => ENTRY_OVERHEAD_BYTES,
        }
    }

    pub(crate) fn wire_bytes(&self) -> usize {
        match &self.body {
            Body::Line(entry) => entry.wire_bytes(),
            Body::Spooled(_) => 0,
            Body::Run(_) => ENTRY_OVERHEAD_BYTES,
        }
    }

    /// This item as a dropped run.
    pub(crate) fn into_run(self) -> Run {
        match self.body {
            Body::Run(run) => run,
            Body::Spooled(lines) => Run { lines, time_unix_nano: now_unix_nano(), ..Run::default() },
            Body::Line(entry) => {
                Run { lines: 1, bytes: entry.message.len() as u64, announced: 0, time_unix_nano: entry.time_unix_nano }
            }
        }
    }
}

impl Run {
    pub(crate) fn join(mut self, later: Self) -> Self {
        self.lines += later.lines;
        self.bytes = self.bytes.saturating_add(later.bytes);
        self.announced += later.announced;
        self
    }

    /// Takes the first `count` lines away; returns (lines, bytes) that the server turns out to have as lines after all.
    pub(crate) fn trim(&mut self, count: u64) -> (u64, u64) {
        let rescued = count.saturating_sub(self.announced);
        // Single sizes are not kept, so a cut in the middle of a run shares its bytes out evenly.
        let share = |lines: u64| (u128::from(self.bytes) * u128::from(lines) / u128::from(self.lines)) as u64;
        let (cut, rescued_bytes) = (share(count), share(rescued));
        self.announced = self.announced.saturating_sub(count);
        self.lines -= count;
        self.bytes -= cut;
        (rescued, rescued_bytes)
    }

    pub(crate) fn to_wire(self) -> v1::LogEntry {
        v1::LogEntry {
            time_unix_nano: self.time_unix_nano,
            stream: v1::Stream::System as i32,
            dropped: Some(v1::Dropped { lines: self.lines, bytes: self.bytes }),
            ..v1::LogEntry::default()
        }
    }
}

//! What a task looks like now, for programs that ask Redis and not this server: `logs:state:…`, a hash that lives for an hour
//! after the task's last line.
//!
//! Input: batches that are stored. Output: at most one write a second for all tasks of a shard. It is a projection: nothing
//! here reads it, and a write that fails is made good by the next line's.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use flowforge_storage::{LogRecord, Stream, TaskKey};
use tracing::debug;

use super::Shared;
use super::keys::Shard;
use super::script::{Args, FACE};
use crate::broker::{Batch, rows};
use crate::clock::rfc3339_ms;

/// How often it is written.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// How long it is kept, seconds.
const LIVES: u64 = 3600;

/// Tasks of one script call: longer ones would keep others waiting.
const AT_ONCE: usize = 200;

/// Characters of a message.
const TEXT: usize = 1000;

/// Tasks with something new, by shard.
pub(super) type Faces = HashMap<usize, HashMap<TaskKey, Face>>;

/// What a hash shall say. `None` leaves what it says.
#[derive(Debug, Default)]
pub(super) struct Face {
    status: &'static str,
    exit_code: Option<i32>,
    lines: u64,
    stored_at_ms: i64,
    last_line: Option<Bytes>,
    progress: Option<Bytes>,
}

impl Face {
    /// Takes a later batch in. Batches of a task come in the order of their offsets.
    fn note(&mut self, batch: &Batch) {
        let Some(last) = batch.records.last() else { return };
        let end = rows::parse_end(last);
        self.status = end.as_ref().map_or("running", |end| end.status.name());
        self.exit_code = end.and_then(|end| end.exit_code);
        (self.lines, self.stored_at_ms) = (last.offset, last.created_at_ms);
        let newest =
            |wanted: &dyn Fn(&LogRecord) -> bool| batch.records.iter().rev().find(|row| wanted(row)).map(start);
        self.last_line = newest(&|row| row.stream != Stream::System).or_else(|| self.last_line.take());
        self.progress = newest(&|row| row.update_id != 0).or_else(|| self.progress.take());
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("status", self.status.to_owned()),
            ("exit_code", self.exit_code.map_or_else(String::new, |code| code.to_string())),
            ("lines", self.lines.to_string()),
            ("updated_at", rfc3339_ms(self.stored_at_ms)),
        ];
        fields.extend(self.last_line.as_ref().map(|start| ("last_line", text(start))));
        fields.extend(self.progress.as_ref().map(|start| ("progress", text(start))));
        fields
    }
}

/// As much of the message as its text can need. Copied, because the message may be a part of a buffer of megabytes; made a text
/// only when it is written, because most are overtaken before.
fn start(row: &LogRecord) -> Bytes {
    Bytes::copy_from_slice(&row.message[..row.message.len().min(TEXT * char::MAX_LEN_UTF8)])
}

fn text(start: &[u8]) -> String {
    String::from_utf8_lossy(start).chars().take(TEXT).collect()
}

/// Notes what a shard's delivery changed.
pub(super) fn note(faces: &mut Faces, shard: usize, batches: &[std::sync::Arc<Batch>]) {
    let of_shard = faces.entry(shard).or_default();
    for batch in batches {
        of_shard.entry(batch.task.clone()).or_default().note(batch);
    }
}

impl Shared {
    /// Writes what is new.
    pub(super) async fn show_faces(&self) {
        let faces = std::mem::take(&mut *self.faces());
        for (number, tasks) in faces {
            let tasks: Vec<_> = tasks.into_iter().collect();
            for some in tasks.chunks(AT_ONCE) {
                if let Err(error) = self.show(self.shards.get(number), some).await {
                    debug!(shard = number, %error, "cannot write the state of tasks, the next lines will");
                }
            }
        }
    }

    async fn show(&self, shard: &Shard, tasks: &[(TaskKey, Face)]) -> redis::RedisResult<()> {
        let keys: Vec<String> = tasks.iter().map(|(task, _)| shard.state(task)).collect();
        let mut args = Args::default();
        args.number(LIVES);
        for (_, face) in tasks {
            let fields = face.fields();
            args.number(2 * fields.len());
            for (name, value) in fields {
                args.push(name).push(value);
            }
        }
        let conn = self.link.conn().await?;
        FACE.call(&conn, &keys, &args).await.map(drop).inspect_err(|error| self.link.failed(&conn, error))
    }
}

#[cfg(test)]
mod tests {
    use flowforge_storage::TaskStatus;
    use flowforge_storage::contract::sample;

    use super::*;
    use crate::broker::EndInfo;

    fn row(offset: u64, stream: Stream, message: &str, update_id: u64) -> LogRecord {
        let message = Bytes::copy_from_slice(message.as_bytes());
        LogRecord { stream, message, update_id, ..sample::line(offset) }
    }

    fn batch(records: Vec<LogRecord>) -> Batch {
        Batch::new(sample::key("t"), sample::PRODUCER, records)
    }

    fn shown(face: &Face, name: &str) -> Option<String> {
        face.fields().into_iter().find(|(field, _)| *field == name).map(|(_, text)| text)
    }

    /// A message is cut where that cannot be seen.
    #[test]
    fn a_long_message_is_shown_as_far_as_before_it_was_cut() {
        for text in ["x".repeat(9000), "é".repeat(9000), "𝄞".repeat(9000), format!("x{}", "𝄞".repeat(9000))] {
            let mut face = Face::default();
            face.note(&batch(vec![row(1, Stream::Stdout, &text, 0)]));
            assert!(shown(&face, "last_line").unwrap() == text.chars().take(TEXT).collect::<String>());
        }
    }

    #[test]
    fn the_newest_of_everything_is_shown_and_an_end_until_lines_come_again() {
        let mut face = Face::default();
        face.note(&batch(vec![row(1, Stream::Stdout, "50%", 7), row(2, Stream::Stdout, "é".repeat(2000).as_str(), 0)]));
        assert_eq!((face.status, face.lines, shown(&face, "progress").as_deref()), ("running", 2, Some("50%")));
        assert_eq!(shown(&face, "last_line").unwrap().chars().count(), TEXT);
        let status = TaskStatus::Failed;
        let end = EndInfo { attempt: 1, offset: 3, status, exit_code: Some(3), lines: 2, dropped: 0, complete: true };
        let line = rows::end(0, &end);
        face.note(&batch(vec![LogRecord { fields: line.fields, ..row(3, Stream::System, "over", 0) }]));
        assert_eq!((face.status, face.exit_code, face.lines), ("failed", Some(3), 3));
        assert!(shown(&face, "last_line").unwrap().starts_with('é') && shown(&face, "progress").is_some());
        face.note(&batch(vec![row(4, Stream::Stderr, "again", 0)]));
        assert_eq!((face.status, face.exit_code), ("running", None));
        assert_eq!(shown(&face, "last_line").as_deref(), Some("again"));
        assert!(face.fields().contains(&("exit_code", String::new())), "an older code does not stay");
    }
}

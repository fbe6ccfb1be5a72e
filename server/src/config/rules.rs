//! What must hold among the values. Rules about one value's form are the loader's.

use std::time::Duration;

use super::{Config, Period};

impl Config {
    /// Every rule that is broken, as (key, words).
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut rule = |holds: bool, key: &'static str, words: String| {
            if !holds {
                problems.push((key, words));
            }
        };
        let (line, message) = (self.limits.max_line_bytes.bytes(), self.limits.max_message_bytes.bytes());
        rule((256..=16 << 20).contains(&line), "limits.max_line_bytes", "must be 256 B to 16 MiB".to_owned());
        rule(
            message >= 2 * line + 4096 && message <= 64 << 20,
            "limits.max_message_bytes",
            "must be at least twice limits.max_line_bytes and 4 KiB, and at most 64 MiB".to_owned(),
        );
        rule(
            (1..=self.batch.hard_max_rows).contains(&self.batch.max_rows),
            "batch.max_rows",
            format!("must be 1 to batch.hard_max_rows, which is {}", self.batch.hard_max_rows),
        );
        rule(
            self.queue.max_tenant_bytes <= self.queue.max_bytes,
            "queue.max_tenant_bytes",
            "must not exceed queue.max_bytes".to_owned(),
        );
        rule(
            self.queue.max_tenant_bytes.bytes() >= message,
            "queue.max_tenant_bytes",
            "must hold at least one message of limits.max_message_bytes".to_owned(),
        );
        rule((1..=1024).contains(&self.queue.shards), "queue.shards", "must be 1 to 1024".to_owned());
        let idle = self.queue.claim_idle;
        rule(idle >= Period::seconds(1), "queue.claim_idle", "must be at least 1s".to_owned());
        self.redis.problems(&mut rule);
        rule(self.broker.max_producers > 0, "broker.max_producers", "must be at least 1".to_owned());
        rule(self.sqlite.read_connections > 0, "sqlite.read_connections", "must be at least 1".to_owned());
        rule(
            self.postgres.max_connections >= 3,
            "postgres.max_connections",
            "must be at least 3: two are kept from readers".to_owned(),
        );
        rule(
            self.postgres.statement_timeout.duration().as_millis() > 0,
            "postgres.statement_timeout",
            "must be at least 1ms".to_owned(),
        );
        rule(self.tail.buffer.bytes() >= 4096, "tail.buffer", "must be at least 4 KiB".to_owned());
        let heartbeat = self.tail.heartbeat.duration();
        rule(
            (Duration::from_millis(100)..=Duration::from_secs(15)).contains(&heartbeat),
            "tail.heartbeat",
            "must be 100ms to 15s: readers take 45s of silence for a dead connection".to_owned(),
        );
        let url = &self.server.public_url;
        rule(
            url.is_empty() || url.starts_with("http://") || url.starts_with("https://"),
            "server.public_url",
            "must begin with http:// or https://".to_owned(),
        );
        self.clickhouse.problems(&mut rule);
        self.canary.problems(&mut rule);
        let same_port = self.server.grpc == self.server.http && self.server.http.port() != 0;
        rule(!same_port, "server.http", "must not be the address of server.grpc".to_owned());
        problems
    }
}

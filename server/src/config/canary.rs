//! The section `canary`.

use std::time::Duration;

use flowforge_storage::key::{MAX_NAME_BYTES, check};
use serde::{Deserialize, Serialize};

use super::Period;

/// A task of the server's own, which tests the whole way all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// What its task is called behind `flowforge-canary-`; empty: HOST-PORT.
    pub name: String,
    /// Between two lines.
    pub interval: Period,
    /// A line that is not seen for so long fails readiness.
    pub fail_after: Period,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self { enabled: false, name: String::new(), interval: Period::seconds(1), fail_after: Period::seconds(15) }
    }
}

impl CanaryConfig {
    /// Its task's id begins so.
    pub(crate) const PREFIX: &str = "flowforge-canary-";

    /// The id of its task; on this host and port where it has no name of its own. The same after every restart, another one on
    /// every server: history is one task's, and two do not mix.
    pub(crate) fn task_id(&self, host: &str, port: u16) -> String {
        if !self.name.is_empty() {
            return format!("{}{}", Self::PREFIX, self.name);
        }
        let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let host: String = host.chars().map(good).take(100).collect();
        format!("{}{host}-{port}", Self::PREFIX)
    }

    /// Tells `rule` whether each rule holds.
    pub(super) fn problems(&self, rule: &mut impl FnMut(bool, &'static str, String)) {
        rule(
            check("task id", &self.task_id("", 0)).is_ok(),
            "canary.name",
            format!("may have letters, digits, '.', '_' and '-', {} at most", MAX_NAME_BYTES - Self::PREFIX.len()),
        );
        let interval = Duration::from_millis(10)..=Duration::from_hours(1);
        rule(
            interval.contains(&self.interval.duration()),
            "canary.interval",
            "must be 10ms to 1h: each line is stored".to_owned(),
        );
        rule(self.fail_after >= Period::seconds(1), "canary.fail_after", "must be at least 1s".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_makes_a_valid_task_id() {
        let canary = CanaryConfig::default();
        assert_eq!(canary.task_id("web-1.example.org", 50051), "flowforge-canary-web-1.example.org-50051");
        for host in ["", "-", "käse küche", &"x".repeat(300)] {
            let id = canary.task_id(host, 65535);
            assert!(check("task id", &id).is_ok(), "{id}");
            assert_ne!(id, canary.task_id(host, 1));
        }
    }

    #[test]
    fn a_name_is_the_same_on_every_host() {
        let canary = CanaryConfig { name: "blue".to_owned(), ..CanaryConfig::default() };
        assert_eq!(canary.task_id("3f1c9", 50051), "flowforge-canary-blue");
        assert_eq!(canary.task_id("77aa0", 1), "flowforge-canary-blue");
    }
}

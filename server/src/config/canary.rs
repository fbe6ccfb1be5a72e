//! The section `canary`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Period;

/// A task of the server's own, which tests the whole way all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Between two lines.
    pub interval: Period,
    /// A line that is not seen for so long fails readiness.
    pub fail_after: Period,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self { enabled: false, interval: Period::seconds(1), fail_after: Period::seconds(15) }
    }
}

impl CanaryConfig {
    /// Tells `rule` whether each rule holds.
    pub(super) fn problems(&self, rule: &mut impl FnMut(bool, &'static str, String)) {
        let interval = Duration::from_millis(10)..=Duration::from_hours(1);
        rule(
            interval.contains(&self.interval.duration()),
            "canary.interval",
            "must be 10ms to 1h: each line is stored".to_owned(),
        );
        rule(self.fail_after >= Period::seconds(1), "canary.fail_after", "must be at least 1s".to_owned());
    }
}

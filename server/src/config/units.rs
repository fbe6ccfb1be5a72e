//! Durations and sizes as people write them: `500ms`, `10s`, `64KiB`.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time: `500ms`, `10s`, `5m`, `1h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// For the standard library.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text_of(deserializer, "a duration such as 500ms, 10s or 5m")?;
        let refused = || de::Error::custom(format!("must be a duration such as 500ms, 10s or 5m, but is {text:?}"));
        let parsed = jiff::SignedDuration::from_str(&text).map_err(|_| refused())?;
        Duration::try_from(parsed).map(Self).map_err(|_| refused())
    }
}

/// A length of time, or `auto`: what suits the rest of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoPeriod {
    /// Left to us.
    Auto,
    /// As given.
    Given(Period),
}

impl AutoPeriod {
    /// What was given, or else this.
    pub fn or(self, suitable: Period) -> Duration {
        match self {
            Self::Auto => suitable.duration(),
            Self::Given(period) => period.duration(),
        }
    }
}

impl Serialize for AutoPeriod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Given(period) => period.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AutoPeriod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if value == "auto" {
            return Ok(Self::Auto);
        }
        Period::deserialize(value).map(Self::Given).map_err(de::Error::custom)
    }
}

/// A number of bytes: `512B`, `64KiB`, `4MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many KiB.
    pub const fn kibibytes(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many MiB.
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// As a number.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As a length in memory.
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text_of(deserializer, "a size such as 512B, 64KiB or 4MiB")?;
        let parsed = text.parse::<bytesize::ByteSize>();
        parsed
            .map(|size| Self(size.as_u64()))
            .map_err(|_| de::Error::custom(format!("must be a size such as 512B, 64KiB or 4MiB, but is {text:?}")))
    }
}

/// A value with a unit is text. A bare number would leave its unit to be guessed.
fn text_of<'de, D: Deserializer<'de>>(deserializer: D, expected: &str) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        other => Err(de::Error::custom(format!("must be {expected}, with its unit, but is {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_required() {
        let period = |text: &str| serde_json::from_str::<Period>(text);
        assert_eq!(period("\"500ms\"").unwrap(), Period::milliseconds(500));
        assert_eq!(period("\"2m\"").unwrap(), Period::seconds(120));
        for bad in ["5", "\"5\"", "\"-5s\"", "\"soon\"", "true"] {
            assert!(period(bad).unwrap_err().to_string().contains("such as 500ms"), "{bad}");
        }
        assert_eq!(
            serde_json::from_str::<AutoPeriod>("\"auto\"").unwrap().or(Period::seconds(1)),
            Duration::from_secs(1)
        );
        assert_eq!(serde_json::from_str::<AutoPeriod>("\"2s\"").unwrap(), AutoPeriod::Given(Period::seconds(2)));
        assert!(serde_json::from_str::<AutoPeriod>("5").unwrap_err().to_string().contains("such as 500ms"));
        let size = |text: &str| serde_json::from_str::<Size>(text);
        assert_eq!(size("\"64KiB\"").unwrap(), Size::kibibytes(64));
        assert_eq!(size("\"4 MiB\"").unwrap(), Size::mebibytes(4));
        assert!(size("64").unwrap_err().to_string().contains("with its unit"));
        assert!(size("\"big\"").is_err());
    }
}

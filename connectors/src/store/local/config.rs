//! How much memory keyed state takes, and how often it reaches the disk.

use std::time::Duration;

use serde::Deserialize;

use crate::units::duration;

/// Settings of the keyed state of one consumer group on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Bytes that the cache of the whole group takes at most, at least 1 MiB: three quarters hold entries, of which half may
    /// wait to be written; a quarter holds blocks of files. Buffers of what was written lately come on top, about a quarter.
    pub cache_bytes: usize,
    /// How often changes are written to the local disk. A crash loses at most as much, which is then read from the
    /// changelog again.
    #[serde(with = "duration")]
    pub flush_interval: Duration,
    /// Bytes of changelog, from 64 KiB to 1 GiB, that are sorted in memory before they are written while state is restored;
    /// shared by all partitions that are being restored at once.
    pub restore_bytes: usize,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, flush_interval: Duration::from_secs(5), restore_bytes: 64 << 20 }
    }
}

impl StateConfig {
    /// Every problem with these settings, in words that name the setting; empty when there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, text: &str| {
            if !holds {
                problems.push(text.to_owned());
            }
        };
        require(self.cache_bytes >= 1 << 20, "state.cache_bytes must be at least 1048576");
        require(!self.flush_interval.is_zero(), "state.flush_interval must not be zero");
        require(
            (64 << 10..=1 << 30).contains(&self.restore_bytes),
            "state.restore_bytes must be from 65536 to 1073741824",
        );
        problems
    }

    /// Bytes of entries in memory.
    pub(crate) fn entry_bytes(&self) -> usize {
        self.cache_bytes - self.block_bytes()
    }

    /// Bytes of file blocks in memory.
    pub(crate) fn block_bytes(&self) -> usize {
        self.cache_bytes / 4
    }

    /// Bytes of what was written lately, which waits in memory to be put into files.
    pub(crate) fn write_bytes(&self) -> u64 {
        (self.cache_bytes as u64 / 4).clamp(512 << 10, 64 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `deny_unknown_fields`, a default or the duration format goes.
    #[test]
    fn reads_durations_and_refuses_unknown_keys() {
        let read = |text: &str| serde_json::from_str::<StateConfig>(text);
        let config = read(r#"{"flush_interval":"1s"}"#).unwrap();
        assert_eq!(config, StateConfig { flush_interval: Duration::from_secs(1), ..StateConfig::default() });
        assert_eq!(config.problems(), Vec::<String>::new());
        assert!(read(r#"{"cash_bytes":1}"#).unwrap_err().to_string().contains("cash_bytes"));
    }

    /// Red when a bound is not checked: a cache of nothing could hold no change.
    #[test]
    fn every_bound_is_checked() {
        let config = StateConfig { cache_bytes: 1, flush_interval: Duration::ZERO, restore_bytes: 1 };
        assert_eq!(config.problems().len(), 3);
    }
}

//! How often others are told where the partitions stand.

use std::time::Duration;

/// How often at most, while something is under way.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether partitions have moved since others were told, and when they may be told again.
#[derive(Default)]
pub(crate) struct ProgressReport {
    has_changed: bool,
    next: Duration,
}

impl ProgressReport {
    /// Partitions have moved, come or gone.
    pub(crate) fn change(&mut self) {
        self.has_changed = true;
    }

    /// Whether others are to be told now: once a second, and once nothing is under way. They are told then.
    pub(crate) fn is_due(&mut self, now: Duration, is_quiet: impl FnOnce() -> bool) -> bool {
        let is_due = self.has_changed && (now >= self.next || is_quiet());
        if is_due {
            self.has_changed = false;
            self.next = now + INTERVAL;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when others are told of nothing new, more than once a second while something is under way, or not at once when
    /// nothing is.
    #[test]
    fn others_are_told_once_a_second_and_once_nothing_is_under_way() {
        let (mut report, at) = (ProgressReport::default(), Duration::from_millis);
        assert!(!report.is_due(at(0), || true));
        report.change();
        assert!(report.is_due(at(0), || false) && !report.is_due(at(5_000), || true));
        report.change();
        assert!(report.is_due(at(5_000), || false));
        report.change();
        assert!(!report.is_due(at(5_999), || false) && report.is_due(at(5_999), || true));
    }
}

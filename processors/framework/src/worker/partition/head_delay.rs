//! The record at the head of a retry topic that is not due yet.

use std::time::Duration;

use crate::{
    ports::Clock,
    wire::{delivery_headers::due_ms, record::Record},
};

/// A head that is due this soon is waited for without telling the source, unless more than a few records wait behind it.
const SHORT: Duration = Duration::from_millis(200);
const FEW: usize = 100;

/// How long the head of a partition delays what is behind it.
#[derive(Debug, Default)]
pub(crate) struct HeadDelay {
    /// The offset of the record at the head that was looked at last, and when it is due.
    head: Option<(i64, Duration)>,
    /// The same time, if it had not come when the head was last looked at.
    wakes: Option<Duration>,
    /// Whether the source was told to deliver nothing until the head is due.
    is_told: bool,
}

impl HeadDelay {
    /// When this head of a topic whose records wait so long at most is due, if it is not yet.
    pub(crate) fn due(&mut self, head: &Record, longest: Duration, clock: &dyn Clock, group: &str) -> Option<Duration> {
        let now = clock.elapsed();
        let at = match self.head {
            Some((offset, at)) if offset == head.offset => at,
            // A clock that differs, or a forged time, must not hold a record for longer than its topic says.
            _ => {
                let left = due_ms(head, group).map_or(0, |due| due.saturating_sub(clock.now().millis()));
                now + Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(longest)
            }
        };
        self.head = Some((head.offset, at));
        self.wakes = (at > now).then_some(at);
        self.wakes
    }

    /// When the head is due, as [`HeadDelay::due`] found it.
    pub(crate) fn wakes(&self) -> Option<Duration> {
        self.wakes
    }

    /// Whether the source was told to deliver nothing until the head is due.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }

    /// The head is due so much later, and so many records stand there with it. Gives what the source is to be told, if
    /// anything: whether to deliver nothing.
    pub(crate) fn tell(&mut self, left: Option<Duration>, pending: usize) -> Option<bool> {
        let delayed = left.is_some_and(|left| left >= SHORT || pending >= FEW);
        // Once told it stays so until the head is due, however little is left.
        if self.is_told == (delayed || self.is_told && left.is_some()) {
            return None;
        }
        self.is_told = delayed;
        Some(delayed)
    }

    /// There is no head any more: it is read again.
    pub(crate) fn clear(&mut self) {
        (self.is_told, self.wakes) = (false, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the source is told twice, is told of a head that is due at once, or goes on before the head is due.
    #[test]
    fn the_source_is_told_once_and_goes_on_once_the_head_is_due() {
        let (mut delay, second, ms) = (HeadDelay::default(), Duration::from_secs(1), Duration::from_millis(1));
        assert_eq!(delay.tell(Some(ms), 1), None, "it is due at once");
        assert_eq!(delay.tell(Some(ms), FEW), Some(true), "many wait behind it");
        assert_eq!((delay.tell(Some(second), 1), delay.tell(Some(ms), 1)), (None, None));
        assert_eq!((delay.tell(None, 1), delay.is_told()), (Some(false), false));
        assert_eq!(delay.tell(Some(second), 1), Some(true));
    }
}

//! The end of a worker: nothing new begins, what is under way ends or is given up, and the source closes.

use std::time::Duration;

/// How far the end has come.
#[derive(Default)]
pub(super) struct Shutdown {
    /// Set once the process is to stop: when what is waited for is given up.
    gives_up: Option<Duration>,
    /// Whether the source is told to close.
    is_closing: bool,
}

impl Shutdown {
    /// The process is to stop: what is under way may take until then.
    pub(super) fn begin(&mut self, by: Duration) {
        self.gives_up = Some(by);
    }

    /// The source is told to close, and may take until then.
    pub(super) fn close(&mut self, by: Duration) {
        (self.gives_up, self.is_closing) = (Some(by), true);
    }

    /// Whether the process is to stop.
    pub(super) fn has_begun(&self) -> bool {
        self.gives_up.is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// When what is waited for is given up.
    pub(super) fn gives_up(&self) -> Option<Duration> {
        self.gives_up
    }

    pub(super) fn gave_up(&self, now: Duration) -> bool {
        self.gives_up.is_some_and(|by| by <= now)
    }
}

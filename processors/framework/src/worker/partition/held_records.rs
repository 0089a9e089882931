//! Records that failed or were told to wait: while there are some, nothing new of their partition begins.

use std::time::Duration;

use crate::worker::attempt::in_flight::InFlightRecord;

/// The records of one partition that hold it up.
#[derive(Debug, Default)]
pub(crate) struct HeldRecords {
    /// Those whose pause is not over.
    paused: Vec<InFlightRecord>,
    /// All that have not yet succeeded, those that run again included.
    count: usize,
    /// When those whose pause is not over run again.
    until: Duration,
}

impl HeldRecords {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing holds the partition up.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Holds the partition up with this record until then; it may be one that does so already.
    pub(crate) fn hold(&mut self, mut in_flight: InFlightRecord, until: Duration) {
        self.count += usize::from(!in_flight.blocks);
        (in_flight.blocks, in_flight.begun) = (true, true);
        self.until = self.until.max(until);
        self.paused.push(in_flight);
    }

    /// A record is done with, or is not to run any more; whether it was the last that held the partition up.
    pub(crate) fn settle(&mut self, in_flight: &InFlightRecord) -> bool {
        self.count -= usize::from(in_flight.blocks);
        in_flight.blocks && self.count == 0
    }

    /// When records run again, if any wait for that.
    pub(crate) fn wakes(&self) -> Option<Duration> {
        (!self.paused.is_empty()).then_some(self.until)
    }

    /// Takes the records whose pause is over; they hold the partition up until they have succeeded.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<InFlightRecord> {
        if self.until <= now { std::mem::take(&mut self.paused) } else { Vec::new() }
    }

    /// Lets go of the records whose pause is not over; how many.
    pub(crate) fn let_go(&mut self) -> usize {
        let paused = self.paused.drain(..).count();
        self.count -= paused;
        paused
    }
}

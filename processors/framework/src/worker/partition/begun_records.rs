//! Records of a partition that are begun: running, or waiting behind another of their key.

use super::lanes::{Lane, Lanes};
use crate::worker::attempt::in_flight::InFlightRecord;

/// The begun records of one partition, in lanes, and how many they are.
#[derive(Debug)]
pub(crate) struct BegunRecords {
    lanes: Lanes<InFlightRecord>,
    count: usize,
    /// Whether all run one after another, whatever their keys: those of a stateful group. What one changes is then
    /// committed before, or with, what another makes of it.
    in_order: bool,
}

impl BegunRecords {
    pub(crate) fn new(in_order: bool) -> Self {
        Self { lanes: Lanes::new(), count: 0, in_order }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The lane of records with this key.
    pub(crate) fn lane_of(&self, key: Option<&[u8]>) -> Option<Lane> {
        if self.in_order { Some(Lane::ONE) } else { Lane::of(key) }
    }

    /// Takes a record in: gives it back when it may run now, else it waits behind the others of its lane.
    pub(crate) fn enter(&mut self, in_flight: InFlightRecord) -> Option<InFlightRecord> {
        self.count += 1;
        self.lanes.enter(in_flight.lane, in_flight)
    }

    /// The running record of a lane is done: the next of that lane, to run now.
    pub(crate) fn leave(&mut self, lane: Option<Lane>) -> Option<InFlightRecord> {
        self.count -= 1;
        self.lanes.leave(lane)
    }

    /// Takes the waiting records out; the running ones stay.
    pub(crate) fn take_waiting(&mut self) -> impl Iterator<Item = InFlightRecord> {
        let count = &mut self.count;
        self.lanes.take_waiting().inspect(move |_| *count -= 1)
    }

    /// So many that were running, or were to run again, are not to run any more.
    pub(crate) fn let_go(&mut self, count: usize) {
        self.count -= count;
    }
}

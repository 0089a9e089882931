//! A record that its processor is done with, and what a unit of work needs to know of it.

use std::time::Duration;

use super::unit_share::UnitShare;
use crate::{
    event::time::Time,
    ports::unit::StateChange,
    telemetry::spans::Span,
    wire::{
        group_topics::TopicRole,
        record::{Outgoing, Record, TopicPartition},
    },
    worker::attempt::in_flight::{Disposition, Effects, InFlightRecord},
};

/// A record whose processor is done.
#[derive(Debug)]
pub(crate) struct FinishedRecord {
    pub(crate) covered: CoveredRecord,
    pub(crate) effects: Effects,
    pub(crate) at: Duration,
}

impl FinishedRecord {
    pub(crate) fn new(in_flight: InFlightRecord, mut effects: Effects, at: Duration) -> Self {
        let outgoing =
            effects.outgoing.iter().chain(effects.marker.iter().map(|m| &m.record)).map(Outgoing::size).sum::<usize>();
        let changed = effects.change.iter().chain(effects.waiting.as_deref()).map(StateChange::size).sum::<usize>();
        let InFlightRecord { partition, role, start, record, .. } = in_flight;
        let covered = CoveredRecord {
            partition,
            role,
            start,
            offset: record.offset,
            disposition: effects.disposition,
            bytes: record.size() + outgoing + changed,
            record: Some(record),
            share: UnitShare::of(&effects),
            event_time: effects.event_time,
            _spans: std::mem::take(&mut effects.spans),
        };
        Self { covered, effects, at }
    }
}

/// A record that a batch covers, and how much of the batch's unit is its own.
#[derive(Debug)]
pub(crate) struct CoveredRecord {
    pub(crate) partition: TopicPartition,
    pub(crate) role: TopicRole,
    pub(crate) start: u64,
    pub(crate) offset: i64,
    pub(crate) disposition: Disposition,
    /// The record, unless its row has it.
    pub(crate) record: Option<Record>,
    pub(crate) share: UnitShare,
    /// Bytes of the record, of what it publishes and of what it changes.
    pub(crate) bytes: usize,
    /// When its event happened, where that is known.
    pub(crate) event_time: Option<Time>,
    /// Spans that end with it: those of what it publishes, and a row's attempt.
    pub(crate) _spans: Vec<Span>,
}

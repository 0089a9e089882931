//! How much of a unit of work belongs to which of its records.

use std::{iter::Sum, ops::Add, vec::IntoIter};

use crate::{
    ports::unit::{Marker, Row, StateChange, Unit},
    wire::record::Outgoing,
    worker::attempt::in_flight::Effects,
};

/// How much of a unit is one record's, or that of several in a row: a unit has its records' effects in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitShare {
    pub(crate) outgoing: usize,
    pub(crate) rows: usize,
    pub(crate) changes: usize,
    pub(crate) markers: usize,
}

impl UnitShare {
    /// What these effects will be of a unit.
    pub(crate) fn of(effects: &Effects) -> Self {
        Self {
            outgoing: effects.outgoing.len(),
            rows: usize::from(effects.row.is_some()),
            changes: usize::from(effects.change.is_some()) + usize::from(effects.waiting.is_some()),
            markers: usize::from(effects.marker.is_some()),
        }
    }

    /// Leaves this share, which is the first of the unit, there, and gives what comes behind it. The positions stay.
    pub(crate) fn split_off(self, unit: &mut Unit) -> Unit {
        Unit {
            outgoing: unit.outgoing.split_off(self.outgoing),
            rows: unit.rows.split_off(self.rows),
            changes: unit.changes.split_off(self.changes),
            markers: unit.markers.split_off(self.markers),
            positions: Vec::new(),
        }
    }
}

impl Add for UnitShare {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            outgoing: self.outgoing + other.outgoing,
            rows: self.rows + other.rows,
            changes: self.changes + other.changes,
            markers: self.markers + other.markers,
        }
    }
}

impl Sum for UnitShare {
    fn sum<I: Iterator<Item = Self>>(shares: I) -> Self {
        shares.fold(Self::default(), Add::add)
    }
}

/// A unit that is taken apart, one record's share after another.
pub(crate) struct UnitShares {
    outgoing: IntoIter<Outgoing>,
    rows: IntoIter<Row>,
    changes: IntoIter<StateChange>,
    markers: IntoIter<Marker>,
}

impl UnitShares {
    pub(crate) fn of(unit: Unit) -> Self {
        Self {
            outgoing: unit.outgoing.into_iter(),
            rows: unit.rows.into_iter(),
            changes: unit.changes.into_iter(),
            markers: unit.markers.into_iter(),
        }
    }

    /// The next record's effects, as a unit of their own without positions.
    pub(crate) fn take(&mut self, share: UnitShare) -> Unit {
        Unit {
            outgoing: self.outgoing.by_ref().take(share.outgoing).collect(),
            rows: self.rows.by_ref().take(share.rows).collect(),
            changes: self.changes.by_ref().take(share.changes).collect(),
            markers: self.markers.by_ref().take(share.markers).collect(),
            positions: Vec::new(),
        }
    }
}

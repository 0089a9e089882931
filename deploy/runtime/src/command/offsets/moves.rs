//! Where a partition goes on.

use headwater::TopicPartition;

use crate::command::groups::group_status::PartitionPosition;

/// One partition's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) partition: TopicPartition,
    /// What was committed.
    pub(super) from: Option<i64>,
    /// Where it goes on without the move.
    pub(super) next: i64,
    pub(super) to: i64,
    pub(super) first: i64,
    pub(super) end: i64,
    /// What was asked for, where the log does not have it.
    pub(super) asked: Option<i64>,
}

impl Move {
    pub(super) fn new(place: &PartitionPosition, asked: i64) -> Self {
        let to = asked.clamp(place.first, place.end.max(place.first));
        let PartitionPosition { partition, committed, next, first, end, .. } = place.clone();
        Self { partition, from: committed, next, to, first, end, asked: (asked != to).then_some(asked) }
    }

    /// Records that are read again; a hole in the offsets counts as some.
    pub(super) fn again(&self) -> i64 {
        self.from.map_or(0, |from| (from.min(self.end) - self.to).max(0))
    }

    /// Records that are never read.
    pub(super) fn skipped(&self) -> i64 {
        (self.to - self.next.max(self.first)).max(0)
    }

    pub(super) fn effect(&self) -> String {
        let effect = match (self.again(), self.skipped()) {
            (0, 0) if self.from == Some(self.to) => "stays".to_owned(),
            (0, 0) => "begins here".to_owned(),
            (again, 0) => format!("{again} will be read again"),
            (_, skipped) => format!("{skipped} will be skipped"),
        };
        match self.asked {
            Some(asked) if asked < self.to => format!("{effect}; the log begins at {}, not at {asked}", self.to),
            Some(asked) => format!("{effect}; the log ends at {}, not at {asked}", self.to),
            None => effect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::groups::group_status::tests::place;

    /// Red when records are counted that the log has not, or a place is not brought into it and said.
    #[test]
    fn a_move_counts_what_the_log_has() {
        let of = |committed, asked| Move::new(&place(committed), asked);
        for (moved, to, again, skipped, effect) in [
            (of(Some(15), 10), 10, 5, 0, "5 will be read again"),
            (of(Some(15), 3), 10, 5, 0, "5 will be read again; the log begins at 10, not at 3"),
            (of(Some(15), 20), 20, 0, 5, "5 will be skipped"),
            (of(Some(7), 12), 12, 0, 2, "2 will be skipped"),
            (of(Some(99), 10), 10, 10, 0, "10 will be read again"),
            (of(Some(15), 15), 15, 0, 0, "stays"),
            (of(None, 10), 10, 0, 0, "begins here"),
            (of(None, 50), 20, 0, 10, "10 will be skipped; the log ends at 20, not at 50"),
        ] {
            assert_eq!((moved.to, moved.again(), moved.skipped()), (to, again, skipped), "{moved:?}");
            assert_eq!(moved.effect(), effect);
        }
    }
}

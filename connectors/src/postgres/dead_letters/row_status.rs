//! What the records of one place come to, one after the other.

use headwater::spi::DeadLetter;

use super::query::Status;

/// A record that has come back more often than this is parked: somebody should look before it is sent again.
const LIMIT: i32 = 3;

/// How a row stands, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowStatus<'a> {
    pub(super) status: Status,
    pub(super) redrives: i32,
    /// The letter whose failure the row tells; `None` while that is the one that is stored.
    pub(super) letter: Option<&'a DeadLetter>,
    /// The earliest first failure that `letter` and those before it tell.
    pub(super) first_failed_ms: i64,
}

impl<'a> RowStatus<'a> {
    /// A row as it is stored.
    pub(super) fn stored(status: Status, redrives: i32) -> Self {
        Self { status, redrives, letter: None, first_failed_ms: i64::MAX }
    }

    /// The row with this letter, which may be none so far.
    fn told(row: Option<&Self>, letter: &'a DeadLetter) -> Self {
        let redrives = count(letter);
        let status = if redrives > LIMIT { Status::Parked } else { Status::Open };
        let earlier = row.map_or(i64::MAX, |row| row.first_failed_ms);
        Self { status, redrives, letter: Some(letter), first_failed_ms: earlier.min(letter.first_failed_ms) }
    }

    /// Only a letter that has been sent back since is news, or one that failed again after it had succeeded.
    fn yields_to(&self, letter: &DeadLetter) -> bool {
        let redrives = count(letter);
        redrives > self.redrives || (redrives == self.redrives && self.status == Status::Resolved)
    }

    /// Takes the news that the record has succeeded.
    fn resolve(&mut self, redrives: i32) -> bool {
        let closed = matches!(self.status, Status::Discarded | Status::Edited);
        let resolved = Self { status: Status::Resolved, redrives, ..*self };
        let changes = !closed && self.redrives <= redrives && *self != resolved;
        if changes {
            *self = resolved;
        }
        changes
    }
}

/// Applies a record of a dead-letter topic to its row, and says whether that changed anything.
pub(super) fn apply<'a>(row: &mut Option<RowStatus<'a>>, news: &'a DeadLetter) -> bool {
    match row {
        None if news.resolved => false,
        Some(row) if news.resolved => row.resolve(count(news)),
        Some(row) if !row.yields_to(news) => false,
        _ => {
            *row = Some(RowStatus::told(row.as_ref(), news));
            true
        }
    }
}

fn count(letter: &DeadLetter) -> i32 {
    i32::try_from(letter.redrives).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use headwater::{
        Headers,
        spi::{Catalogue, Record},
    };

    use super::*;

    fn letter(redrives: u32) -> DeadLetter {
        let record = Record {
            topic: "g.dlq".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Headers::default(),
        };
        DeadLetter { redrives, ..DeadLetter::read(&record, &Catalogue::default()) }
    }

    fn marker(redrives: u32) -> DeadLetter {
        DeadLetter { resolved: true, ..letter(redrives) }
    }

    /// What becomes of a row that stands like this.
    fn after(row: Option<(Status, i32)>, news: &DeadLetter) -> Option<(Status, i32)> {
        let mut row = row.map(|(status, redrives)| RowStatus::stored(status, redrives));
        let before = row;
        assert_eq!(apply(&mut row, news), row != before, "what is said to change changes");
        row.map(|row| (row.status, row.redrives))
    }

    /// Red when a count that is not higher opens anything but a resolved row, or a higher one does not open all.
    #[test]
    fn a_letter_opens_a_row_only_with_news() {
        use Status::{Discarded, Edited, Open, Parked, Redriven, Resolved};
        for status in [Open, Redriven, Discarded, Edited, Parked, Resolved] {
            assert_eq!(after(Some((status, 2)), &letter(1)), Some((status, 2)), "lower: {status:?}");
            let equal = if status == Resolved { Open } else { status };
            assert_eq!(after(Some((status, 2)), &letter(2)), Some((equal, 2)), "equal: {status:?}");
            assert_eq!(after(Some((status, 2)), &letter(3)), Some((Open, 3)), "higher: {status:?}");
            assert_eq!(after(Some((status, 2)), &letter(4)), Some((Parked, 4)), "past the limit: {status:?}");
        }
        assert_eq!(after(None, &letter(0)), Some((Open, 0)));
        assert_eq!(after(None, &letter(3)), Some((Open, 3)));
        assert_eq!(after(None, &letter(u32::MAX)), Some((Parked, i32::MAX)));
        assert_eq!(after(Some((Resolved, 4)), &letter(4)), Some((Parked, 4)));
    }

    /// Red when the news resolves what a person has closed, what has failed since, or what was never there.
    #[test]
    fn a_marker_resolves_what_was_sent_back() {
        use Status::{Discarded, Edited, Open, Parked, Redriven, Resolved};
        for status in [Open, Redriven, Parked, Resolved] {
            assert_eq!(after(Some((status, 2)), &marker(3)), Some((Resolved, 3)), "higher: {status:?}");
            assert_eq!(after(Some((status, 2)), &marker(2)), Some((Resolved, 2)), "equal: {status:?}");
            assert_eq!(after(Some((status, 2)), &marker(1)), Some((status, 2)), "lower: {status:?}");
        }
        for status in [Discarded, Edited] {
            assert_eq!(after(Some((status, 2)), &marker(3)), Some((status, 2)), "{status:?}");
        }
        assert_eq!(after(None, &marker(1)), None);
    }

    /// Red when the last letter's first failure wins, or a letter that is no news leaves its own.
    #[test]
    fn the_first_failure_stays_the_first() {
        let at = |redrives, first_failed_ms| DeadLetter { first_failed_ms, ..letter(redrives) };
        let (first, stale, second) = (at(0, 100), at(0, 50), at(1, 200));
        let mut row = None;
        for news in [&first, &stale, &second] {
            apply(&mut row, news);
        }
        let row = row.unwrap();
        assert_eq!((row.first_failed_ms, row.letter), (100, Some(&second)));
    }
}

//! What is asked, and by whom.

use std::collections::BTreeSet;

use super::answer::{RefusalKind, StateError};

/// Keys that are listed when nobody says how many, and at most.
const LIMIT: usize = 100;
pub(super) const MOST: usize = 1_000;

/// Whose question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Somebody's; another instance may have to be asked.
    First,
    /// Another instance's, which takes this one for the owner: it is not passed on again.
    Forwarded,
}

impl Hop {
    /// That an instance is not the owner concerns only the instance that asked it.
    pub(super) fn told(self, refusal: StateError) -> StateError {
        match (refusal.why, self) {
            (RefusalKind::Moved, Self::First) => {
                RefusalKind::Away.because(format!("{}; it is moving: try again shortly", refusal.text))
            }
            _ => refusal,
        }
    }
}

/// Which keys are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    /// What they begin with.
    pub(super) prefix: String,
    /// How many at most.
    pub(crate) limit: usize,
    /// Of which partitions; of all where that is not said.
    pub(super) partitions: Option<BTreeSet<i32>>,
}

impl ListQuery {
    /// # Errors
    /// When more keys are wanted than are listed.
    pub(crate) fn new(prefix: Option<String>, limit: Option<usize>) -> Result<Self, StateError> {
        let limit = limit.unwrap_or(LIMIT);
        if !(1..=MOST).contains(&limit) {
            return Err(RefusalKind::Wrong.because(format!("limit must be from 1 to {MOST}")));
        }
        Ok(Self { prefix: prefix.unwrap_or_default(), limit, partitions: None })
    }

    /// Only these partitions, as `0,3,5`.
    pub(super) fn of(self, partitions: &str) -> Result<Self, StateError> {
        let numbers: Result<BTreeSet<i32>, _> = partitions.split(',').map(str::parse).collect();
        let wrong = |_| RefusalKind::Wrong.because("partitions must be numbers such as 0,3,5");
        Ok(Self { partitions: Some(numbers.map_err(wrong)?), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a list has no bound, or what is no number is passed over.
    #[test]
    fn a_list_is_bounded() {
        assert_eq!(ListQuery::new(None, None).unwrap().limit, 100);
        assert_eq!(ListQuery::new(None, Some(1_000)).unwrap().limit, 1_000);
        for wrong in [0, 1_001] {
            assert_eq!(ListQuery::new(None, Some(wrong)).unwrap_err().status(), 400);
        }
        let asked = || ListQuery::new(None, None).unwrap();
        assert_eq!(asked().of("3,0").unwrap().partitions, Some(BTreeSet::from([0, 3])));
        assert!(asked().of("0,x").is_err() && asked().of("").is_err());
    }
}

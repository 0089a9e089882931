//! Key lanes: records of one key run one after another, records of different keys side by side.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
};

/// The lane of a record; two keys may share one, which costs them time and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane(u64);

impl Lane {
    /// The lane of all records, where all go one after another.
    pub(crate) const ONE: Self = Self(0);

    /// The lane of a key; a record without a key has none, and no order.
    pub(crate) fn of(key: Option<&[u8]>) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        key?.hash(&mut hasher);
        Some(Self(hasher.finish()))
    }
}

/// A lane is a hash already.
#[derive(Default)]
struct LaneHasher(u64);

impl Hasher for LaneHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The busy lanes of one partition and what waits in each.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    busy: HashMap<Lane, VecDeque<T>, BuildHasherDefault<LaneHasher>>,
}

impl<T> Lanes<T> {
    pub(crate) fn new() -> Self {
        Self { busy: HashMap::default() }
    }

    /// Takes a record in: gives it back when it may run now, else it waits behind the others of its lane.
    pub(crate) fn enter(&mut self, lane: Option<Lane>, record: T) -> Option<T> {
        let Some(lane) = lane else { return Some(record) };
        match self.busy.get_mut(&lane) {
            Some(queue) => {
                queue.push_back(record);
                None
            }
            None => {
                self.busy.insert(lane, VecDeque::new());
                Some(record)
            }
        }
    }

    /// The running record of a lane is done: the next of that lane, to run now.
    pub(crate) fn leave(&mut self, lane: Option<Lane>) -> Option<T> {
        let lane = lane?;
        let next = self.busy.get_mut(&lane)?.pop_front();
        if next.is_none() {
            self.busy.remove(&lane);
        }
        next
    }

    /// Takes the waiting records out; the running ones stay.
    pub(crate) fn take_waiting(&mut self) -> impl Iterator<Item = T> {
        self.busy.values_mut().flat_map(|queue| queue.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Red when `enter` runs a record of a busy lane, or `leave` takes the newest.
        #[test]
        fn lanes_keep_per_key_order_under_random_completion(
            keys in proptest::collection::vec(0..8u8, 1..200),
            picks in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 200),
        ) {
            let mut lanes = Lanes::new();
            let (mut running, mut done) = (Vec::new(), HashMap::<u8, Vec<usize>>::new());
            let mut records = keys.iter().copied().enumerate();
            let mut picks = picks.iter().cycle();
            loop {
                let next = records.next();
                if let Some((seq, key)) = next {
                    running.extend(lanes.enter(Lane::of(Some(&[key])), (seq, key)));
                }
                if running.is_empty() {
                    if next.is_none() { break }
                    continue;
                }
                let (ends, pick) = picks.next().expect("a cycle");
                if next.is_none() || *ends {
                    let (seq, key) = running.swap_remove(pick.index(running.len()));
                    prop_assert!(running.iter().all(|(_, k)| *k != key), "two of one key at once");
                    done.entry(key).or_default().push(seq);
                    running.extend(lanes.leave(Lane::of(Some(&[key]))));
                }
            }
            prop_assert_eq!(done.values().map(Vec::len).sum::<usize>(), keys.len());
            for order in done.values() {
                prop_assert!(order.is_sorted(), "{:?}", order);
            }
        }
    }

    /// Red when a record without a key is put into a lane.
    #[test]
    fn records_without_a_key_wait_for_nobody() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.enter(Lane::of(None), 1), Some(1));
        assert_eq!(lanes.enter(Lane::of(None), 2), Some(2));
        assert_eq!(lanes.leave(Lane::of(None)), None);
    }

    /// Red when a running record is taken with the waiting ones, or its lane with it.
    #[test]
    fn only_waiting_jobs_are_taken() {
        let (mut lanes, lane) = (Lanes::new(), Lane::of(Some(b"a")));
        assert_eq!((1..=4).filter_map(|record| lanes.enter(lane, record)).collect::<Vec<_>>(), [1]);
        assert_eq!(lanes.take_waiting().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(lanes.enter(lane, 5), None, "the first still runs");
        assert_eq!((lanes.leave(lane), lanes.leave(lane)), (Some(5), None));
    }
}

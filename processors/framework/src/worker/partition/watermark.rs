//! How far a partition is done: the end of the contiguous run of finished records.

use std::collections::VecDeque;

/// The records of one partition that are under way, in order, and what those that finished ahead have left.
///
/// It tracks the offsets that were received, so holes (compaction, transaction markers) do not hold it up.
#[derive(Debug)]
pub(crate) struct Watermark<T> {
    slots: VecDeque<Slot<T>>,
    bytes: usize,
    /// How many slots have let go of their records.
    shed: usize,
    /// The offset behind the last record that was passed.
    passed: i64,
}

#[derive(Debug)]
struct Slot<T> {
    offset: i64,
    bytes: usize,
    timestamp_ms: i64,
    done: Option<T>,
    /// Its record was let go of, and comes again.
    shed: bool,
}

impl<T> Watermark<T> {
    pub(crate) fn new() -> Self {
        Self { slots: VecDeque::new(), bytes: 0, shed: 0, passed: i64::MIN }
    }

    /// A record of this size and timestamp was received; false when it is not beyond the last one and was not let go of, and
    /// so is a repeat that must be dropped.
    pub(crate) fn receive(&mut self, offset: i64, bytes: usize, timestamp_ms: i64) -> bool {
        if self.slots.back().is_some_and(|last| offset <= last.offset) {
            return self.receive_again(offset, bytes);
        }
        if offset < self.passed {
            return false;
        }
        self.slots.push_back(Slot { offset, bytes, timestamp_ms, done: None, shed: false });
        self.bytes += bytes;
        true
    }

    fn receive_again(&mut self, offset: i64, bytes: usize) -> bool {
        let Some(at) = self.find(offset).filter(|at| self.slots[*at].shed) else { return false };
        (self.slots[at].shed, self.slots[at].bytes) = (false, bytes);
        (self.shed, self.bytes) = (self.shed - 1, self.bytes + bytes);
        true
    }

    /// Lets go of a record that is not finished: it holds its place until it comes again.
    pub(crate) fn shed(&mut self, offset: i64) {
        let Some(at) = self.find(offset).filter(|at| !self.slots[*at].shed) else { return };
        (self.shed, self.bytes) = (self.shed + 1, self.bytes - self.slots[at].bytes);
        (self.slots[at].shed, self.slots[at].bytes) = (true, 0);
    }

    /// The log was read anew up to this offset: what was let go of before it and has not come is there no more.
    pub(crate) fn read_to(&mut self, offset: i64) {
        if self.shed == 0 {
            return;
        }
        self.slots.retain(|slot| !slot.shed || slot.offset >= offset);
        self.shed = self.slots.iter().filter(|slot| slot.shed).count();
    }

    /// Records that were received, but for those that were let go of, and that nothing has passed yet.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.shed
    }

    /// Bytes of those.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Offset and timestamp of the first of those.
    pub(crate) fn oldest(&self) -> Option<(i64, i64)> {
        self.slots.front().map(|slot| (slot.offset, slot.timestamp_ms))
    }

    /// A record is finished and leaves this behind. One that is not under way is ignored.
    pub(crate) fn finish(&mut self, offset: i64, left: T) {
        if let Some(at) = self.find(offset) {
            self.slots[at].done = Some(left);
        }
    }

    fn find(&self, offset: i64) -> Option<usize> {
        let first = self.slots.front()?;
        // Where there is no hole the place is known; most records finish in order besides.
        let guess = usize::try_from(offset - first.offset).ok().filter(|at| self.is_at(*at, offset));
        guess.or_else(|| self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok())
    }

    fn is_at(&self, at: usize, offset: i64) -> bool {
        self.slots.get(at).is_some_and(|slot| slot.offset == offset)
    }

    /// Takes the first record if it is finished: its offset and what it left.
    pub(crate) fn pass(&mut self) -> Option<(i64, T)> {
        let first = self.slots.front_mut()?;
        let done = first.done.take()?;
        let offset = first.offset;
        self.bytes -= first.bytes;
        self.passed = offset + 1;
        self.slots.pop_front();
        Some((offset, done))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model: the watermark stands before the smallest offset that was received and is not finished.
        /// Red when `pass` skips an unfinished record, a hole stops it, or what was passed still counts.
        #[test]
        fn the_watermark_equals_a_set_model(
            gaps in proptest::collection::vec(1..4i64, 1..80),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..120),
        ) {
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut open: BTreeSet<i64> = offsets.iter().copied().collect();
            let mut watermark = Watermark::new();
            prop_assert!(offsets.iter().all(|o| watermark.receive(*o, 3, 7 * o)));
            prop_assert!(!watermark.receive(offsets[0], 3, 0), "a repeat is refused");
            let mut passed = 0;
            for index in order {
                let offset = *index.get(&offsets);
                if open.remove(&offset) {
                    watermark.finish(offset, offset);
                }
                while let Some((at, left)) = watermark.pass() {
                    prop_assert_eq!(at, left);
                    passed = at;
                }
                let model = offsets.iter().copied().take_while(|o| !open.contains(o)).last().unwrap_or(0);
                prop_assert_eq!(passed, model);
                prop_assert_eq!(watermark.bytes(), 3 * watermark.len());
                let oldest = offsets.iter().find(|o| **o > passed).map(|o| (*o, 7 * o));
                prop_assert_eq!(watermark.oldest(), oldest);
            }
        }
    }

    /// Retention and compaction do not wait for who reads. Red when what was let go of and is gone from the log holds up what
    /// comes behind it for ever, or what is still to come is taken for gone.
    #[test]
    fn what_was_let_go_of_and_is_gone_holds_up_nothing() {
        let mut watermark = Watermark::new();
        assert!((10..=14).all(|o| watermark.receive(o, 3, o)));
        (11..=14).for_each(|o| watermark.shed(o));
        watermark.finish(10, 10);
        assert_eq!(watermark.pass(), Some((10, 10)));
        watermark.read_to(13);
        assert!(watermark.receive(13, 3, 13));
        watermark.finish(13, 13);
        assert_eq!(watermark.pass(), Some((13, 13)), "11 and 12 are gone");
        assert_eq!((watermark.len(), watermark.bytes(), watermark.pass()), (0, 0, None), "14 comes again");
        watermark.read_to(15);
        assert!(watermark.receive(15, 3, 15));
        watermark.finish(15, 15);
        assert_eq!(watermark.pass(), Some((15, 15)));
    }

    /// Red when what was let go of is passed, still takes room, or does not come again; or when what is done or passed does.
    #[test]
    fn what_was_let_go_of_holds_its_place_and_comes_again() {
        let mut watermark = Watermark::new();
        assert!((10..=14).all(|o| watermark.receive(o, 3, o)));
        (10..=12).for_each(|o| watermark.finish(o, o));
        assert_eq!(watermark.pass(), Some((10, 10)));
        (13..=14).for_each(|o| watermark.shed(o));
        assert_eq!((watermark.len(), watermark.bytes()), (2, 6));
        assert_eq!(std::iter::from_fn(|| watermark.pass()).last(), Some((12, 12)));
        assert_eq!((watermark.oldest(), watermark.bytes()), (Some((13, 13)), 0));
        let again: Vec<i64> = (9..=16).filter(|o| watermark.receive(*o, 4, *o)).collect();
        assert_eq!((again, watermark.len(), watermark.bytes()), (vec![13, 14, 15, 16], 4, 16));
        (13..=16).for_each(|o| watermark.finish(o, o));
        assert_eq!(std::iter::from_fn(|| watermark.pass()).last(), Some((16, 16)));
        assert!(!watermark.receive(16, 4, 0) && watermark.receive(17, 4, 0));
    }

    /// Offset 10 slow, 11 to 20 done: nothing passes 10. Red when `pass` looks at the last finished record.
    #[test]
    fn a_slow_record_holds_the_watermark() {
        let mut watermark = Watermark::new();
        assert!((10..=20).all(|o| watermark.receive(o, 3, 0)));
        (11..=20).for_each(|o| watermark.finish(o, ()));
        assert!(watermark.pass().is_none());
        watermark.finish(10, ());
        assert_eq!(std::iter::from_fn(|| watermark.pass()).last(), Some((20, ())));
    }
}

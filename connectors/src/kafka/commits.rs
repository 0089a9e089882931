//! Positions that are durable and that the broker does not know yet.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater::{Position, TopicPartition};

use super::native::CommitAnswer;

/// A commit that was not answered by then counts as failed.
const ANSWER: Duration = Duration::from_secs(60);
/// Between a failed commit and the next; a rebalance in progress refuses every one.
const BACK_OFF: Duration = Duration::from_millis(500);

/// Merged positions, one commit under way at a time.
#[derive(Debug)]
pub(crate) struct Commits {
    interval: Duration,
    pending: HashMap<TopicPartition, i64>,
    under_way: HashMap<TopicPartition, i64>,
    sent: Instant,
    not_before: Instant,
}

impl Commits {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, pending: HashMap::new(), under_way: HashMap::new(), sent: now, not_before: now }
    }

    /// Notes positions; later ones replace earlier ones.
    pub(crate) fn add(&mut self, positions: impl IntoIterator<Item = Position>) {
        self.pending.extend(positions.into_iter().map(|position| (position.partition, position.next)));
    }

    /// Positions to commit now, if it is time and no commit is under way.
    pub(crate) fn due(&mut self, now: Instant) -> Option<&HashMap<TopicPartition, i64>> {
        if !self.under_way.is_empty() && now.duration_since(self.sent) > ANSWER {
            self.failed(now);
        }
        if self.pending.is_empty() || !self.under_way.is_empty() || now < self.not_before {
            return None;
        }
        self.under_way = std::mem::take(&mut self.pending);
        self.sent = now;
        self.not_before = now + self.interval;
        Some(&self.under_way)
    }

    /// Takes an answer: what failed is tried again later, unless there is a newer position.
    pub(crate) fn answered(&mut self, now: Instant, answer: &CommitAnswer) {
        if answer.places.is_empty() && answer.error.is_some() {
            return self.failed(now);
        }
        for (partition, next, error) in &answer.places {
            if self.under_way.get(partition) != Some(next) {
                continue;
            }
            self.under_way.remove(partition);
            if answer.error.is_some() || error.is_some() {
                self.pending.entry(partition.clone()).or_insert(*next);
                self.not_before = now + BACK_OFF.max(self.interval);
            }
        }
    }

    /// Nothing of the commit under way took effect.
    pub(crate) fn failed(&mut self, now: Instant) {
        for (partition, next) in self.under_way.drain() {
            self.pending.entry(partition).or_insert(next);
        }
        self.not_before = now + BACK_OFF.max(self.interval);
    }

    /// Whether the broker knows everything.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.under_way.is_empty()
    }

    /// Lets the next commit go out at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.not_before = now;
    }

    /// Takes the positions of partitions that leave; those under way too, since nobody will wait for their answer.
    pub(crate) fn take(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, i64)> {
        let mut taken = Vec::new();
        for partition in partitions {
            let under_way = self.under_way.remove(partition);
            if let Some(next) = self.pending.remove(partition).or(under_way) {
                taken.push((partition.clone(), next));
            }
        }
        taken
    }

    /// Forgets partitions that are no longer ours.
    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        self.take(partitions);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn at(next: i64) -> Position {
        Position { partition: TopicPartition::new("t", 0), next }
    }

    fn answer(next: i64, error: Option<Code>) -> CommitAnswer {
        CommitAnswer { error: None, places: vec![(at(0).partition, next, error)] }
    }

    /// Red when a failed commit overwrites a newer position, or is tried again at once (a rebalance would be hammered).
    #[test]
    fn a_failed_commit_is_tried_again_later_and_never_replaces_a_newer_one() {
        let now = Instant::now();
        let mut commits = Commits::new(Duration::from_millis(10), now);
        commits.add([at(5)]);
        assert_eq!(commits.due(now).unwrap()[&at(0).partition], 5);
        assert!(commits.due(now).is_none(), "one under way at a time");
        commits.answered(now, &answer(5, Some(Code::RebalanceInProgress)));
        assert!(commits.due(now + Duration::from_millis(20)).is_none(), "backs off");
        assert_eq!(commits.due(now + Duration::from_secs(1)).unwrap()[&at(0).partition], 5);
        commits.add([at(9)]);
        commits.answered(now, &answer(5, Some(Code::RebalanceInProgress)));
        assert_eq!(commits.due(now + Duration::from_secs(2)).unwrap()[&at(0).partition], 9);
        commits.answered(now, &answer(5, None));
        assert!(!commits.is_settled(), "an answer to another commit");
        commits.answered(now, &answer(9, None));
        assert!(commits.is_settled());
    }

    /// Red when the position that is under way is forgotten, or wins over a newer one.
    #[test]
    fn a_partition_that_leaves_takes_its_newest_position() {
        let now = Instant::now();
        let mut commits = Commits::new(Duration::ZERO, now);
        commits.add([at(5)]);
        commits.due(now).unwrap();
        assert_eq!(commits.take(&[at(0).partition]), [(at(0).partition, 5)]);
        commits.add([at(6)]);
        commits.due(now + BACK_OFF).unwrap();
        commits.add([at(7)]);
        assert_eq!(commits.take(&[at(0).partition]), [(at(0).partition, 7)]);
        assert!(commits.is_settled());
    }
}

//! Why partitions stand still, for who looks at the group from outside: the text beside a committed offset.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater::TopicPartition;

/// Bytes of a note at most; the broker takes 4096.
const LONGEST: usize = 200;
/// Between two commits that tell nothing but notes.
const PACE: Duration = Duration::from_secs(1);

/// What is said of each partition, and what the broker was told.
#[derive(Debug)]
pub(crate) struct OffsetMetadata {
    partitions: HashMap<TopicPartition, PartitionNote>,
    not_before: Instant,
}

#[derive(Debug, Default)]
struct PartitionNote {
    /// The position beside which a note can be committed, once there is one.
    next: Option<i64>,
    /// Empty while it flows.
    text: String,
    told: String,
}

impl PartitionNote {
    fn news(&self) -> Option<i64> {
        self.next.filter(|_| self.text != self.told)
    }
}

impl OffsetMetadata {
    pub(crate) fn new(now: Instant) -> Self {
        Self { partitions: HashMap::new(), not_before: now }
    }

    fn of(&mut self, partition: &TopicPartition) -> &mut PartitionNote {
        self.partitions.entry(partition.clone()).or_default()
    }

    /// A partition begins here, and the broker has this note of whoever had it before.
    pub(crate) fn began(&mut self, partition: &TopicPartition, next: i64, told: &str) {
        let note = self.of(partition);
        note.next = Some(next);
        told.clone_into(&mut note.told);
    }

    /// What is to be said of it from now on, cut to a bounded length.
    pub(crate) fn say(&mut self, partition: &TopicPartition, note: Option<&str>) {
        let note = note.unwrap_or_default();
        note[..note.floor_char_boundary(LONGEST)].clone_into(&mut self.of(partition).text);
    }

    /// What is said of it; empty while it flows.
    pub(crate) fn text(&self, partition: &TopicPartition) -> &str {
        self.partitions.get(partition).map_or("", |note| &note.text)
    }

    /// Where notes that the broker does not know can be committed, if it is time.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(TopicPartition, i64)> {
        if now < self.not_before {
            return Vec::new();
        }
        let news = self.partitions.iter().filter_map(|(name, note)| Some((name.clone(), note.news()?)));
        let due: Vec<_> = news.collect();
        if !due.is_empty() {
            self.not_before = now + PACE;
        }
        due
    }

    /// The first partition of each topic for which `wanted` holds, and the position at which the broker has it, or was last told
    /// to have it.
    pub(crate) fn positions(&self, wanted: impl Fn(&TopicPartition) -> bool) -> Vec<(TopicPartition, i64)> {
        let known = self.partitions.iter().filter_map(|(name, note)| Some((name, note.next?)));
        let mut known: Vec<_> = known.filter(|(name, _)| wanted(name)).collect();
        known.sort_unstable();
        known.dedup_by(|(later, _), (first, _)| later.topic == first.topic);
        known.into_iter().map(|(name, next)| (name.clone(), next)).collect()
    }

    /// The note goes out with this position.
    pub(crate) fn sent(&mut self, partition: &TopicPartition, next: i64) {
        let note = self.of(partition);
        note.next = Some(next);
        note.text.clone_into(&mut note.told);
    }

    /// Whether the broker was told all that can be told of partitions that it does not refuse.
    pub(crate) fn is_settled(&self, is_refused: impl Fn(&TopicPartition) -> bool) -> bool {
        self.partitions.iter().all(|(name, note)| note.news().is_none() || is_refused(name))
    }

    /// Lets what is left be told at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.not_before = now;
    }

    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a note is cut within a character, or not at all.
    #[test]
    fn a_long_note_is_cut_between_characters() {
        let (mut notes, name) = (OffsetMetadata::new(Instant::now()), TopicPartition::new("t", 0));
        notes.say(&name, Some(&"é".repeat(150)));
        assert_eq!(notes.text(&name), "é".repeat(100));
        notes.say(&name, Some(&format!("x{}", "é".repeat(150))));
        assert_eq!(notes.text(&name).len(), 199);
        notes.say(&name, None);
        assert_eq!(notes.text(&name), "");
    }
}

//! Positions that are durable, and notes on partitions, that the broker does not know yet.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    spi::{Position, StartFrom},
};
use rdkafka::TopicPartitionList;

use super::offset_metadata::OffsetMetadata;
use crate::kafka::{
    consumer::partition::{self, is_own},
    error::KafkaError,
    librdkafka::CommitAnswer,
};

/// A commit that was not answered by then counts as failed.
const ANSWER: Duration = Duration::from_secs(10);
/// Between a failed commit and the next; a rebalance in progress refuses every one.
const BACK_OFF: Duration = Duration::from_millis(500);
/// How long a position that was refused for its own sake is kept out of commits.
const HOLD: Duration = Duration::from_secs(10);

/// Merged positions, one commit under way at a time.
#[derive(Debug)]
pub(crate) struct Commits {
    /// Offsets travel in transactions: nothing is ever due.
    silent: bool,
    interval: Duration,
    pending: HashMap<TopicPartition, i64>,
    under_way: HashMap<TopicPartition, i64>,
    /// Partitions whose positions were refused for their own sake, as those of a deleted topic are, and until when they are
    /// kept out of commits. After that they are tried again beside another one: a commit of which nothing is accepted may be
    /// repeated by librdkafka, and holds up all later ones meanwhile.
    held: HashMap<TopicPartition, Instant>,
    notes: OffsetMetadata,
    sent: Instant,
    not_before: Instant,
    /// A commit was refused, and until then none goes out.
    refused_until: Instant,
}

impl Commits {
    pub(crate) fn new(interval: Duration, told: bool, now: Instant) -> Self {
        let (pending, under_way, held) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (silent, notes, sent, not_before, refused_until) = (!told, OffsetMetadata::new(now), now, now, now);
        Self { silent, interval, pending, under_way, held, notes, sent, not_before, refused_until }
    }

    /// Notes positions; later ones replace earlier ones.
    pub(crate) fn add(&mut self, positions: impl IntoIterator<Item = Position>) {
        if self.silent {
            return;
        }
        self.pending.extend(positions.into_iter().map(|position| (position.partition, position.next)));
    }

    /// A partition begins here. It may also begin again: then what was committed may not be taken back by a note, unless
    /// a store of offsets says so.
    pub(crate) fn began(&mut self, partition: &TopicPartition, next: i64, from: StartFrom, told: &str) {
        if self.silent {
            return;
        }
        let known = self.under_way.get(partition).copied().filter(|_| from == StartFrom::Committed);
        self.notes.began(partition, known.map_or(next, |known| known.max(next)), told);
    }

    /// Why a partition stands still; `None` once it flows again.
    pub(crate) fn note(&mut self, partition: &TopicPartition, note: Option<&str>) {
        if !self.silent {
            self.notes.say(partition, note);
        }
    }

    /// Has a position of each topic committed again where no commit is under way or due: the answer says whether we are still in
    /// the group, and one that is accepted is enough. It does not wait for the interval, which may be longer than a session, and
    /// takes nothing of what does.
    pub(crate) fn affirm(&mut self, now: Instant) -> bool {
        if self.silent || !self.under_way.is_empty() || now < self.refused_until {
            return false;
        }
        self.add_standing();
        if self.under_way.is_empty() {
            // All were refused: whether they still are is seen now and then.
            self.under_way.extend(self.notes.positions(|name| !is_held(&self.held, name, now)));
        }
        self.under_way.iter().for_each(|(partition, next)| self.notes.sent(partition, *next));
        self.sent = now;
        !self.under_way.is_empty()
    }

    /// Adds a position of each topic that the broker takes and that is not under way.
    fn add_standing(&mut self) {
        let Self { held, under_way, notes, .. } = self;
        let beside = notes.positions(|name| !held.contains_key(name) && !under_way.contains_key(name));
        under_way.extend(beside);
    }

    /// Positions to commit now, if it is time and no commit is under way: those that have moved, and those whose note is news.
    pub(crate) fn due(&mut self, now: Instant) -> Option<&HashMap<TopicPartition, i64>> {
        if !self.under_way.is_empty() && now.duration_since(self.sent) > ANSWER {
            self.failed(now);
        }
        if !self.under_way.is_empty() || now < self.not_before {
            return None;
        }
        for (partition, next) in self.notes.due(now) {
            self.pending.entry(partition).or_insert(next);
        }
        let all = std::mem::take(&mut self.pending).into_iter();
        (self.pending, self.under_way) = all.partition(|(name, _)| is_held(&self.held, name, now));
        if self.under_way.is_empty() {
            return None;
        }
        if self.under_way.keys().all(|name| self.held.contains_key(name)) {
            self.add_standing();
        }
        self.under_way.iter().for_each(|(partition, next)| self.notes.sent(partition, *next));
        self.sent = now;
        self.not_before = now + self.interval;
        Some(&self.under_way)
    }

    /// What is under way, as librdkafka takes it.
    ///
    /// # Errors
    /// When an offset is negative.
    pub(crate) fn list(&self) -> Result<TopicPartitionList, KafkaError> {
        let list = partition::list_at(self.under_way.iter().map(|(name, next)| (name, *next)))?;
        for name in self.under_way.keys() {
            let note = self.notes.text(name);
            if let Some(mut element) = list.find_partition(&name.topic, name.partition).filter(|_| !note.is_empty()) {
                element.set_metadata(note);
            }
        }
        Ok(list)
    }

    /// Takes an answer: what failed is tried again later, unless there is a newer position.
    pub(crate) fn answered(&mut self, now: Instant, answer: &CommitAnswer) {
        if answer.places.is_empty() && answer.error.is_some() {
            return self.failed(now);
        }
        if !answer.is_accepted() {
            self.refused(now);
        }
        for (partition, next, error) in &answer.places {
            if self.under_way.get(partition) != Some(next) {
                continue;
            }
            self.under_way.remove(partition);
            let Some(code) = error.or(answer.error) else {
                self.held.remove(partition);
                continue;
            };
            self.pending.entry(partition.clone()).or_insert(*next);
            if is_own(code) {
                self.held.insert(partition.clone(), now + HOLD);
            } else {
                self.refused(now);
            }
        }
    }

    /// Nothing of the commit under way took effect.
    pub(crate) fn failed(&mut self, now: Instant) {
        for (partition, next) in self.under_way.drain() {
            self.pending.entry(partition).or_insert(next);
        }
        self.refused(now);
    }

    fn refused(&mut self, now: Instant) {
        self.refused_until = now + BACK_OFF;
        self.not_before = self.not_before.max(self.refused_until);
    }

    /// Whether the broker knows everything that it takes.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        let is_refused = |name: &TopicPartition| is_held(&self.held, name, now);
        self.pending.keys().all(is_refused) && self.under_way.is_empty() && self.notes.is_settled(is_refused)
    }

    /// Lets the next commit go out at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.not_before = now;
        self.held.values_mut().for_each(|until| *until = now);
        self.notes.hurry(now);
    }

    /// Takes the positions of partitions that leave, and forgets what was said of them; those under way too, since nobody will wait for their answer.
    pub(crate) fn take(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, i64)> {
        let mut taken = Vec::new();
        for partition in partitions {
            self.notes.forget(partition);
            self.held.remove(partition);
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

fn is_held(held: &HashMap<TopicPartition, Instant>, name: &TopicPartition, now: Instant) -> bool {
    held.get(name).is_some_and(|until| now < *until)
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn at(next: i64) -> Position {
        Position { partition: TopicPartition::new("t", 0), next }
    }

    fn answer(next: i64, error: Option<Code>) -> CommitAnswer {
        CommitAnswer { error: None, places: vec![(at(0).partition, next, error)], asked: None }
    }

    /// Red when a failed commit overwrites a newer position, or is tried again at once (a rebalance would be hammered).
    #[test]
    fn a_failed_commit_is_tried_again_later_and_never_replaces_a_newer_one() {
        let now = Instant::now();
        let mut commits = Commits::new(Duration::from_millis(10), true, now);
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
        assert!(!commits.is_settled(now), "an answer to another commit");
        commits.answered(now, &answer(9, None));
        assert!(commits.is_settled(now));
    }

    /// Red when a source whose offsets travel in transactions commits a position, or a note beside one.
    #[test]
    fn a_silent_source_commits_nothing() {
        let (now, name) = (Instant::now(), at(0).partition);
        let mut commits = Commits::new(Duration::ZERO, false, now);
        commits.began(&name, 3, StartFrom::Committed, "what an earlier owner said");
        commits.note(&name, Some("closed for lunch"));
        commits.add([at(9)]);
        commits.hurry(now);
        assert!(commits.due(now + Duration::from_secs(5)).is_none() && commits.is_settled(now));
        assert_eq!(commits.take(&[name]), []);
    }

    /// Fails where a question whether we are in the group waits for the interval, takes along or puts off what waits for it,
    /// goes out beside another commit, or right after a refusal.
    #[test]
    fn a_position_is_affirmed_between_two_commits() {
        let (now, name, interval) = (Instant::now(), at(0).partition, Duration::from_secs(60));
        let mut commits = Commits::new(interval, true, now);
        assert!(!commits.affirm(now), "there is no position yet");
        commits.began(&name, 3, StartFrom::Committed, "");
        commits.add([at(5)]);
        assert!(commits.due(now).is_some() && !commits.affirm(now), "one under way at a time");
        commits.answered(now, &answer(5, None));
        commits.add([at(9)]);
        let soon = now + Duration::from_secs(1);
        assert!(commits.due(soon).is_none() && commits.affirm(soon));
        assert_eq!(noted(&commits), [(5, String::new())]);
        commits.answered(soon, &answer(5, Some(Code::RebalanceInProgress)));
        assert!(!commits.affirm(soon));
        assert!(commits.affirm(soon + BACK_OFF));
        commits.answered(soon + BACK_OFF, &answer(5, None));
        assert_eq!(commits.due(now + interval).unwrap()[&name], 9);
    }

    /// Red when the error of one position is taken for that of all (`CommitAnswer::new` passes it on), when a refused one delays
    /// the others, goes out alone (librdkafka would repeat it, and nothing else be committed), is never tried again, or keeps a
    /// source from closing.
    #[test]
    fn a_position_that_is_refused_for_its_own_sake_holds_up_no_other() {
        let (now, gone) = (Instant::now(), TopicPartition::new("gone", 0));
        let code = Some(Code::UnknownTopicOrPartition);
        let answer = |next, gone_error| {
            let places = vec![(TopicPartition::new("gone", 0), 5, gone_error), (at(0).partition, next, None)];
            CommitAnswer::new(gone_error, places)
        };
        let mut commits = Commits::new(Duration::from_millis(10), true, now);
        commits.add([at(5), Position { partition: gone.clone(), next: 5 }]);
        assert_eq!(commits.due(now).unwrap().len(), 2);
        assert!(answer(5, code).is_accepted(), "the coordinator knows the member");
        commits.answered(now, &answer(5, code));
        assert!(commits.is_settled(now), "nobody waits for it");
        commits.add([at(6)]);
        let soon = now + Duration::from_millis(20);
        assert_eq!(commits.due(soon), Some(&HashMap::from([(at(0).partition, 6)])));
        commits.answered(soon, &self::answer(6, None));
        let later = now + HOLD + Duration::from_secs(1);
        let again = HashMap::from([(gone.clone(), 5), (at(0).partition, 6)]);
        assert_eq!(commits.due(later), Some(&again), "tried again beside another");
        commits.answered(later, &answer(6, None));
        commits.add([Position { partition: gone.clone(), next: 8 }]);
        assert_eq!(commits.due(later + Duration::from_secs(1)), Some(&HashMap::from([(gone, 8)])), "as any other");
    }

    /// Red when a question whether we are in the group goes out with nothing but a position that may be refused for its own sake:
    /// nobody could publish while it is.
    #[test]
    fn a_position_is_affirmed_beside_one_that_may_be_refused() {
        let (now, gone) = (Instant::now(), TopicPartition::new("gone", 0));
        let mut commits = Commits::new(Duration::ZERO, true, now);
        commits.began(&gone, 5, StartFrom::Committed, "");
        commits.began(&TopicPartition::new("t", 1), 3, StartFrom::Committed, "");
        commits.began(&at(0).partition, 3, StartFrom::Committed, "");
        assert!(commits.affirm(now));
        assert_eq!(commits.under_way, HashMap::from([(gone.clone(), 5), (at(0).partition, 3)]));
        let refused = Some(Code::UnknownTopicOrPartition);
        let places = vec![(gone, 5, refused), (at(0).partition, 3, None)];
        commits.answered(now, &CommitAnswer::new(refused, places));
        assert!(commits.affirm(now), "at once");
        assert_eq!(commits.under_way, HashMap::from([(at(0).partition, 3)]));
    }

    /// Red when a group of which every position was refused for its own sake never asks again, asks at once, or closes without
    /// another try.
    #[test]
    fn where_every_position_is_refused_they_are_tried_again() {
        let (now, code) = (Instant::now(), Some(Code::TopicAuthorizationFailed));
        let mut commits = Commits::new(Duration::ZERO, true, now);
        commits.began(&at(0).partition, 3, StartFrom::Committed, "");
        commits.add([at(5)]);
        assert!(commits.due(now).is_some());
        commits.answered(now, &answer(5, code));
        let soon = now + BACK_OFF;
        assert!(!commits.affirm(now) && commits.due(soon).is_none() && commits.is_settled(soon));
        let later = now + HOLD;
        assert!(commits.affirm(later), "may it be ours again?");
        commits.answered(later, &answer(5, code));
        commits.hurry(later);
        assert!(!commits.is_settled(later) && commits.due(later).is_some(), "tried once more when the source closes");
        commits.answered(later, &answer(5, code));
        assert!(commits.is_settled(later), "and no longer waited for");
    }

    /// Red when the position that is under way is forgotten, or wins over a newer one.
    #[test]
    fn a_partition_that_leaves_takes_its_newest_position() {
        let now = Instant::now();
        let mut commits = Commits::new(Duration::ZERO, true, now);
        commits.add([at(5)]);
        commits.due(now).unwrap();
        assert_eq!(commits.take(&[at(0).partition]), [(at(0).partition, 5)]);
        commits.add([at(6)]);
        commits.due(now + BACK_OFF).unwrap();
        commits.add([at(7)]);
        assert_eq!(commits.take(&[at(0).partition]), [(at(0).partition, 7)]);
        assert!(commits.is_settled(now));
    }

    fn noted(commits: &Commits) -> Vec<(i64, String)> {
        let list = commits.list().unwrap();
        let elements = list.elements();
        elements.iter().map(|e| (e.offset().to_raw().unwrap(), e.metadata().to_owned())).collect()
    }

    /// Red when a note waits for the position to move, goes out more than once a second, or before there is a position; or
    /// when a commit of a position leaves the note out.
    #[test]
    fn a_note_is_committed_beside_a_position_that_stands_still() {
        let (now, name) = (Instant::now(), at(0).partition);
        let mut commits = Commits::new(Duration::from_millis(10), true, now);
        commits.note(&name, Some("closed for lunch"));
        assert!(commits.due(now).is_none(), "there is no position yet");
        commits.began(&name, 5, StartFrom::Committed, "");
        assert!(commits.due(now).is_some());
        assert_eq!(noted(&commits), [(5, "closed for lunch".to_owned())]);
        commits.answered(now, &answer(5, None));
        assert!(commits.due(now + Duration::from_secs(5)).is_none(), "said once");
        assert!(commits.is_settled(now));
        let now = now + Duration::from_secs(10);
        commits.add([at(6)]);
        assert!(commits.due(now).is_some());
        assert_eq!(noted(&commits), [(6, "closed for lunch".to_owned())]);
        commits.answered(now, &answer(6, None));
        commits.note(&name, None);
        assert!(!commits.is_settled(now));
        assert!(commits.due(now + Duration::from_millis(20)).is_some());
        assert_eq!(noted(&commits), [(6, String::new())]);
        commits.answered(now, &answer(6, None));
        commits.note(&name, Some("again"));
        assert!(commits.due(now + Duration::from_millis(900)).is_none(), "once a second");
        assert!(commits.due(now + Duration::from_millis(1_100)).is_some());
        commits.answered(now, &answer(6, Some(Code::RebalanceInProgress)));
        assert!(commits.due(now + Duration::from_secs(3)).is_some(), "a refused one is sent again");
        assert_eq!(noted(&commits), [(6, "again".to_owned())]);
    }

    /// Red when a partition that left keeps its note, or what an earlier owner noted is not cleared.
    #[test]
    fn a_partition_that_leaves_forgets_its_note_and_the_next_owner_clears_it() {
        let (now, name) = (Instant::now(), at(0).partition);
        let mut commits = Commits::new(Duration::ZERO, true, now);
        commits.began(&name, 5, StartFrom::Offset(5), "");
        commits.note(&name, Some("closed for lunch"));
        commits.forget(std::slice::from_ref(&name));
        assert!(commits.due(now).is_none());
        commits.began(&name, 5, StartFrom::Offset(5), "closed for lunch");
        assert!(commits.due(now).is_some());
        assert_eq!(noted(&commits), [(5, String::new())]);
    }

    /// Red when a partition that begins again while its commit is under way is noted at the position before it.
    #[test]
    fn a_note_takes_no_position_back() {
        let (now, name) = (Instant::now(), at(0).partition);
        let mut commits = Commits::new(Duration::ZERO, true, now);
        commits.began(&name, 3, StartFrom::Committed, "");
        commits.add([at(9)]);
        assert!(commits.due(now).is_some());
        commits.began(&name, 3, StartFrom::Committed, "");
        commits.answered(now, &answer(9, None));
        commits.note(&name, Some("closed for lunch"));
        assert!(commits.due(now).is_some());
        assert_eq!(noted(&commits), [(9, "closed for lunch".to_owned())]);
        commits.answered(now, &answer(9, None));
        // The store knows better.
        commits.began(&name, 4, StartFrom::Offset(4), "");
        assert!(commits.due(now + Duration::from_secs(2)).is_some());
        assert_eq!(noted(&commits), [(4, "closed for lunch".to_owned())]);
    }
}

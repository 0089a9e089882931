//! Commits that are sent to the coordinator, and what its answers prove.

use std::time::{Duration, Instant};

use headwater::TopicPartition;
use rdkafka::{TopicPartitionList, consumer::Consumer as _, error::RDKafkaErrorCode as Code};

use super::commits::Commits;
use crate::kafka::{
    consumer::{
        membership::group_consumer::{GroupConsumer, generation},
        outlets::Outlets,
        partition,
    },
    error::KafkaError,
    librdkafka::CommitQueue,
};

/// How long the last commit of partitions that leave may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What is to be committed, and what has been sent and is not answered yet.
pub(crate) struct CommitRequests {
    pub(crate) commits: Commits,
    /// Made with the first commit.
    answers: Option<CommitQueue>,
}

impl CommitRequests {
    pub(crate) fn new(commits: Commits) -> Self {
        Self { commits, answers: None }
    }

    /// Takes the broker's answers, and commits what is due.
    pub(crate) fn commit(&mut self, consumer: &GroupConsumer, outlets: &Outlets) {
        self.take_answers(consumer, outlets, Duration::ZERO);
        let now = Instant::now();
        let wanted = outlets.lease.is_wanted() && !outlets.leaving;
        if self.commits.due(now).is_none() && !(wanted && self.commits.affirm(now)) {
            return;
        }
        let list = self.commits.list();
        if let Err(error) = list.and_then(|list| self.send(consumer, &list)) {
            tracing::warn!(group = outlets.group, %error, "positions cannot be committed yet");
            self.commits.failed(now);
        }
    }

    /// Tells the broker the last durable positions of partitions that leave, and waits for its answer.
    pub(crate) fn commit_last(&mut self, consumer: &GroupConsumer, outlets: &Outlets, names: &[TopicPartition]) {
        let positions = self.commits.take(names);
        // A source that is closed has tried for as long as it may.
        if positions.is_empty() || outlets.leaving {
            return;
        }
        let deadline = Instant::now() + ANSWER;
        // librdkafka may repeat a commit that is under way, and then its older position must not come behind the last.
        self.take_answers(consumer, outlets, ANSWER / 2);
        let list = partition::list_at(positions.iter().map(|(name, next)| (name, *next)));
        let sent = list.and_then(|list| self.send(consumer, &list)).map_err(|error| error.to_string());
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome =
            sent.and_then(|()| self.take_answers(consumer, outlets, left).map_or(Ok(()), |code| Err(code.to_string())));
        if let Err(error) = outcome {
            tracing::warn!(
                group = outlets.group,
                error,
                "the last positions of revoked partitions were not committed: their next owner reads some records again"
            );
        }
    }

    /// Sends a commit and does not wait for its answer.
    fn send(&mut self, consumer: &GroupConsumer, list: &TopicPartitionList) -> Result<(), KafkaError> {
        if self.answers.is_none() {
            self.answers = CommitQueue::new(consumer.client());
        }
        let Some(queue) = &mut self.answers else { return Err(KafkaError::Outage("no memory".to_owned())) };
        // One that is in no generation would be taken for an administrator's, and move others' offsets in an empty group.
        let Some(generation) = generation(consumer) else {
            return Err(KafkaError::Outage("the consumer is not in its group at the moment".to_owned()));
        };
        queue.send(consumer.client(), list, Some(generation)).map_err(|code| KafkaError::Outage(code.to_string()))
    }

    /// Takes the answers to commits, waiting at most this long for that to the last one; its error.
    fn take_answers(&mut self, consumer: &GroupConsumer, outlets: &Outlets, wait: Duration) -> Option<Code> {
        let deadline = Instant::now() + wait;
        let mut last = None;
        let Some(queue) = &mut self.answers else { return last };
        while queue.awaits_any() {
            let (now, awaited) = (Instant::now(), queue.awaits_last());
            let left = if awaited { deadline.saturating_duration_since(now) } else { Duration::ZERO };
            let Some(answer) = queue.answer(left) else {
                return if awaited { Some(Code::OperationTimedOut) } else { last };
            };
            let refusal = answer.refusal();
            if awaited && !queue.awaits_last() {
                last = refusal;
            }
            if let Some(error) = refusal {
                // Expected while the group rebalances: kept, and committed later or when the partition leaves.
                tracing::debug!(group = outlets.group, %error, "positions were not committed");
            }
            // One accepted position is enough: another may be refused for its own sake.
            if let Some(asked) = answer.asked.filter(|_| answer.is_accepted())
                && generation(consumer) == asked.generation
            {
                outlets.lease.prove(asked.at);
            }
            self.commits.answered(now, &answer);
        }
        last
    }

    /// The queue of answers may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        self.answers = None;
    }
}

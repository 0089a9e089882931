//! How records are taken over: many at a time, partition by partition, in batches that are no larger than they may be.

use std::time::Duration;

use headwater::{Record, TopicPartition};
use rdkafka::{
    Message as _,
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{
    partition::Verdict,
    poll_loop::{PollLoop, ROUND},
    rebalance::{GroupConsumer, GroupContext},
};
use crate::kafka::{
    config::ConsumerConfig,
    librdkafka::{
        self,
        fetch::{FetchQueue, Message},
    },
};

/// Events that one round serves at most.
const EVENTS: usize = 64;

/// What was taken since the last seal.
#[derive(Debug, Default)]
pub(crate) struct Round {
    bytes: usize,
    records: usize,
}

impl Round {
    /// Counts a record; whether that is enough.
    fn add(&mut self, record: &Record, config: &ConsumerConfig) -> bool {
        self.bytes += record.size();
        self.records += 1;
        self.is_full(config)
    }

    fn is_full(&self, config: &ConsumerConfig) -> bool {
        self.records >= config.batch_records || self.bytes >= config.batch_bytes
    }
}

/// Takes what there is, up to one batch, and serves librdkafka's callbacks.
pub(crate) fn poll(consumer: &GroupConsumer, context: &GroupContext) {
    let mut wait = ROUND;
    loop {
        serve(consumer, context);
        let mut member = context.member();
        let messages = member.fetches.as_ref().map(|queue| queue.take(consumer.client(), wait)).unwrap_or_default();
        if messages.is_empty() || member.take(consumer, &messages) {
            return member.seal();
        }
        wait = Duration::ZERO;
    }
}

/// Serves what librdkafka has to say: rebalances, errors, lines for the log. Of many things each round a few.
fn serve(consumer: &GroupConsumer, context: &GroupContext) {
    for _ in 0..EVENTS {
        if !context.member().fetches.as_ref().is_some_and(FetchQueue::has_events) {
            return;
        }
        match consumer.poll(Duration::ZERO) {
            Some(Err(error)) => context.member().trouble(consumer, &error, &context.reason()),
            // Where it stands among the others of its partition nobody knows any more.
            Some(Ok(record)) => {
                let place = TopicPartition::new(record.topic(), record.partition());
                let text = format!("a record of {place} came past its queue, which is a defect of this program");
                context.member().fail(text);
            }
            None => {}
        }
    }
}

impl PollLoop {
    /// Makes the queue that records come to.
    pub(crate) fn equip(&mut self, consumer: &GroupConsumer) {
        self.fetches = FetchQueue::new(consumer.client());
        if self.fetches.is_none() {
            self.fail("there is no memory for a kafka consumer".to_owned());
        }
    }

    /// Lets the records of these partitions come to our queue; of a consumer that is closing nobody takes any.
    pub(crate) fn attach<'a>(&mut self, consumer: &GroupConsumer, mut names: impl Iterator<Item = &'a TopicPartition>) {
        let Some(queue) = &self.fetches else { return };
        if !names.all(|name| queue.attach(consumer.client(), name)) {
            self.fail("there is no memory for the queues of assigned partitions".to_owned());
        }
    }

    /// Takes over what was fetched; whether this round has enough.
    fn take(&mut self, consumer: &GroupConsumer, messages: &[Message<'_>]) -> bool {
        let sealed = self.outbox.len();
        for run in messages.chunk_by(Message::is_beside) {
            match run[0].error() {
                Some((Code::PartitionEOF, _)) => self.ends(&run[0]),
                Some((code, reason)) => self.trouble(consumer, &ClientError::MessageConsumption(code), &reason),
                None => self.take_run(consumer, run),
            }
        }
        self.outbox.len() > sealed
    }

    /// A partition has nothing more for now, as far as it can be read.
    fn ends(&mut self, end: &Message<'_>) {
        if let Some((_, partition)) = self.partitions.find(&end.topic(), end.partition()) {
            partition.ends(end.offset());
        }
    }

    /// Takes over records of one partition, and seals each time that there is enough for a batch.
    fn take_run(&mut self, consumer: &GroupConsumer, run: &[Message<'_>]) {
        self.reached();
        let (name, number) = (run[0].topic(), run[0].partition());
        let mut left = run.iter();
        while left.len() > 0 {
            let Some((topic, partition)) = self.partitions.find(&name, number) else { return };
            let mut lost = 0;
            for message in left.by_ref() {
                match partition.accept(message.offset(), || librdkafka::log_start(consumer.client(), &name, number)) {
                    Verdict::Stale => {}
                    Verdict::Backwards { expected } => {
                        // What came before it counts.
                        self.seal();
                        return self.doubt(&TopicPartition::new(topic, number), message.offset(), expected);
                    }
                    Verdict::Take { lost: before, .. } => {
                        lost += before;
                        let record = message.record(&topic);
                        let full = self.round.add(&record, &self.config);
                        partition.keep(record);
                        if full {
                            break;
                        }
                    }
                }
            }
            if lost > 0 {
                self.warn_lost(&name, number, lost);
            }
            if self.round.is_full(&self.config) {
                self.seal();
            }
        }
    }

    fn seal(&mut self) {
        self.outbox.extend(self.partitions.seal());
        self.round = Round::default();
    }
}

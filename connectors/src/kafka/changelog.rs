//! Reading whole changelogs, to restore state from them.
//!
//! The end is where the log ends, open transactions included: the transaction that the committed offsets came from may not
//! be stable yet when they are read. Up to there only what was committed is handed over, so reading waits for transactions
//! that are still open.

use std::{
    collections::HashMap,
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{
    admin::{admin_clients::Logs, stable_offsets::SWEEP, topics::is_unknown},
    config::{KafkaConfig, client_settings::ClientSettings},
    consumer::partition,
    credentials,
    debounce::Debounce,
    diagnosis::rights::{ResourceNames, Right, lacking},
    error::KafkaError,
    librdkafka::{
        fetch::{FetchQueue, Message},
        live_clients::ClientHandle,
    },
};

/// The header of a changelog's record that says how far all inputs have come with it: any other may be compacted away.
pub(crate) const INPUTS: &CStr = c"hw_inputs";

/// How long one question to the brokers may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a round waits for records, and so how long a cancellation may go unnoticed.
const ROUND: Duration = Duration::from_millis(100);
/// Between two reports of progress.
const REPORT: Duration = Duration::from_millis(200);

type Reader = ClientHandle<BaseConsumer<Logs>>;

impl ConsumerContext for Logs {}

/// Reads partitions from an offset to their end, once. In no group: it assigns, and commits nothing.
#[derive(Clone, Debug)]
pub struct ChangelogReader {
    committed: ClientSettings,
    patience: Duration,
}

/// How far reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangelogProgress {
    /// Offsets that were passed, over all partitions.
    pub done: u64,
    /// Offsets that are to be passed.
    pub total: u64,
}

/// Where reading of a partition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// At its end; there it goes on.
    End(i64),
    /// Nowhere: its log does not have the offset where it should begin, or lost it on the way. What was handed over of it
    /// is not the whole: wipe what came of it and read it from its beginning.
    OutOfRange {
        /// The first offset that its log has.
        low: i64,
        /// The offset behind its last record.
        high: i64,
    },
}

/// A partition that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogEnd {
    /// The partition.
    pub partition: TopicPartition,
    /// Where reading ended.
    pub outcome: ReadOutcome,
    /// What the header that was asked for says, on the last record that was found to have it.
    pub header: Option<Vec<u8>>,
}

/// Why changelogs were not read to their end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangelogError {
    /// The flag was set.
    #[error("reading the changelogs was cancelled")]
    Cancelled,
    /// The cluster does not answer, or refuses.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

impl ChangelogReader {
    /// Reads for this group, under whose name it asks for access. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig, group: &str) -> Result<Self, KafkaError> {
        Ok(Self { committed: config.changelog_reader(group)?, patience: config.producer.transaction_timeout + SWEEP })
    }

    /// Reads each partition from its offset, or from its beginning where there is none, to the end that it has now, and
    /// hands over partition, key, value (`None`: deleted) and offset of every committed record. Blocks, on a thread where
    /// it may; what is handed over is librdkafka's memory, and records without a key are passed over. Gives back where each
    /// partition ended, in the order of `wants`.
    ///
    /// # Errors
    /// [`ChangelogError::Cancelled`] soon after `cancelled` was set; [`KafkaError::Outage`] when a partition does not get
    /// on for `kafka.producer.transaction_timeout` and 20 s; [`KafkaError::Refused`] when there is no such partition, or we
    /// may not read it.
    pub fn read(
        &self,
        wants: &[(TopicPartition, Option<i64>)],
        cancelled: &AtomicBool,
        each: impl FnMut(&TopicPartition, &[u8], Option<&[u8]>, i64),
        progress: impl FnMut(ChangelogProgress),
    ) -> Result<Vec<(TopicPartition, ReadOutcome)>, ChangelogError> {
        let ends = self.read_with_header(None, wants, cancelled, each, progress)?;
        Ok(ends.into_iter().map(|end| (end.partition, end.outcome)).collect())
    }

    /// The same, and of each partition what the header of this name says on the last record that has it, but for records
    /// that others without it follow closely: each is to say all that those before it say.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with_header(
        &self,
        header: Option<&'static CStr>,
        wants: &[(TopicPartition, Option<i64>)],
        cancelled: &AtomicBool,
        mut each: impl FnMut(&TopicPartition, &[u8], Option<&[u8]>, i64),
        mut progress: impl FnMut(ChangelogProgress),
    ) -> Result<Vec<ChangelogEnd>, ChangelogError> {
        let mut tasks = self.survey(wants, cancelled)?;
        tasks.header = header;
        progress(tasks.progress());
        if tasks.open > 0 {
            let consumer = build(&self.committed)?;
            let mut reported = Instant::now();
            let queue = assign(&consumer, &tasks)?;
            while tasks.open > 0 {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(ChangelogError::Cancelled);
                }
                serve(&consumer, &queue);
                let finished = tasks.take(&queue.take(consumer.client(), ROUND), &mut each)?;
                if !finished.is_empty() {
                    // What lies beyond its end is nobody's.
                    consumer.pause(&partition::list(&finished)).map_err(|error| outage(&error))?;
                }
                tasks.check(self.patience)?;
                if reported.elapsed() >= REPORT {
                    reported = Instant::now();
                    progress(tasks.progress());
                }
            }
            drop(queue);
            progress(tasks.progress());
        }
        Ok(tasks.ends())
    }

    /// Where every partition begins and ends.
    fn survey(&self, wants: &[(TopicPartition, Option<i64>)], cancelled: &AtomicBool) -> Result<Tasks, ChangelogError> {
        // Its own consumer, since librdkafka asks for ends as the client's isolation is.
        let mut settings = self.committed.clone();
        let uncommitted = build(settings.set("isolation.level", "read_uncommitted"))?;
        let mut tasks = Tasks {
            all: Vec::with_capacity(wants.len()),
            places: HashMap::new(),
            open: 0,
            moved: Instant::now(),
            header: None,
        };
        for (name, from) in wants {
            let (low, high) = self.watermarks(&uncommitted, name, *from, cancelled)?;
            tasks.add(name, *from, low, high);
        }
        Ok(tasks)
    }

    /// Where a partition begins and ends. An end before the place where it is to be read from is believed only after a while:
    /// what it is read for would be thrown away.
    fn watermarks(
        &self,
        consumer: &Reader,
        name: &TopicPartition,
        from: Option<i64>,
        cancelled: &AtomicBool,
    ) -> Result<(i64, i64), ChangelogError> {
        let deadline = Instant::now() + self.patience;
        let (mut missing, mut short) = (Debounce::default(), Debounce::default());
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(ChangelogError::Cancelled);
            }
            match consumer.fetch_watermarks(&name.topic, name.partition, ANSWER) {
                Ok((_, high)) if from.is_some_and(|from| from > high) && !short.again(Instant::now()) => {
                    std::thread::sleep(ROUND);
                }
                Ok(watermarks) => return Ok(watermarks),
                Err(error) => {
                    refused(name, error.rdkafka_error_code().unwrap_or(Code::Fail)).map_or(Ok(()), Err)?;
                    // The same error stands for a partition without a leader.
                    match is_missing(consumer, name) {
                        Some(true) if missing.again(Instant::now()) => return Err(absent(name).into()),
                        Some(true) | None => {}
                        Some(false) => missing.clear(),
                    }
                    if Instant::now() > deadline {
                        return Err(outage(&error).into());
                    }
                    std::thread::sleep(ROUND);
                }
            }
        }
    }
}

/// A partition to read.
struct Task {
    name: TopicPartition,
    from: i64,
    end: i64,
    /// The offset that comes next.
    next: i64,
    outcome: Option<ReadOutcome>,
    /// What the header says that is asked for.
    header: Option<Vec<u8>>,
}

/// All partitions to read.
struct Tasks {
    all: Vec<Task>,
    /// Where in `all` a partition is, by topic and number.
    places: HashMap<String, HashMap<i32, usize>>,
    /// How many have not reached an end.
    open: usize,
    /// When anything was last passed.
    moved: Instant,
    /// The header that is asked for.
    header: Option<&'static CStr>,
}

impl Tasks {
    fn add(&mut self, name: &TopicPartition, from: Option<i64>, low: i64, high: i64) {
        let from = from.unwrap_or(low);
        let outcome = match from {
            from if from < low || from > high => Some(ReadOutcome::OutOfRange { low, high }),
            from if from == high => Some(ReadOutcome::End(high)),
            _ => None,
        };
        self.open += usize::from(outcome.is_none());
        self.places.entry(name.topic.to_string()).or_default().insert(name.partition, self.all.len());
        self.all.push(Task { name: name.clone(), from, end: high, next: from, outcome, header: None });
    }

    fn open(&self) -> impl Iterator<Item = &Task> {
        self.all.iter().filter(|task| task.outcome.is_none())
    }

    /// Hands over what was fetched; which partitions reached their end by it.
    fn take(
        &mut self,
        messages: &[Message<'_>],
        each: &mut impl FnMut(&TopicPartition, &[u8], Option<&[u8]>, i64),
    ) -> Result<Vec<TopicPartition>, KafkaError> {
        let mut finished = Vec::new();
        for run in messages.chunk_by(|one, other| one.is_beside(other)) {
            let Some(first) = run.first() else { continue };
            let Some(at) = self.places.get(&first.topic()).and_then(|by| by.get(&first.partition())) else { continue };
            let task = &mut self.all[*at];
            if task.outcome.is_some() {
                continue;
            }
            let before = task.next;
            match first.error() {
                None => task.hand_over(run, self.header, each),
                Some((code, reason)) => task.event(code, &reason, first.offset())?,
            }
            if task.next > before {
                self.moved = Instant::now();
            }
            if task.outcome.is_some() {
                self.open -= 1;
                finished.push(task.name.clone());
            }
        }
        Ok(finished)
    }

    /// Whether anything was passed of late.
    fn check(&self, patience: Duration) -> Result<(), KafkaError> {
        let Some(Task { name, next, end, .. }) = self.open().next().filter(|_| self.moved.elapsed() > patience) else {
            return Ok(());
        };
        let waited = patience.as_secs();
        Err(KafkaError::Outage(format!(
            "reading changelog {name} does not get beyond offset {next} of {end} for {waited} s: the broker may be down, or a process that died has left a transaction open, which the broker ends after that process's kafka.producer.transaction_timeout: if it does not, see `kafka-transactions.sh find-hanging`"
        )))
    }

    fn progress(&self) -> ChangelogProgress {
        let sum = |length: fn(&Task) -> i64| self.all.iter().map(|task| u64::try_from(length(task)).unwrap_or(0)).sum();
        ChangelogProgress { done: sum(|task| task.next - task.from), total: sum(|task| task.end - task.from) }
    }

    fn ends(self) -> Vec<ChangelogEnd> {
        let end = |task: Task| Some(ChangelogEnd { partition: task.name, outcome: task.outcome?, header: task.header });
        self.all.into_iter().filter_map(end).collect()
    }
}

impl Task {
    fn hand_over(
        &mut self,
        records: &[Message<'_>],
        header: Option<&CStr>,
        each: &mut impl FnMut(&TopicPartition, &[u8], Option<&[u8]>, i64),
    ) {
        // Reading headers costs, and the last record says it all.
        let last = records.iter().rev().find(|record| (self.next..self.end).contains(&record.offset()));
        if let Some(value) = header.zip(last).and_then(|(name, last)| last.header(name)) {
            self.header = Some(value.to_vec());
        }
        for record in records {
            let offset = record.offset();
            if offset >= self.end {
                return self.pass(self.end);
            }
            // What was fetched before a place was set anew.
            if offset < self.next {
                continue;
            }
            if let Some(key) = record.key() {
                each(&self.name, key, record.value(), offset);
            }
            self.pass(offset + 1);
        }
    }

    /// Something else than a record; `offset` is where reading is.
    fn event(&mut self, code: Code, reason: &str, offset: i64) -> Result<(), KafkaError> {
        match code {
            // Past markers and what was aborted as well.
            Code::PartitionEOF => self.pass(offset.max(self.next)),
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                self.outcome = Some(ReadOutcome::OutOfRange { low: self.next, high: self.end });
            }
            code => {
                refused(&self.name, code).map_or(Ok(()), Err)?;
                tracing::debug!(partition = %self.name, ?code, reason, "a changelog cannot be read yet");
            }
        }
        Ok(())
    }

    fn pass(&mut self, next: i64) {
        self.next = next.min(self.end);
        if self.next == self.end {
            self.outcome = Some(ReadOutcome::End(self.end));
        }
    }
}

fn build(settings: &ClientSettings) -> Result<Reader, KafkaError> {
    let built = credentials::create(settings, Logs);
    built.map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))
}

/// Lets the partitions' records come to a queue of their own.
fn assign(consumer: &Reader, tasks: &Tasks) -> Result<FetchQueue, KafkaError> {
    let without = || KafkaError::Outage("there is no memory to read changelogs".to_owned());
    let queue = FetchQueue::new(consumer.client()).ok_or_else(without)?;
    if !tasks.open().all(|task| queue.attach(consumer.client(), &task.name)) {
        return Err(without());
    }
    let list = partition::list_at(tasks.open().map(|task| (&task.name, task.from)))?;
    consumer.assign(&list).map_err(|error| outage(&error))?;
    Ok(queue)
}

/// Serves what librdkafka has to say beside records.
fn serve(consumer: &Reader, queue: &FetchQueue) {
    while queue.has_events() {
        if let Some(Err(error)) = consumer.poll(Duration::ZERO) {
            tracing::debug!(%error, "a reader of changelogs has trouble");
        }
    }
}

/// Whether the cluster's metadata lacks a partition; `None` when nobody tells it.
fn is_missing(consumer: &Reader, name: &TopicPartition) -> Option<bool> {
    let metadata = consumer.fetch_metadata(Some(&name.topic), ANSWER).ok()?;
    let topic = metadata.topics().iter().find(|topic| *topic.name() == *name.topic);
    Some(topic.is_none_or(|topic| match topic.error().map(Code::from) {
        None => topic.partitions().iter().all(|partition| partition.id() != name.partition),
        Some(code) => is_unknown(code),
    }))
}

fn absent(name: &TopicPartition) -> KafkaError {
    KafkaError::Refused(format!("there is no partition {name}: run `headwater topology apply`"))
}

fn refused(name: &TopicPartition, code: Code) -> Option<KafkaError> {
    lacking(code, Right::Read, ResourceNames::topic(&name.topic)).map(KafkaError::Refused)
}

fn outage(error: &ClientError) -> KafkaError {
    KafkaError::Outage(format!("changelogs cannot be read: the kafka cluster does not answer: {error}"))
}

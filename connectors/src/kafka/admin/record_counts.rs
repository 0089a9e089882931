//! How many records lie between two offsets: there are fewer than offsets where transactions have left their markers, or
//! compaction its holes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
};

use super::admin_clients::Logs;
use crate::kafka::{
    config::KafkaConfig,
    consumer::partition,
    credentials,
    error::KafkaError,
    librdkafka::{fetch::FetchQueue, live_clients::ClientHandle},
};

/// How long counting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one look for records waits.
const ROUND: Duration = Duration::from_millis(100);

/// A range of offsets of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: TopicPartition,
    /// Its first offset.
    pub from: i64,
    /// The offset behind it, not beyond the last stable one.
    pub to: i64,
}

/// How many committed records there are on each of these. They are read for that, so they should be short; one that cannot be
/// read to its end within 5 s is left out.
///
/// # Errors
/// When the configuration cannot work.
pub async fn count_records(
    config: &KafkaConfig,
    ranges: &[OffsetRange],
) -> Result<BTreeMap<TopicPartition, i64>, KafkaError> {
    if ranges.is_empty() {
        return Ok(BTreeMap::new());
    }
    let settings = config.changelog_reader("headwater-reader-counting")?;
    let mut counts: Counts = ranges.iter().map(Count::of).collect();
    let count = move || {
        let consumer: ClientHandle<BaseConsumer<Logs>> = credentials::create(&settings, Logs)
            .map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))?;
        run(&consumer, &mut counts)?;
        let known = counts.into_values().filter(|count| count.done);
        Ok(known.map(|count| (count.range.partition, count.records)).collect())
    };
    tokio::task::spawn_blocking(count).await.map_err(|error| KafkaError::Outage(error.to_string()))?
}

type Counts = BTreeMap<(String, i32), Count>;

struct Count {
    range: OffsetRange,
    records: i64,
    done: bool,
}

fn run(consumer: &BaseConsumer<Logs>, counts: &mut Counts) -> Result<(), KafkaError> {
    let away = |why: &str| KafkaError::Outage(format!("records cannot be counted: {why}"));
    let deadline = Instant::now() + PATIENCE;
    let queue = FetchQueue::new(consumer.client()).ok_or_else(|| away("there is no memory"))?;
    let open = || counts.values().filter(|count| !count.done).map(|count| &count.range);
    if !open().all(|range| queue.attach(consumer.client(), &range.partition)) {
        return Err(away("there is no memory"));
    }
    let list = partition::list_at(open().map(|range| (&range.partition, range.from)))?;
    consumer.assign(&list).map_err(|error| away(&error.to_string()))?;
    while counts.values().any(|count| !count.done) && Instant::now() < deadline {
        while queue.has_events() {
            if let Some(Err(error)) = consumer.poll(Duration::ZERO) {
                tracing::debug!(%error, "a reader that counts records has trouble");
            }
        }
        for message in queue.take(consumer.client(), ROUND) {
            if let Some(count) = counts.get_mut(&(message.topic(), message.partition())) {
                let code = message.error().map(|(code, _)| code);
                count.take(message.offset(), code);
            }
        }
    }
    Ok(())
}

impl Count {
    fn of(range: &OffsetRange) -> ((String, i32), Self) {
        let name = (range.partition.topic.to_string(), range.partition.partition);
        (name, Self { range: range.clone(), records: 0, done: range.from >= range.to })
    }

    /// A record at this offset, or an event.
    fn take(&mut self, offset: i64, event: Option<Code>) {
        match event {
            // What was fetched beyond the end.
            _ if self.done => {}
            None if offset < self.range.to => {
                self.records += 1;
                self.done = offset + 1 == self.range.to;
            }
            None => self.done = true,
            // Past markers and what was aborted as well.
            Some(Code::PartitionEOF) => self.done = offset >= self.range.to,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a marker counts as a record, what lies beyond the range counts, or one that ends in markers never ends.
    #[test]
    fn records_are_counted_and_markers_are_not() {
        let range = OffsetRange { partition: TopicPartition::new("t", 0), from: 10, to: 20 };
        let mut counts = [(); 3].map(|()| Count::of(&range).1);
        let counted = |count: &mut Count, seen: &[(i64, Option<Code>)]| {
            seen.iter().for_each(|(offset, event)| count.take(*offset, *event));
            (count.records, count.done)
        };
        let end = Some(Code::PartitionEOF);
        assert_eq!(counted(&mut counts[0], &[(12, None), (15, None), (20, end)]), (2, true), "a marker at the end");
        assert_eq!(counted(&mut counts[1], &[(12, None), (25, None), (26, None)]), (1, true), "records behind it");
        assert_eq!(counted(&mut counts[2], &[(12, None), (18, end)]), (1, false), "the end of before");
        assert_eq!(counted(&mut counts[2], &[(19, None), (19, None)]), (2, true));
    }
}

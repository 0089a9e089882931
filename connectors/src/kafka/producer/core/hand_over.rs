//! Handing records over to librdkafka: the topic's name, the partition, room in the queue, and the right to publish.

use std::{
    ffi::{CStr, CString},
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::spi::Outgoing;
use rdkafka::producer::{Producer as _, ThreadedProducer};

use super::{partition_counts::PartitionCounts, produce_error::ProduceError, reports::Reports};
use crate::kafka::{consumer::membership::lease::PublishPermit, librdkafka::produce::produce_numbered};

/// How long to wait for room in a full queue before trying again.
const ROOM_WAIT: Duration = Duration::from_millis(1);
/// After so many records it is asked again whether the rest may be published.
const RECORDS_PER_CHECK: usize = 16;

/// Records on their way to a client, one after another.
pub(crate) struct HandOver<'a> {
    counts: &'a PartitionCounts,
    permit: &'a PublishPermit,
    /// How many records came so far, and what was said last of the right to publish them.
    records: usize,
    verdict: Result<(), String>,
    /// The latest topic's name as C has it: records of one topic mostly follow each other.
    name: Option<(Arc<str>, CString)>,
}

impl<'a> HandOver<'a> {
    /// By these counts, as long as the right to it stands.
    pub(crate) fn new(counts: &'a PartitionCounts, permit: &'a PublishPermit) -> Self {
        Self { counts, permit, records: 0, verdict: Ok(()), name: None }
    }

    /// Offers a record once: `produce` hands it to librdkafka, which copies it, under this name and for this partition.
    ///
    /// # Errors
    /// Why it was not taken; [`ProduceError::is_queue_full`] where there was no room.
    pub(crate) fn offer(
        &mut self,
        record: &Outgoing,
        produce: impl FnOnce(&CStr, i32) -> Result<(), ProduceError>,
    ) -> Result<(), ProduceError> {
        let latest = self.name.take().filter(|(topic, _)| *topic == record.topic);
        let name = match latest {
            Some((_, name)) => name,
            None => CString::new(&*record.topic).map_err(|error| ProduceError::Client(error.into()))?,
        };
        let (_, name) = self.name.insert((Arc::clone(&record.topic), name));
        produce(name, self.counts.place(record))
    }

    /// Offers the next record until there is room for it; `room` says how long to wait before trying again, if that is worth it.
    /// Once one may not be published, none is that comes behind it.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) async fn next(
        &mut self,
        record: &Outgoing,
        mut produce: impl FnMut(&CStr, i32) -> Result<(), ProduceError>,
        room: impl Fn() -> Option<Duration>,
    ) -> Result<(), ProduceError> {
        if self.records.is_multiple_of(RECORDS_PER_CHECK) {
            self.ask().await;
        }
        self.records += 1;
        loop {
            self.verdict.clone().map_err(ProduceError::Closed)?;
            match self.offer(record, &mut produce) {
                Err(error) if error.is_queue_full() => tokio::time::sleep(room().ok_or(error)?).await,
                outcome => return outcome,
            }
            self.ask().await;
        }
    }

    /// Asks whether what was begun may still be published, unless it was said once that it may not.
    async fn ask(&mut self) {
        if self.verdict.is_ok() {
            self.verdict = self.permit.check().await;
        }
    }

    /// Hands the next record over under this number. Room is waited for until the time is over, and not once a record has failed.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) async fn next_numbered(
        &mut self,
        client: &ThreadedProducer<Reports>,
        record: &Outgoing,
        number: usize,
        deadline: Instant,
    ) -> Result<(), ProduceError> {
        let produce = |name: &CStr, partition| {
            produce_numbered(client.client(), name, record, partition, number).map_err(ProduceError::untaken)
        };
        let is_worth_it = || Instant::now() < deadline && client.context().errors().is_empty();
        self.next(record, produce, || is_worth_it().then_some(ROOM_WAIT)).await
    }

    /// Hands records over up to the first that is not taken, each under its number in this attempt.
    ///
    /// # Errors
    /// Which one was not taken, and why.
    pub(crate) async fn all_numbered(
        mut self,
        client: &ThreadedProducer<Reports>,
        records: &[&Outgoing],
        attempt: usize,
        deadline: Instant,
    ) -> Result<(), (usize, ProduceError)> {
        for (index, record) in records.iter().enumerate() {
            let number = Reports::numbered(attempt, index);
            self.next_numbered(client, record, number, deadline).await.map_err(|error| (index, error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use headwater::Headers;
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;
    use crate::kafka::consumer::membership::lease::Lease;

    fn record(topic: &str) -> Outgoing {
        Outgoing { topic: topic.into(), partition: None, key: None, value: None, headers: Headers::default() }
    }

    fn full(_: &CStr, _: i32) -> Result<(), ProduceError> {
        Err(ProduceError::of(Code::QueueFull))
    }

    /// Red when partitions are lost while a record waits for room, and one behind it is handed over all the same,
    /// because what was said last of the right to it is forgotten (`take` it in `next`): it would stand without the one before.
    #[tokio::test]
    async fn nothing_is_handed_over_behind_what_may_not_be() {
        let lease = Lease::of(Duration::from_secs(8));
        lease.prove(Instant::now());
        let (counts, permit) = (PartitionCounts::default(), lease.permit().unwrap());
        let mut hand_over = HandOver::new(&counts, &permit);
        let lost = || {
            lease.lost();
            Some(Duration::ZERO)
        };
        let waited = hand_over.next(&record("t"), full, lost).await;
        assert!(matches!(&waited, Err(ProduceError::Closed(why)) if why.contains("other members")), "{waited:?}");
        let behind = hand_over.next(&record("t"), |_, _| Ok(()), || None).await;
        assert!(matches!(&behind, Err(ProduceError::Closed(why)) if why.contains("other members")), "{behind:?}");
    }

    /// Red when a record that finds no room is not offered again while that is worth it, or is for ever.
    #[tokio::test]
    async fn room_is_waited_for_while_that_is_worth_it() {
        let (counts, permit) = (PartitionCounts::default(), PublishPermit::unconditional());
        let mut hand_over = HandOver::new(&counts, &permit);
        let mut offers = 0;
        let third = |name: &CStr, partition| {
            offers += 1;
            if offers < 3 { full(name, partition) } else { Ok(()) }
        };
        assert!(hand_over.next(&record("t"), third, || Some(Duration::ZERO)).await.is_ok());
        assert_eq!(offers, 3);
        let mut offers = 0;
        let once = |name: &CStr, partition| {
            offers += 1;
            assert!(offers < 2, "it is not offered again");
            full(name, partition)
        };
        let given_up = hand_over.next(&record("t"), once, || None).await;
        assert!(given_up.is_err_and(|error| error.is_queue_full()));
    }

    /// Red when a record goes to the topic of the one before it.
    #[test]
    fn each_record_goes_to_its_own_topic() {
        let (counts, permit) = (PartitionCounts::default(), PublishPermit::unconditional());
        let (mut hand_over, mut names) = (HandOver::new(&counts, &permit), Vec::new());
        for topic in ["a", "a", "b", "no\0name", "b", "a"] {
            let taken = hand_over.offer(&record(topic), |name, _| {
                names.push(name.to_str().unwrap().to_owned());
                Ok(())
            });
            assert_eq!(taken.is_err(), topic.contains('\0'), "{topic:?}");
        }
        assert_eq!(names, ["a", "a", "b", "b", "a"]);
    }
}

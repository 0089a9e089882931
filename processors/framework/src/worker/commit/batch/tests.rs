//! Batches taken apart: whatever way, each record keeps its own.

use std::time::Duration;

use proptest::prelude::*;

use crate::{
    event::Meta,
    failure::DeadLetterKind,
    ports::unit::{Marker, RowData},
    wire::{
        headers::Attributes,
        record::{Headers, Outgoing},
    },
    worker::{attempt::in_flight::InFlightRecord, commit::batch::*},
};

/// What one record asks for: how many outgoing records, and whether it has a row and a marker.
type Asks = (i32, usize, bool, bool);

fn place(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// A text that names the record, and says which of its effects this is.
fn name(partition: i32, offset: i64, effect: &str) -> String {
    format!("{partition}/{offset} {effect}")
}

fn outgoing(name: &str) -> Outgoing {
    let (key, headers) = (Some(name.as_bytes().to_vec()), Headers::default());
    Outgoing { topic: "out".into(), partition: None, key, value: None, headers }
}

/// Adds a record whose partition stands at 100 before the batch.
fn add(batch: &mut UnitBatch, finished: FinishedRecord) {
    batch.begin(&finished.covered.partition, 100);
    batch.push(finished);
}

fn finished((partition, count, row, marker): Asks, offset: i64) -> FinishedRecord {
    let key = Some(name(partition, offset, "row").into_bytes());
    let place = place(partition);
    let (topic, headers) = (place.topic.clone(), Headers::default());
    let record = Record { topic, partition, offset, timestamp_ms: 0, key, value: None, headers };
    let meta: Meta = Attributes::default().complete(&record, String::new(), <_>::default(), <_>::default());
    let effects = Effects {
        outgoing: (0..count).map(|n| outgoing(&name(partition, offset, &n.to_string()))).collect(),
        row: row.then(|| (meta.into(), None::<RowData>)),
        marker: marker.then(|| {
            let record = outgoing(&name(partition, offset, "marker"));
            Box::new(Marker { place: place.clone(), record })
        }),
        change: None,
        waiting: None,
        event_time: None,
        spans: Vec::new(),
        disposition: if count == 2 { Disposition::Dead(DeadLetterKind::Row) } else { Disposition::Processed },
    };
    let in_flight = InFlightRecord {
        partition: place,
        role: TopicRole::Input,
        start: u64::try_from(partition).unwrap(),
        lane: None,
        failed: 0,
        first_failed_ms: None,
        probed: 0,
        begun: true,
        blocks: false,
        record,
    };
    FinishedRecord::new(in_flight, effects, Duration::ZERO)
}

/// A batch of these records; offsets of a partition rise by two, and it stood at 100 before.
fn batch(asks: &[Asks], atomic: bool) -> UnitBatch {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut batch = UnitBatch::default();
    for ask in asks {
        let offset = next.entry(ask.0).or_insert(100);
        add(&mut batch, finished(*ask, *offset));
        *offset += 2;
    }
    batch.with_positions(atomic)
}

/// Everything that a batch asks for, in order.
fn effects(batch: &UnitBatch) -> [Vec<String>; 3] {
    let text = |key: &Option<Vec<u8>>| String::from_utf8(key.clone().unwrap_or_default()).unwrap();
    [
        batch.unit.outgoing.iter().map(|one| text(&one.key)).collect(),
        batch.unit.rows.iter().map(|row| text(&row.record.key)).collect(),
        batch.unit.markers.iter().map(|marker| text(&marker.record.key)).collect(),
    ]
}

/// The records of a batch, and that it asks for just what they ask for.
fn records(batch: &UnitBatch) -> Vec<(i32, i64)> {
    let all = batch.records.iter().map(|c| (c.partition.partition, c.offset)).collect::<Vec<_>>();
    let mut wanted = <[Vec<String>; 3]>::default();
    for c in &batch.records {
        let name = |effect: &str| name(c.partition.partition, c.offset, effect);
        wanted[0].extend((0..c.share.outgoing).map(|n| name(&n.to_string())));
        wanted[1].extend((0..c.share.rows).map(|_| name("row")));
        wanted[2].extend((0..c.share.markers).map(|_| name("marker")));
    }
    assert_eq!(effects(batch), wanted);
    all
}

/// Where each partition stands after these batches, each of which must begin where the one before has ended.
fn chained<'a>(batches: impl IntoIterator<Item = &'a UnitBatch>) -> BTreeMap<i32, i64> {
    let mut stands: BTreeMap<i32, i64> = BTreeMap::new();
    for OffsetRange { from, to } in batches.into_iter().flat_map(|batch| &batch.unit.positions) {
        let before = stands.insert(to.partition.partition, to.next).unwrap_or(100);
        assert_eq!(before, *from, "{}", to.partition);
    }
    stands
}

fn asks() -> impl Strategy<Value = Vec<Asks>> {
    proptest::collection::vec((0..3i32, 0..3usize, any::<bool>(), any::<bool>()), 1..40)
}

proptest! {
    /// Red when a half takes an outgoing record, a row or a marker of the other, loses one, or does not begin where the
    /// other ends.
    #[test]
    fn halves_make_the_whole_however_often_it_is_halved(
        asks in asks(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8), atomic: bool,
    ) {
        let whole = batch(&asks, atomic);
        let (all, end) = (records(&whole), chained([&whole]));
        prop_assert_eq!(end.is_empty(), !atomic, "only a store that keeps positions is told of them");
        let mut parts = vec![whole];
        for cut in cuts {
            let at = cut.index(parts.len());
            let count = parts[at].records.len();
            if count > 1 {
                let (first, second) = parts.remove(at).split_at(1 + cut.index(count - 1), atomic);
                parts.splice(at..at, [first, second]);
            }
        }
        prop_assert_eq!(parts.iter().flat_map(records).collect::<Vec<_>>(), all);
        prop_assert_eq!(chained(&parts), end);
    }

    /// Red when what belongs to a partition that has left stays, or takes something of another along.
    #[test]
    fn what_is_left_of_a_batch_is_that_of_our_partitions(
        asks in asks(), cut in any::<prop::sample::Index>(), ours in proptest::collection::vec(any::<bool>(), 3), atomic: bool,
    ) {
        let is_ours = |(partition, _): &(i32, i64)| ours[usize::try_from(*partition).unwrap()];
        let start = |partition: i32| u64::try_from(partition).unwrap() + u64::from(!is_ours(&(partition, 0)));
        let partitions: BTreeMap<_, _> =
            (0..3).map(|p| (place(p), Partition::new(TopicRole::Input, start(p), Duration::ZERO, 0, false))).collect();
        let (first, second) = batch(&asks, atomic).split_at(cut.index(asks.len()), atomic);
        let wanted: Vec<_> = [&first, &second].into_iter().flat_map(records).filter(is_ours).collect();
        let mut end = chained([&first, &second]);
        end.retain(|partition, _| is_ours(&(*partition, 0)));
        let parts = [first, second].map(|part| part.of_ours(&partitions, atomic));
        prop_assert_eq!(parts.iter().flat_map(records).collect::<Vec<_>>(), wanted);
        prop_assert_eq!(chained(&parts), end);
    }

    /// Red when the record, or where it stands, is another one than the batch covers.
    #[test]
    fn a_batch_of_one_gives_its_record_back(ask in (0..3i32, 0..3usize, any::<bool>(), any::<bool>())) {
        let mut batch = UnitBatch::default();
        add(&mut batch, finished(ask, 105));
        let (covered, record, from) = batch.into_only().expect("one");
        prop_assert_eq!((record.place(), record.offset, from), (covered.partition, 105, 100));
    }
}

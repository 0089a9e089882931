//! The checks, one for each promise.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll};

use super::{
    fixture::{Capability, Effect, Fixture, Part},
    group::{CommitterUnderTest, partition, start, within},
};
use crate::{
    event::payload::{Category, Priority},
    ports::{
        BoxFuture, StartFrom,
        unit::{Change, CommitError, Committed, Row, Unit},
    },
    wire::{
        delivery_headers::Trust,
        headers::Attributes,
        record::{Headers, Record, TopicPartition},
    },
};

/// How often a commit may wait for an answer.
const MOST_POLLS: usize = 200;

/// Red when [`Committer::atomic`] or [`Committer::cancels`] is not what was declared, as in a wrapper that does not ask what it
/// wraps; or when a group that has no partition yet cannot be started.
pub(super) async fn declares_what_it_is<F: Fixture>(f: &mut F) {
    let mut committer = f.committer().await;
    let declares = |capability| F::CAPABILITIES.contains(&capability);
    assert_eq!(committer.atomic(), declares(Capability::Atomic), "atomic");
    assert_eq!(committer.cancels(), declares(Capability::Cancels), "cancels");
    assert_eq!(start(&mut committer, &[]).await, []);
}

/// Red when a start does not answer for each partition, or has an offset for what nobody has committed.
pub(super) async fn starts_each_partition<F: Fixture>(f: &mut F) {
    let both = [partition(f, 1), partition(f, 0)];
    let mut committer = f.committer().await;
    let starts = start(&mut committer, &both).await;
    let is_new = |start: &StartFrom| !matches!(start, StartFrom::Offset(1..));
    assert!(starts.len() == 2 && starts.iter().all(is_new), "{starts:?}");
}

/// Red when a unit is a success before it is there, in part, or in another order than its own.
pub(super) async fn keeps_the_order<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    for round in 0..3 {
        let effects = group.effects((0..40).map(|n| (n % 2, format!("{round}-{n}"))));
        let unit = group.unit(&effects);
        let outcome = group.try_commit(&unit).await;
        assert!(matches!(outcome, Ok(Committed::Done)), "{outcome:?}");
        group.done(effects);
        group.expect().await;
    }
}

/// A commit is dropped wherever it waits, and the unit committed again as the engine does it. Red when it is lost, there twice
/// where it is to be there once, or out of its order.
pub(super) async fn commits_again_what_was_given_up<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    for polls in 0.. {
        assert!(polls < MOST_POLLS, "a commit waits for ever");
        let effects = group.effects((0..2).map(|partition| (partition, format!("{polls}-{partition}"))));
        let unit = group.unit(&effects);
        let outcome = polled(group.committer.commit(&unit), polls).await;
        match &outcome {
            Some(Ok(Committed::Done)) => group.done(effects),
            Some(other) => panic!("{other:?}"),
            None => group.commit_again(effects).await,
        }
        if outcome.is_some() {
            break;
        }
    }
    group.expect().await;
}

/// Red when what a committer has no place for is taken, and lost.
pub(super) async fn refuses_to_drop_anything<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    for part in F::MISPLACED {
        let effects = group.effects([(0, format!("beside {part:?}"))]);
        let mut unit = group.unit(&effects);
        match part {
            Part::Rows => unit.rows.push(row(&group.partition(0))),
            Part::Changes => unit.changes.push(change()),
        }
        let outcome = group.try_commit(&unit).await;
        assert!(matches!(outcome, Err(CommitError::Fatal(_))), "{part:?}: {outcome:?}");
    }
    group.expect().await;
}

/// Red when a position is committed without its effects or not at all, when a start gives it to another partition, or when a
/// unit that has nothing but positions does not move them.
pub(super) async fn commits_positions_with_effects<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects((0..5).map(|n| (i32::from(n == 0), format!("{n}"))));
    group.commit(effects).await;
    assert_eq!(group.stands().await, [StartFrom::Offset(1), StartFrom::Offset(4)]);
    let on = group.effects([(0, "on".to_owned())]);
    group.commit(on).await;
    let positions = group.unit(&group.effects([(1, String::new()), (1, String::new())])).positions;
    let unit = Unit { positions, ..Unit::default() };
    let outcome = group.try_commit(&unit).await;
    assert!(matches!(outcome, Ok(Committed::Done)), "{outcome:?}");
    assert_eq!(group.stands().await, [StartFrom::Offset(3), StartFrom::Offset(5)]);
    group.expect().await;
}

/// Red when a unit moves a partition back, or has it jump, and its effects are there.
pub(super) async fn fences_what_goes_back<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    for text in ["one", "two", "three"] {
        let effects = group.effects([(0, text.to_owned())]);
        group.commit(effects).await;
    }
    for offset in [0, 7] {
        let unit = group.unit(&[Effect { partition: 0, offset, text: format!("stale at {offset}") }]);
        let outcome = group.try_commit(&unit).await.map_err(|error| error.to_string());
        assert_eq!(outcome, Ok(Committed::Fenced(vec![group.partition(0)])));
        assert_eq!(group.stands().await[1], StartFrom::Offset(3));
    }
    group.expect().await;
}

/// Red when a partition that was forgotten, or never started, is moved; or when one that is started again is not.
pub(super) async fn fences_what_it_has_forgotten<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "before".to_owned()), (1, "before too".to_owned())]);
    group.commit(effects).await;
    let zero = group.partition(0);
    group.committer.forget(std::slice::from_ref(&zero));
    let effects = group.effects([(0, "forgotten".to_owned())]);
    let unit = group.unit(&effects);
    let outcome = group.try_commit(&unit).await.map_err(|error| error.to_string());
    assert_eq!(outcome, Ok(Committed::Fenced(vec![zero.clone()])));
    group.expect().await;
    assert_eq!(start(&mut group.committer, &[zero]).await, [StartFrom::Offset(1)]);
    group.commit(effects).await;
    group.expect().await;
}

/// Red when who has lost a partition commits something of it, does not say so, or loses what is still its own.
pub(super) async fn is_fenced_by_another_owner<F: Fixture>(f: &mut F) {
    let (mut group, unit, effects) = lose_a_partition(f).await;
    let fenced = group.fenced(&unit).await;
    assert!(fenced.contains(&group.partition(0)), "{fenced:?}");
    let own = effects.into_iter().filter(|effect| !fenced.contains(&group.partition(effect.partition)));
    let own: Vec<Effect> = own.collect();
    group.there.extend(own);
    group.expect().await;
}

/// Red when a marker of a fenced partition is published: what it tells of was dropped.
pub(super) async fn tells_nothing_of_a_fenced<F: Fixture>(f: &mut F) {
    let (mut group, mut unit, _) = lose_a_partition(f).await;
    for number in [0, 1] {
        unit.markers.push(group.marker(number, &format!("of {number}")));
    }
    let fenced = group.fenced(&unit).await;
    let own = [0, 1].into_iter().filter(|number| !fenced.contains(&group.partition(*number)));
    let own: Vec<String> = own.map(|number| format!("of {number}")).collect();
    assert_eq!(group.fixture.contents().await.markers, own);
}

/// A group that has committed something of both partitions, and lost partition 0; and what it would commit next.
async fn lose_a_partition<F: Fixture>(f: &mut F) -> (CommitterUnderTest<'_, F>, Unit, Vec<Effect>) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "before".to_owned()), (1, "before too".to_owned())]);
    group.commit(effects).await;
    let lost = group.partition(0);
    group.fixture.take_over(&lost).await;
    let effects = group.effects([(0, "late".to_owned()), (1, "late too".to_owned())]);
    let unit = group.unit(&effects);
    (group, unit, effects)
}

/// Red when state can be read before it is committed, is not that of the last change, or is lost with the process.
pub(super) async fn keeps_the_last_change<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "first".to_owned()), (1, "other".to_owned()), (0, "second".to_owned())]);
    group.commit(effects).await;
    let two = BTreeMap::from([(0, "second".to_owned()), (1, "other".to_owned())]);
    assert_eq!(group.fixture.contents().await.state, two);
    let effects = group.effects([(1, "third".to_owned())]);
    group.commit(effects).await;
    group.stands().await;
    let all = BTreeMap::from([(0, "second".to_owned()), (1, "third".to_owned())]);
    assert_eq!(group.fixture.contents().await.state, all);
}

/// Red when a marker is lost.
pub(super) async fn publishes_markers<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "a".to_owned()), (1, "b".to_owned())]);
    let unit = Unit { markers: vec![group.marker(0, "of a"), group.marker(1, "of b")], ..group.unit(&effects) };
    let outcome = group.try_commit(&unit).await;
    assert!(matches!(outcome, Ok(Committed::Done)), "{outcome:?}");
    assert_eq!(group.fixture.contents().await.markers, ["of a", "of b"]);
}

/// Red when a marker is published though what it tells of is refused.
pub(super) async fn publishes_no_marker_early<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let (_, mut unit) = group.poisoned();
    unit.markers.push(group.marker(0, "early"));
    refusal(group.try_commit(&unit).await, &unit);
    assert_eq!(group.fixture.contents().await.markers, Vec::<String>::new());
}

/// Red when a refusal is taken for an outage, names another row, or stands in the way of the rest.
pub(super) async fn goes_on_without_what_is_refused<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let (good, unit) = group.poisoned();
    refusal(group.try_commit(&unit).await, &unit);
    group.commit(good).await;
    group.expect().await;
}

/// Red when anything of a unit is there whose data was refused.
pub(super) async fn commits_nothing_of_a_refused<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let (_, unit) = group.poisoned();
    refusal(group.try_commit(&unit).await, &unit);
    group.expect().await;
}

/// Red when a server that does not answer has a commit or a start wait without an end, counts as a refusal or as the group's
/// end; or when the unit is lost, or there more than once where it is to be there once.
pub(super) async fn waits_for_its_server<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "before".to_owned()), (1, "before too".to_owned())]);
    group.commit(effects).await;
    let effects = group.effects([(0, "meanwhile".to_owned()), (1, "meanwhile too".to_owned())]);
    let unit = group.unit(&effects);
    group.fixture.cut().await;
    match group.try_commit(&unit).await {
        Err(CommitError::Outage(_) | CommitError::OutcomeUnknown(_)) => {}
        other => panic!("no outage: {other:?}"),
    }
    let both = group.both();
    match within(group.committer.start(&both)).await {
        Ok(_) | Err(CommitError::Outage(_)) => {}
        other => panic!("no outage: {other:?}"),
    }
    group.fixture.mend().await;
    group.commit(effects).await;
    group.expect().await;
}

/// Red when one whose client was closed takes a unit, refuses its data, or waits without an end.
pub(super) async fn commits_nothing_once_closed<F: Fixture>(f: &mut F) {
    let mut group = CommitterUnderTest::start(f).await;
    let effects = group.effects([(0, "before".to_owned())]);
    group.commit(effects).await;
    group.fixture.close().await;
    let effects = group.effects([(0, "after".to_owned())]);
    let unit = group.unit(&effects);
    match group.try_commit(&unit).await {
        Ok(Committed::Fenced(fenced)) => assert_eq!(fenced, [group.partition(0)]),
        Err(CommitError::Outage(_) | CommitError::OutcomeUnknown(_) | CommitError::Failed(_)) => {}
        other => panic!("it goes on: {other:?}"),
    }
    group.expect().await;
}

fn row(place: &TopicPartition) -> Row {
    let record = Record {
        topic: place.topic.clone(),
        partition: place.partition,
        offset: 0,
        timestamp_ms: 0,
        key: None,
        value: None,
        headers: Headers::default(),
    };
    let attributes = Attributes::read(&record.headers, Trust::Nobody);
    let meta = attributes.complete(&record, "suite.happened".to_owned(), Category::Domain, Priority::Normal);
    Row { meta: Arc::new(meta), record, data: None }
}

fn change() -> Change {
    let bytes = Arc::<[u8]>::from(&b"misplaced"[..]);
    Change { store: "misplaced".into(), partition: 0, key: bytes.clone(), value: Some(bytes), input: None }
}

/// A refusal that names the second row, where it names one.
fn refusal(outcome: Result<Committed, CommitError>, unit: &Unit) {
    match outcome {
        Err(CommitError::Refused(_)) => {}
        Err(CommitError::RefusedRows(rows)) => {
            assert!(rows.len() == 1 && rows[0].row == 1, "{rows:?} of {} rows", unit.rows.len());
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// What a future has answered once it was polled so many times; it is dropped otherwise, as soon as it would go on.
async fn polled<T>(mut asked: BoxFuture<'_, T>, mut polls: usize) -> Option<T> {
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        asked.as_mut().poll(context).map(Some)
    })
    .await
}

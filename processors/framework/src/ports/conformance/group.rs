//! A group as a check plays it: units one after another, committed as the engine commits them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::fixture::{Capability, Effect, Fixture};
use crate::{
    ports::{
        BoxFuture, Committer, StartFrom,
        unit::{CommitError, Committed, Marker, Progress, Unit},
    },
    wire::record::{Position, TopicPartition},
};

/// How long a committer may take for what it is asked, its server away or not.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two tries of a unit.
const PAUSE: Duration = Duration::from_millis(50);

/// One committer, and what is there if it keeps its promises.
pub(super) struct CommitterUnderTest<'a, F> {
    pub(super) fixture: &'a mut F,
    pub(super) committer: Box<dyn Committer>,
    /// The next offset of each partition.
    next: [i64; 2],
    pub(super) there: Vec<Effect>,
}

impl<'a, F: Fixture> CommitterUnderTest<'a, F> {
    pub(super) async fn start(fixture: &'a mut F) -> Self {
        let committer = fixture.committer().await;
        let mut group = Self { fixture, committer, next: [0; 2], there: Vec::new() };
        let both = group.both();
        start(&mut group.committer, &both).await;
        group
    }

    /// Where each partition stands, 1 before 0, as the committer of the next process finds it.
    pub(super) async fn stands(&mut self) -> Vec<StartFrom> {
        self.committer = self.fixture.committer().await;
        let both = self.both();
        start(&mut self.committer, &both).await
    }

    pub(super) fn partition(&self, number: i32) -> TopicPartition {
        partition(self.fixture, number)
    }

    pub(super) fn both(&self) -> [TopicPartition; 2] {
        [self.partition(1), self.partition(0)]
    }

    /// The effects of the next records: partition and text of each.
    pub(super) fn effects(&self, texts: impl IntoIterator<Item = (i32, String)>) -> Vec<Effect> {
        let mut next = self.next;
        let effect = |(partition, text): (i32, String)| {
            let at = &mut next[usize::from(partition != 0)];
            *at += 1;
            Effect { partition, offset: *at - 1, text }
        };
        texts.into_iter().map(effect).collect()
    }

    pub(super) fn unit(&self, effects: &[Effect]) -> Unit {
        let mut unit = Unit { positions: self.positions(effects), ..Unit::default() };
        effects.iter().for_each(|effect| self.fixture.effect(effect, &mut unit));
        unit
    }

    pub(super) fn positions(&self, effects: &[Effect]) -> Vec<Progress> {
        let numbers: BTreeSet<i32> = effects.iter().map(|effect| effect.partition).collect();
        let progress = |number: i32| {
            let offsets = || effects.iter().filter(|effect| effect.partition == number).map(|effect| effect.offset);
            let to = Position { partition: self.partition(number), next: offsets().max()? + 1 };
            Some(Progress { from: offsets().min()?, to })
        };
        numbers.into_iter().filter_map(progress).collect()
    }

    /// A unit whose second record is refused, and what it asks for besides.
    pub(super) fn poisoned(&self) -> (Vec<Effect>, Unit) {
        let all = self.effects([(0, "good".to_owned()), (0, "bad".to_owned()), (0, "good too".to_owned())]);
        let mut unit = Unit { positions: self.positions(&all), ..Unit::default() };
        self.fixture.effect(&all[0], &mut unit);
        self.fixture.poison(&all[1], &mut unit);
        self.fixture.effect(&all[2], &mut unit);
        // Another record fills the place of the one that is left out.
        let good = self.effects([(0, "good".to_owned()), (0, "good too".to_owned())]);
        (good, unit)
    }

    pub(super) fn marker(&self, number: i32, text: &str) -> Marker {
        Marker { place: self.partition(number), record: self.fixture.marker(text) }
    }

    pub(super) async fn try_commit(&mut self, unit: &Unit) -> Result<Committed, CommitError> {
        within(self.committer.commit(unit)).await
    }

    pub(super) async fn fenced(&mut self, unit: &Unit) -> Vec<TopicPartition> {
        match self.try_commit(unit).await {
            Ok(Committed::Fenced(fenced)) => fenced,
            other => panic!("not fenced: {other:?}"),
        }
    }

    /// Commits as the engine does: after an outage again, after an unknown outcome from where the partitions stand.
    pub(super) async fn commit(&mut self, effects: Vec<Effect>) {
        let (unit, since) = (self.unit(&effects), Instant::now());
        loop {
            match self.try_commit(&unit).await {
                Ok(Committed::Done) => break,
                Err(CommitError::Outage(_)) => tokio::time::sleep(PAUSE).await,
                Err(CommitError::OutcomeUnknown(_)) => {
                    let places: Vec<_> = unit.positions.iter().map(|progress| progress.to.partition.clone()).collect();
                    let starts = start(&mut self.committer, &places).await;
                    let passed = unit.positions.iter().map(|progress| StartFrom::Offset(progress.to.next));
                    if starts.into_iter().eq(passed) {
                        break;
                    }
                }
                other => panic!("not committed: {other:?}"),
            }
            assert!(since.elapsed() < LIMIT, "not committed in time");
        }
        self.done(effects);
    }

    /// Commits what may be committed already, since its commit was dropped. The engine drops that of a committer which says
    /// that it cancels, and any other only with the process: then the next process looks where the partitions stand.
    pub(super) async fn commit_again(&mut self, effects: Vec<Effect>) {
        let unit = self.unit(&effects);
        if !self.committer.cancels() && F::CAPABILITIES.contains(&Capability::Positions) {
            // The unit names both partitions, 0 before 1.
            let passed = unit.positions.iter().rev().map(|progress| StartFrom::Offset(progress.to.next));
            if self.stands().await.into_iter().eq(passed) {
                return self.done(effects);
            }
        }
        self.commit(effects).await;
    }

    /// These effects are durable.
    pub(super) fn done(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            self.next[usize::from(effect.partition != 0)] = effect.offset + 1;
        }
        self.there.extend(effects);
    }

    /// What is there is what was committed, as often as declared.
    pub(super) async fn expect(&mut self) {
        let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for Effect { partition, text, .. } in &self.there {
            expected.entry(*partition).or_default().push(text.clone());
        }
        let mut found = self.fixture.contents().await.effects;
        if !F::CAPABILITIES.contains(&Capability::Transactions) {
            found.values_mut().for_each(first_of_each);
        }
        found.retain(|_, texts| !texts.is_empty());
        assert_eq!(found, expected);
    }
}

/// Of what is there more than once, what came first.
fn first_of_each(texts: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
}

pub(super) fn partition<F: Fixture>(f: &F, number: i32) -> TopicPartition {
    TopicPartition::new(f.topic(), number)
}

/// Starts partitions, as often as it takes.
pub(super) async fn start(committer: &mut Box<dyn Committer>, partitions: &[TopicPartition]) -> Vec<StartFrom> {
    let since = Instant::now();
    loop {
        match within(committer.start(partitions)).await {
            Ok(starts) => return starts,
            Err(CommitError::Outage(_)) => tokio::time::sleep(PAUSE).await,
            Err(other) => panic!("not started: {other:?}"),
        }
        assert!(since.elapsed() < LIMIT, "not started in time");
    }
}

/// What a committer answers, which it does in any case.
pub(super) async fn within<T>(asked: BoxFuture<'_, T>) -> T {
    tokio::time::timeout(LIMIT, asked).await.expect("the committer answers")
}

//! A source, a store and a registry that do as they are told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex},
    task::Poll,
};

use crate::{
    event::payload::Payload,
    failure::{DeadLetterKind, Result},
    ports::{
        BoxFuture, Committer, Control, Entry, Replays, SchemaError, SchemaText, Schemas, Source, SourceEvent,
        StartFrom, StoreError, Stores,
        unit::{
            CommitError, CommitOutcome, InputPartition, InputPosition, OffsetRange, RefusedRow, Row, StateChange, Unit,
        },
    },
    wire::record::{Outgoing, TopicPartition},
    worker::tests::Ping,
};

/// What the source will report, what the store will answer, and what both were asked.
#[derive(Default)]
pub(super) struct Outside {
    pub(super) events: VecDeque<SourceEvent>,
    /// By the store's number.
    pub(super) answers: HashMap<usize, VecDeque<Result<CommitOutcome, CommitError>>>,
    /// The store refuses every unit with one of these: the key of a row, or what is published as [`named`] names it.
    pub(super) poison: Vec<String>,
    /// The store refuses the rows of these keys, and says which, with this kind.
    pub(super) bad_rows: Vec<(String, DeadLetterKind)>,
    /// Bytes of a record that the store takes at most.
    pub(super) largest: Option<usize>,
    /// Rows, and what was published, of the units that the store took.
    pub(super) taken: Vec<String>,
    /// Letters, markers and retries that the store took, and the positions of their units.
    pub(super) own: Vec<(Outgoing, Vec<OffsetRange>)>,
    /// What was committed of each key's state.
    states: BTreeMap<KeyOf, Arc<[u8]>>,
    /// Where inputs may come again: how far those have come that have changed it.
    pub(super) inputs: Option<HashMap<InputPartition, i64>>,
    /// The ids of topics, where they have one.
    pub(super) ids: HashMap<String, String>,
    /// Whether a commit is cancelled that outlives a partition of its unit.
    pub(super) cancels: bool,
    /// Whether the source does not close at once.
    pub(super) slow_to_close: bool,
    /// Where each partition stands, as far as the store knows.
    stands: HashMap<TopicPartition, i64>,
    /// The stores that keep their answers to themselves.
    pub(super) silent: BTreeSet<usize>,
    /// Whether the registry answers.
    pub(super) registry_down: bool,
    /// Whether the store answers before the group has joined.
    pub(super) store_down: bool,
    /// The stores that have not answered yet.
    asked: BTreeSet<usize>,
    /// Whether the group takes records.
    pub(super) wants: bool,
    /// How often the group has looked for news since something happened.
    pub(super) looks: u32,
    pub(super) log: Vec<String>,
    /// What the source was told to say outside of each partition.
    pub(super) notes: HashMap<TopicPartition, Option<String>>,
}

/// Store, partition number and key.
type KeyOf = (Arc<str>, i32, Arc<[u8]>);

pub(super) type Shared = Arc<Mutex<Outside>>;

/// The source.
pub(super) struct Script(pub(super) Shared);

impl Source for Script {
    fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent> {
        Box::pin(std::future::poll_fn(move |_| {
            // Nobody need be woken: the bench polls the group after everything it does.
            let mut outside = self.0.lock().unwrap();
            outside.wants = records;
            outside.looks += 1;
            assert!(outside.looks < 10_000, "the group spins");
            outside.events.pop_front().map_or(Poll::Pending, Poll::Ready)
        }))
    }

    fn control(&mut self, control: Control) {
        let said = match &control {
            Control::Note(list) => {
                let notes = list.iter().map(|(id, why)| (id.clone(), why.clone()));
                return self.0.lock().unwrap().notes.extend(notes);
            }
            Control::Begin { partition, start, .. } => format!("begin {}#{start}", names([partition])),
            Control::Pause(list) => format!("pause {}", names(list)),
            Control::Resume(list) => format!("resume {}", names(list)),
            Control::Commit(list) => list.iter().fold("commit".to_owned(), |mut text, position| {
                let _ = write!(text, " {}:{}", names([&position.partition]), position.next);
                text
            }),
            Control::Released(list) => format!("released {}", names(list)),
            Control::Close => "close".to_owned(),
        };
        let mut outside = self.0.lock().unwrap();
        outside.log.push(said);
        if control == Control::Close && !outside.slow_to_close {
            outside.events.push_back(SourceEvent::Closed);
        }
    }
}

/// The store as one of the group's committers sees it.
pub(super) struct Store {
    pub(super) shared: Shared,
    /// Which of them; in the log, what all but the first are asked begins with it.
    pub(super) number: usize,
    pub(super) atomic: bool,
}

impl Store {
    /// Asks the store: it answers once it is not silent, and never hears two things at once.
    async fn ask(&self, what: String) -> Result<CommitOutcome, CommitError> {
        {
            let mut outside = self.shared.lock().unwrap();
            assert!(outside.asked.insert(self.number), "the store is asked two things at once: {what}");
            let said = self.said(what);
            outside.log.push(said);
        }
        let number = self.number;
        let mut asked = Asked { store: self, answered: false };
        let answers = |outside: &Outside| !outside.silent.contains(&number);
        std::future::poll_fn(|_| if answers(&self.shared.lock().unwrap()) { Poll::Ready(()) } else { Poll::Pending })
            .await;
        asked.answered = true;
        drop(asked);
        let mut outside = self.shared.lock().unwrap();
        outside.answers.entry(number).or_default().pop_front().unwrap_or(Ok(CommitOutcome::Done))
    }

    fn said(&self, what: String) -> String {
        if self.number == 0 { what } else { format!("{}> {what}", self.number) }
    }
}

/// A question to a store; who drops it before it is answered does not wait for that.
struct Asked<'a> {
    store: &'a Store,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        // After a test has failed it may be poisoned.
        let Ok(mut outside) = self.store.shared.lock() else { return };
        outside.asked.remove(&self.store.number);
        if !self.answered {
            let said = self.store.said("cancelled".to_owned());
            outside.log.push(said);
        }
    }
}

impl Committer for Store {
    fn atomic(&self) -> bool {
        self.atomic
    }

    fn cancels(&self) -> bool {
        self.shared.lock().unwrap().cancels
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        if partitions.is_empty() {
            let down = self.shared.lock().unwrap().store_down;
            let answer = if down { Err(CommitError::Outage("no database".to_owned())) } else { Ok(Vec::new()) };
            return Box::pin(std::future::ready(answer));
        }
        let names = names(partitions);
        Box::pin(async move {
            self.ask(format!("start {names}")).await?;
            partitions.iter().for_each(|id| _ = self.shared.lock().unwrap().stands.remove(id));
            Ok(vec![StartFrom::Committed; partitions.len()])
        })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        let mut what = "unit".to_owned();
        for range in &unit.positions {
            let _ = write!(what, " {}:{}", names([&range.to.partition]), range.to.next);
        }
        let markers = || unit.markers.iter().map(|marker| &marker.record);
        let outgoing: Vec<String> = unit.outgoing.iter().map(named).chain(markers().map(|m| named(m) + "!")).collect();
        outgoing.iter().for_each(|name| _ = write!(what, " {name}"));
        Box::pin(async move {
            let key = |row: &Row| String::from_utf8_lossy(row.record.key.as_deref().unwrap_or_default()).into_owned();
            let all: Vec<String> = unit.rows.iter().map(key).chain(outgoing).collect();
            let committed = self.ask(what).await?;
            let mut outside = self.shared.lock().unwrap();
            if let Some(bad) = all.iter().find(|name| outside.poison.contains(name)) {
                return Err(CommitError::Refused(format!("bad {bad}")));
            }
            let kind = |name: &String| outside.bad_rows.iter().find(|(bad, _)| bad == name).map(|(_, kind)| *kind);
            let rows = all.iter().take(unit.rows.len()).enumerate();
            let refused = rows.filter_map(|(row, name)| Some((row, kind(name)?, format!("bad {name}"))));
            let refused: Vec<_> = refused.map(|(row, kind, why)| RefusedRow { row, kind, why }).collect();
            if !refused.is_empty() {
                return Err(CommitError::RefusedRows(refused));
            }
            if let Some(large) =
                unit.outgoing.iter().find(|record| outside.largest.is_some_and(|most| record.size() > most))
            {
                return Err(CommitError::Refused(format!("{} is too large", named(large))));
            }
            if committed != CommitOutcome::Done {
                return Ok(committed);
            }
            for OffsetRange { from, to } in &unit.positions {
                let before = outside.stands.insert(to.partition.clone(), to.next);
                assert!(
                    before.is_none_or(|before| before == *from),
                    "{} stands at {before:?}, not {from}",
                    to.partition
                );
            }
            outside.taken.extend(all);
            for StateChange { store, partition, key, value, input } in &unit.changes {
                let place = (store.clone(), *partition, key.clone());
                match value {
                    Some(value) => drop(outside.states.insert(place, value.clone())),
                    None => drop(outside.states.remove(&place)),
                }
                if let (Some(all), Some(input)) = (&mut outside.inputs, input) {
                    all.insert(input.of.clone(), input.next);
                }
            }
            let own = unit.outgoing.iter().chain(markers()).filter(|record| named(record).contains(':'));
            let own: Vec<_> = own.map(|record| (record.clone(), unit.positions.clone())).collect();
            outside.own.extend(own);
            Ok(committed)
        })
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        let said = self.said(format!("forget {}", names(partitions)));
        self.shared.lock().unwrap().log.push(said);
    }
}

/// The state that the store has taken.
pub(super) struct ScriptedStores(pub(super) Shared);

impl Stores for ScriptedStores {
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        Ok(self.0.lock().unwrap().states.get(&(store.into(), partition, key.into())).cloned())
    }

    fn scan(&self, store: &str, partition: i32, _: &[u8], _: usize) -> Result<Vec<Entry>, StoreError> {
        let outside = self.0.lock().unwrap();
        let ours = outside.states.iter().filter(|((of, number, _), _)| **of == *store && *number == partition);
        Ok(ours.map(|((.., key), value)| (key.to_vec(), value.to_vec())).collect())
    }

    fn replays(&self) -> Option<&dyn Replays> {
        self.0.lock().unwrap().inputs.is_some().then_some(self as _)
    }
}

impl Replays for ScriptedStores {
    fn inputs(&self, _: &str, _: i32) -> Vec<InputPosition> {
        let outside = self.0.lock().unwrap();
        outside.inputs.iter().flatten().map(|(of, next)| InputPosition { of: of.clone(), next: *next }).collect()
    }

    fn topic_id(&self, topic: &str) -> Arc<str> {
        self.0.lock().unwrap().ids.get(topic).map_or_else(Arc::default, |id| id.as_str().into())
    }
}

/// The registry: every id below 1,000 is the schema of a ping, and it has no others.
pub(super) struct Pings(pub(super) Shared);

impl Schemas for Pings {
    fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        if self.0.lock().unwrap().registry_down {
            return Box::pin(std::future::ready(Err(SchemaError::Outage("503".to_owned()))));
        }
        if id >= 1_000 {
            return Box::pin(std::future::ready(Err(SchemaError::Unknown("40403".to_owned()))));
        }
        let text = SchemaText { schema: Ping::SCHEMA.to_owned(), references: Vec::new() };
        Box::pin(std::future::ready(Ok(text)))
    }

    fn id_of<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(std::future::ready(Ok(2)))
    }
}

/// Partitions as the log shows them: those of the topic of pings by their numbers alone.
fn names<'a>(list: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let name = |id: &TopicPartition| match id.topic.strip_prefix("play.") {
        Some(own) => format!("{own}/{}", id.partition),
        None => id.partition.to_string(),
    };
    list.into_iter().map(name).collect()
}

/// A record to be published as the log shows it: an event by its key, one for a topic of the group's own by that too.
fn named(record: &Outgoing) -> String {
    let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
    let own = ["play.", "sink."].into_iter().find_map(|group| record.topic.strip_prefix(group));
    own.map_or_else(|| key.clone().into_owned(), |own| format!("{own}:{key}"))
}

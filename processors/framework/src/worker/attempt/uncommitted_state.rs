//! The state that records of a group see: what was committed last, and above it what earlier records have changed and no
//! transaction has committed yet.
//!
//! State belongs to a partition's number: every topic of a stateful group has the same count, and one member has all
//! partitions of a number. Where one of those starts anew, all that is not committed of the number is forgotten; where one
//! leaves, that is so once the last has left.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::ports::{
    Replays, StoreError, Stores,
    unit::{InputPartition, InputPosition, InputRoute, StateChange},
};

/// The state of one group, as its records see it.
pub(crate) struct UncommittedState {
    stores: Arc<dyn Stores>,
    names: Vec<Arc<str>>,
    /// Of each partition's number, of each store: what is not committed.
    open: Mutex<HashMap<i32, Vec<Uncommitted>>>,
    /// Where inputs may come again that have changed state, of each partition's number, of each store: how far they have
    /// come, what is not committed included.
    inputs: Mutex<HashMap<i32, Vec<Option<Inputs>>>>,
}

/// How far inputs have come.
#[derive(Default)]
struct Inputs {
    next: HashMap<InputPartition, i64>,
    /// Whether some are known whose route is not.
    on_any_route: bool,
}

impl Inputs {
    fn of(known: Vec<InputPosition>) -> Self {
        let on_any_route = known.iter().any(|input| input.of.route == InputRoute::Any);
        Self { next: known.into_iter().map(|input| (input.of, input.next)).collect(), on_any_route }
    }

    fn has(&self, input: &InputPosition) -> bool {
        let has = |of: &InputPartition| self.next.get(of).is_some_and(|next| *next >= input.next);
        has(&input.of) || self.on_any_route && has(&InputPartition { route: InputRoute::Any, ..input.of.clone() })
    }

    fn pass(&mut self, input: &InputPosition) {
        match self.next.get_mut(&input.of) {
            Some(next) => *next = (*next).max(input.next),
            None => drop(self.next.insert(input.of.clone(), input.next)),
        }
    }
}

type Uncommitted = HashMap<Arc<[u8]>, Open>;

/// What a key will have.
struct Open {
    value: Option<Arc<[u8]>>,
    /// Changes of it that are not committed.
    changes: usize,
}

impl UncommittedState {
    /// Over these stores, by these names.
    pub(crate) fn new(stores: Arc<dyn Stores>, names: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            stores,
            names: names.into_iter().map(Arc::from).collect(),
            open: Mutex::default(),
            inputs: Mutex::default(),
        }
    }

    /// What is known of inputs that may come again, where they may.
    pub(crate) fn replays(&self) -> Option<&dyn Replays> {
        self.stores.replays()
    }

    /// Whether this input has come before and has changed the store, or a later one of its partition over its route has.
    pub(crate) fn has(&self, store: &str, partition: i32, input: &InputPosition) -> bool {
        self.with_inputs(store, partition, |inputs| inputs.has(input)).unwrap_or(false)
    }

    /// Does this with how far the inputs of a store have come; nothing where none comes again.
    fn with_inputs<T>(&self, store: &str, partition: i32, act: impl FnOnce(&mut Inputs) -> T) -> Option<T> {
        let (at, replays) = (self.at(store)?, self.replays()?);
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = inputs.entry(partition).or_insert_with(|| self.names.iter().map(|_| None).collect());
        Some(act(stores[at].get_or_insert_with(|| Inputs::of(replays.inputs(store, partition)))))
    }

    /// What a key has.
    pub(crate) fn read(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        let open = self.open();
        let known = self.at(store).and_then(|at| open.get(&partition)?.get(at)?.get(key));
        if let Some(known) = known {
            return Ok(known.value.clone());
        }
        drop(open);
        self.stores.get(store, partition, key)
    }

    /// Gives a key another value, for the records that come; the change is for the unit of work.
    pub(crate) fn write(
        &self,
        (store, partition): (&str, i32),
        key: &[u8],
        value: Option<Vec<u8>>,
        input: Option<InputPosition>,
    ) -> Option<StateChange> {
        let at = self.at(store)?;
        if let Some(input) = &input {
            self.with_inputs(store, partition, |inputs| inputs.pass(input));
        }
        let value: Option<Arc<[u8]>> = value.map(Arc::from);
        let mut open = self.open();
        let stores = open.entry(partition).or_insert_with(|| self.names.iter().map(|_| HashMap::new()).collect());
        let (key, changes) = match stores[at].remove_entry(key) {
            Some((key, open)) => (key, open.changes),
            None => (Arc::from(key), 0),
        };
        stores[at].insert(Arc::clone(&key), Open { value: value.clone(), changes: changes + 1 });
        Some(StateChange { store: Arc::clone(&self.names[at]), partition, key, value, input })
    }

    /// This change is committed: who asks for its key finds it in the store.
    pub(crate) fn committed(&self, change: &StateChange) {
        let Some(at) = self.at(&change.store) else { return };
        let mut open = self.open();
        let Some(store) = open.get_mut(&change.partition).and_then(|stores| stores.get_mut(at)) else { return };
        if let Some(known) = store.get_mut(&change.key) {
            known.changes -= 1;
            if known.changes == 0 {
                store.remove(&change.key);
            }
        }
    }

    /// Forgets what is not committed of a partition's number.
    pub(crate) fn forget(&self, partition: i32) {
        self.open().remove(&partition);
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    fn at(&self, store: &str) -> Option<usize> {
        self.names.iter().position(|name| **name == *store)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<i32, Vec<Uncommitted>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use crate::store::local::tests::*;

/// What a user of the store may do.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, Option<u16>)>),
    Get(u8),
    Scan(u8, usize),
    Flush,
    Forget,
    CatchUp(Vec<(u8, Option<u16>)>),
    Restart,
    Crash,
    Wipe,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = || vec((any::<u8>(), proptest::option::weighted(0.7, 0..400_u16)), 1..20);
    vec(
        prop_oneof![
            8 => changes().prop_map(Step::Apply),
            8 => any::<u8>().prop_map(Step::Get),
            4 => (any::<u8>(), 0..40_usize).prop_map(|(prefix, limit)| Step::Scan(prefix, limit)),
            2 => Just(Step::Flush),
            1 => Just(Step::Forget),
            1 => changes().prop_map(Step::CatchUp),
            1 => Just(Step::Restart),
            1 => Just(Step::Crash),
            1 => Just(Step::Wipe),
        ],
        1..60,
    )
}

type Log = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The store beside what it should be: the changelog, and its fold.
struct World {
    dir: TempDir,
    store: Option<LocalStore>,
    log: Log,
    /// Where the changelog began after the last wipe.
    begin: usize,
}

impl World {
    fn new() -> Self {
        let (dir, store) = opened(&tiny());
        Self { dir, store: Some(store), log: Log::new(), begin: 0 }
    }

    fn store(&self) -> &LocalStore {
        self.store.as_ref().unwrap()
    }

    fn fold(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut fold = BTreeMap::new();
        for (key, value) in &self.log[self.begin..] {
            match value {
                Some(value) => fold.insert(key.clone(), value.clone()),
                None => fold.remove(key),
            };
        }
        fold
    }

    fn append(&mut self, changes: &[(u8, Option<u16>)]) -> Vec<StateChange> {
        let before = self.log.len();
        self.log.extend(changes.iter().map(|(key, length)| {
            // Values of one key differ, and do not all fit into memory.
            (key_of(*key), length.map(|length| [vec![*key; length.into()], before.to_be_bytes().to_vec()].concat()))
        }));
        self.log[before..].iter().map(|(key, value)| change(key, value.as_deref())).collect()
    }

    fn end(&self) -> i64 {
        i64::try_from(self.log.len()).unwrap()
    }

    /// Reads the changelog from the checkpoint on, as the engine does.
    fn catch_up(&self) {
        let mut restore = self.store().restore("s", 0, TOPIC, 1).unwrap();
        let from = restore.checkpoint().unwrap().map_or(self.begin, |found| usize::try_from(found.next).unwrap());
        assert!(from <= self.log.len());
        for (at, (key, value)) in self.log.iter().enumerate().skip(from.max(self.begin)) {
            restore.push(i64::try_from(at).unwrap(), key, value.as_deref()).unwrap();
        }
        restore.finish(self.end(), 1).unwrap();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(changes) => {
                let changes = self.append(changes);
                self.store().apply(&changes, &[end(self.end())], 1).unwrap();
            }
            Step::Get(key) => {
                let key = key_of(*key);
                assert_eq!(
                    self.store().get("s", 0, &key).unwrap().map(|value| value.to_vec()),
                    self.fold().remove(&key)
                );
            }
            Step::Scan(prefix, limit) => self.scan(&key_of(*prefix)[..1], *limit),
            Step::Flush => self.store().flush().unwrap(),
            Step::Forget => {
                self.store().forget(&[0]);
                self.catch_up();
            }
            Step::CatchUp(changes) => {
                self.append(changes);
                self.catch_up();
            }
            Step::Restart => {
                self.store = None;
                self.store = Some(LocalStore::start(self.dir.path(), &tiny()).unwrap());
                assert_eq!(next(self.store()), Some(self.end()));
                self.catch_up();
            }
            Step::Crash => {
                let copy = crashed(self.dir.path());
                self.store = Some(LocalStore::start(copy.path(), &tiny()).unwrap());
                self.dir = copy;
                self.catch_up();
            }
            Step::Wipe => {
                self.begin = self.log.len();
                self.store().wipe("s", 0).unwrap();
                self.catch_up();
            }
        }
        let cache = lock(&self.store().shared().cache);
        let waiting = cache
            .partition(cache.id("s", 0).unwrap())
            .is_some_and(|partition| partition.waiting == partition.table.len());
        assert!(cache.used() <= tiny().entry_bytes() || waiting, "{} bytes", cache.used());
    }

    fn scan(&self, prefix: &[u8], limit: usize) {
        let fold = self.fold().into_iter().filter(|(key, _)| key.starts_with(prefix));
        let expected: Vec<Entry> = fold.take(limit).collect();
        assert_eq!(self.store().scan("s", 0, prefix, limit).unwrap(), expected);
    }
}

/// Two bytes, so that prefixes hold several keys.
fn key_of(key: u8) -> Vec<u8> {
    vec![key & 3, key]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Red when a clean entry survives a change under it, eviction takes a dirty one, a flush settles what changed meanwhile,
    /// or a checkpoint runs ahead.
    #[test]
    fn the_store_is_the_fold_of_its_changelog(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.scan(&[], usize::MAX);
    }
}

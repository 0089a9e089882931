//! Crash points: kill -9 exactly where a result and the note of it come apart.
//!
//! No test code is in the product: between the process and Postgres a proxy holds the statement at which to strike, and at
//! the broker a look at the topics says that a record is there whose offset is not committed. What must hold is asked right
//! after the kill, where the database alone can tell, and again once everything has gone through.

mod dead_letters;
mod processor;
mod sink;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use headwater_tests::{ForeignClient, HeldRequest, Process, Proxy, Side, Space};

use crate::PROGRAM;

const SOON: Duration = Duration::from_mins(1);
/// With what a sink's transaction begins.
const OFFSETS: &str = "update headwater.consumer_offsets o";

/// Everything that is expected is there once, and nothing else.
fn once<K: Ord + Debug>(
    expected: impl IntoIterator<Item = K>,
    seen: impl IntoIterator<Item = K>,
) -> Result<(), String> {
    match repeated(expected, seen.into_iter().map(|key| (key, ())))? {
        0 => Ok(()),
        twice => Err(format!("{twice} are there more than once")),
    }
}

/// Everything that is expected is there, and nothing else; what is there again is the same. Gives how many are there again.
fn repeated<K: Ord + Debug, V: PartialEq + Debug>(
    expected: impl IntoIterator<Item = K>,
    seen: impl IntoIterator<Item = (K, V)>,
) -> Result<usize, String> {
    let (expected, mut first, mut again) = (expected.into_iter().collect::<BTreeSet<_>>(), BTreeMap::new(), 0);
    for (key, value) in seen {
        if !expected.contains(&key) {
            return Err(format!("{key:?} is there, and nobody asked for it"));
        }
        match first.get(&key) {
            Some(before) if *before != value => {
                return Err(format!("{key:?} is there twice and differs: {before:?}, then {value:?}"));
            }
            Some(_) => again += 1,
            None => drop(first.insert(key, value)),
        }
    }
    let missing: Vec<_> = expected.iter().filter(|key| !first.contains_key(*key)).collect();
    if missing.is_empty() { Ok(again) } else { Err(format!("{} are missing: {missing:?}", missing.len())) }
}

/// The checker itself: it must fail on a list that lacks something, has something twice, has something else,
/// or has something twice in two shapes. Red when any of those passes.
#[test]
fn the_checker_fails_on_each_mutant() {
    assert_eq!(once([1, 2, 3], [3, 1, 2]), Ok(()));
    for mutant in [&[1, 2][..], &[1, 2, 2, 3], &[1, 2, 3, 4], &[]] {
        assert!(once([1, 2, 3], mutant.iter().copied()).is_err(), "{mutant:?}");
    }
    assert_eq!(repeated([1, 2], [(1, 'a'), (2, 'b'), (1, 'a')]), Ok(1));
    for mutant in [&[(1, 'a'), (1, 'a')][..], &[(1, 'a'), (2, 'b'), (1, 'b')], &[(1, 'a'), (2, 'b'), (3, 'c')]] {
        assert!(repeated([1, 2], mutant.iter().copied()).is_err(), "{mutant:?}");
    }
}

/// Runs `topology apply` in a space.
async fn apply(space: &Space) {
    let (code, out, err) = Process::run(PROGRAM, space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{out}{err}");
}

/// Whether a group has committed everything that is on a topic.
fn is_through(foreign: &ForeignClient, group: &str, topic: &str) -> bool {
    foreign.passed(group, topic) == foreign.ends(topic)
}

/// The next request that the proxy holds.
pub(crate) async fn held(proxy: &mut Proxy, process: &Process) -> HeldRequest {
    match proxy.next(SOON).await {
        Some(held) => held,
        None => panic!("no such request was made; the log is {}", process.log_path().display()),
    }
}

/// Kills the process at this place of a sink's transaction: the third that it begins from now on.
async fn strike(proxy: &mut Proxy, process: &mut Process, side: Side, text: &str) {
    proxy.watch(Side::Before, &[OFFSETS]);
    for _ in 0..2 {
        held(proxy, process).await.pass();
    }
    let mut last = held(proxy, process).await;
    if (side, text) != (Side::Before, OFFSETS) {
        proxy.watch(side, &[text]);
        last.pass();
        last = held(proxy, process).await;
    }
    kill(proxy, process, last).await;
}

/// Kills the process; only then the connection of what is held is cut.
pub(crate) async fn kill(proxy: &mut Proxy, process: &mut Process, held: HeldRequest) {
    process.kill().await;
    drop(held);
    proxy.unwatch();
}

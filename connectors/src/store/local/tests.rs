mod crash;
mod faults;
mod memory;
mod model;
mod restore;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use headwater::{
    TopicPartition,
    spi::{InputPartition, InputPosition, InputRoute},
};
use tempfile::TempDir;

use crate::store::local::*;

/// The changelog topic of these tests.
const TOPIC: &str = "topic-1";

/// A cache so small that most entries do not fit, and no flush but those that are asked for.
fn tiny() -> StateConfig {
    StateConfig { cache_bytes: 4 << 10, flush_interval: Duration::from_secs(3600), restore_bytes: 64 << 10 }
}

fn small() -> StateConfig {
    StateConfig { cache_bytes: 1 << 20, ..tiny() }
}

/// An empty store whose partition 0 of `s` is open.
fn opened(config: &StateConfig) -> (TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::start(dir.path(), config).unwrap();
    open_part(&store, 0, 0);
    (dir, store)
}

fn open_part(store: &LocalStore, partition: i32, next: i64) {
    store.restore("s", partition, TOPIC, 1).unwrap().finish(next, 1).unwrap();
}

fn change(key: &[u8], value: Option<&[u8]>) -> StateChange {
    StateChange { store: "s".into(), partition: 0, key: key.into(), value: value.map(Into::into), input: None }
}

fn input(next: i64) -> InputPosition {
    let of =
        InputPartition { partition: TopicPartition::new("in", 0), topic_id: "id".into(), route: InputRoute::Direct };
    InputPosition { of, next }
}

fn set(key: &str, value: &str) -> StateChange {
    change(key.as_bytes(), Some(value.as_bytes()))
}

fn end(next: i64) -> End {
    End { store: "s".into(), partition: 0, next, inputs: None }
}

fn get(store: &LocalStore, key: &str) -> Option<String> {
    store.get("s", 0, key.as_bytes()).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn next(store: &LocalStore) -> Option<i64> {
    store.checkpoint("s", 0).unwrap().map(|checkpoint| checkpoint.next)
}

/// What a crash of the process leaves: the files as they are at one moment, between two moves of fjall's thread.
fn crashed(dir: &Path) -> TempDir {
    loop {
        let (copy, before) = (tempfile::tempdir().unwrap(), files(dir));
        if copy_folder(dir, copy.path()).is_ok() && before.is_ok() && before.ok() == files(dir).ok() {
            return copy;
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &to)?;
        } else {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Every file below `dir`, and its length.
fn files(dir: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            let length = fs::metadata(&path)?.len();
            found.push((path, length));
        }
    }
    found.sort();
    Ok(found)
}

/// Red when dropping the last clone does not flush, or `open` does not find what is there.
#[test]
fn what_was_applied_is_there_after_a_clean_restart() {
    let (dir, store) = opened(&small());
    store.apply(&[set("a", "1"), set("b", "2"), set("a", "3")], &[end(7)], 50).unwrap();
    let clone = store.clone();
    drop(store);
    assert_eq!(get(&clone, "a").as_deref(), Some("3"));
    drop(clone);
    let store = LocalStore::start(dir.path(), &small()).unwrap();
    let found = store.checkpoint("s", 0).unwrap().unwrap();
    assert_eq!(found, Checkpoint { next: 7, at_ms: 50, topic_id: TOPIC.to_owned(), inputs: SourceOffsets::default() });
    assert!(store.get("s", 0, b"a").unwrap_err().0.contains("restore it first"));
    open_part(&store, 0, 7);
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("3"), Some("2")));
}

/// Red when `apply` writes the checkpoint to disk ahead of the entries, or `flush` writes the one without the other.
#[test]
fn a_crash_loses_only_what_the_checkpoint_does_not_cover() {
    let (dir, store) = opened(&small());
    store.apply(&[set("a", "1"), set("b", "1")], &[end(2)], 1).unwrap();
    store.flush().unwrap();
    store.apply(&[set("a", "2"), change(b"b", None), set("c", "2")], &[end(5)], 2).unwrap();
    assert_eq!(next(&store), Some(5));
    let copy = crashed(dir.path());
    let after = LocalStore::start(copy.path(), &small()).unwrap();
    assert_eq!(next(&after), Some(2));
    let mut tail = after.restore("s", 0, TOPIC, 3).unwrap();
    tail.push(2, b"a", Some(b"2")).unwrap();
    tail.push(3, b"b", None).unwrap();
    tail.push(4, b"c", Some(b"2")).unwrap();
    tail.finish(5, 3).unwrap();
    for key in ["a", "b", "c"] {
        assert_eq!(get(&after, key), get(&store, key), "{key}");
    }
}

/// Red when the thread does not run, or not at its interval.
#[test]
fn the_thread_flushes_by_itself() {
    let (dir, store) = opened(&StateConfig { flush_interval: Duration::from_millis(20), ..small() });
    store.apply(&[set("a", "1")], &[end(1)], 1).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while store.stats()[0].dirty > 0 {
        assert!(std::time::Instant::now() < until, "nothing was flushed");
        std::thread::yield_now();
    }
    store.flush().unwrap();
    let copy = crashed(dir.path());
    assert_eq!(next(&LocalStore::start(copy.path(), &small()).unwrap()), Some(1));
}

/// Red when `forget` drops what is dirty unwritten, keeps a partition open, or closes others.
#[test]
fn forgotten_partitions_are_written_and_closed() {
    let (dir, store) = opened(&small());
    open_part(&store, 1, 0);
    store.apply(&[set("a", "1")], &[end(1)], 1).unwrap();
    store.forget(&[0, 9]);
    assert!(store.get("s", 0, b"a").is_err());
    assert_eq!(store.get("s", 1, b"a").unwrap(), None);
    // What comes late for it is left to the changelog.
    store.apply(&[set("a", "2")], &[end(2)], 1).unwrap();
    assert_eq!(next(&store), Some(1));
    open_part(&store, 0, 1);
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    drop((store, dir));
}

/// Red when `wipe` leaves entries in memory or on disk, the checkpoint, or another partition's things undone.
#[test]
fn a_wiped_partition_is_empty() {
    let (dir, store) = opened(&small());
    open_part(&store, 1, 4);
    store.apply(&[set("a", "1")], &[end(1)], 1).unwrap();
    store.flush().unwrap();
    store.apply(&[set("b", "1")], &[end(2)], 1).unwrap();
    store.wipe("s", 0).unwrap();
    assert_eq!(next(&store), None);
    assert_eq!(store.checkpoint("s", 1).unwrap().map(|found| found.next), Some(4));
    open_part(&store, 0, 0);
    assert_eq!((get(&store, "a"), get(&store, "b")), (None, None));
    store.wipe("s", 0).unwrap();
    drop(store);
    let store = LocalStore::start(dir.path(), &small()).unwrap();
    assert_eq!(next(&store), None);
}

/// Red when the merge of memory and disk forgets a tombstone, prefers the disk, miscounts the limit, or leaves the prefix.
#[test]
fn a_scan_merges_memory_and_disk() {
    let (_dir, store) = opened(&small());
    store.apply(&[set("a1", "d"), set("a2", "d"), set("a4", "d"), set("b1", "d")], &[end(4)], 1).unwrap();
    store.flush().unwrap();
    store.apply(&[set("a0", "m"), change(b"a1", None), set("a2", "m"), set("a5", "m"), set("", "m")], &[], 1).unwrap();
    let scan = |prefix: &str, limit| {
        let found = store.scan("s", 0, prefix.as_bytes(), limit).unwrap();
        found.into_iter().map(|(k, v)| String::from_utf8([k, v].concat()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(scan("a", 10), ["a0m", "a2m", "a4d", "a5m"]);
    assert_eq!(scan("a", 2), ["a0m", "a2m"]);
    assert_eq!(scan("", 9), ["m", "a0m", "a2m", "a4d", "a5m", "b1d"]);
    assert_eq!(scan("c", 9), [""; 0]);
    store.flush().unwrap();
    assert_eq!(scan("a", 3), ["a0m", "a2m", "a4d"]);
}

/// Red when a name or a key that fjall panics on gets through.
#[test]
fn what_cannot_be_stored_is_refused_with_the_limit() {
    let (_dir, store) = opened(&small());
    let key = vec![b'k'; 70_000];
    let error = store.apply(&[set("a", "1"), change(&key, None)], &[end(1)], 1).unwrap_err().to_string();
    assert!(error.contains("70000") && error.contains("65534"), "{error}");
    assert_eq!((get(&store, "a"), next(&store)), (None, Some(0)));
    assert_eq!(store.get("s", 0, &key).unwrap(), None);
    assert_eq!(store.scan("s", 0, &key, 1).unwrap(), []);
    assert!(store.checkpoint(&"n".repeat(300), 0).unwrap_err().to_string().contains("200"));
    let name = "a-z_0.9";
    store.restore(name, 3, TOPIC, 1).unwrap().finish(1, 1).unwrap();
    assert_eq!(store.get(name, 3, b"x").unwrap(), None);
}

/// Red when how far the inputs have come is not written with the entries, is lost where a tail without it is read, or when
/// a change without it takes it back.
#[test]
fn how_far_the_inputs_have_come_is_kept_with_what_they_changed() {
    let (dir, store) = opened(&small());
    let mut inputs = SourceOffsets::default();
    inputs.pass(&input(7));
    store.apply(&[set("a", "1")], &[End { inputs: Some(inputs.clone()), ..end(2) }], 1).unwrap();
    store.flush().unwrap();
    store.apply(&[set("a", "2")], &[end(3)], 1).unwrap();
    assert_eq!(store.inputs("s", 0), inputs);
    let copy = crashed(dir.path());
    let after = LocalStore::start(copy.path(), &small()).unwrap();
    let mut tail = after.restore("s", 0, TOPIC, 3).unwrap();
    tail.push(2, b"a", Some(b"2")).unwrap();
    tail.finish(3, 3).unwrap();
    assert_eq!(after.inputs("s", 0), inputs);
    inputs.pass(&input(9));
    let mut tail = after.restore("s", 0, TOPIC, 3).unwrap();
    tail.pass(inputs.clone());
    tail.finish(3, 3).unwrap();
    assert_eq!(after.inputs("s", 0), inputs);
    assert_eq!(after.all_inputs(), [("s".into(), 0, inputs)]);
    after.note_inputs("s", 0, SourceOffsets::default());
    after.flush().unwrap();
    let copy = crashed(copy.path());
    let after = LocalStore::start(copy.path(), &small()).unwrap();
    assert_eq!(after.checkpoint("s", 0).unwrap().map(|checkpoint| checkpoint.inputs), Some(SourceOffsets::default()));
}

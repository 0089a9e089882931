use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    process::{Child, Command},
};

use crate::store::local::tests::*;

/// Where the child works; set in the child only.
const FOLDER: &str = "HEADWATER_TEST_STATE_FOLDER";
/// Changes in one call.
const UNIT: i64 = 50;

fn entry(offset: i64) -> StateChange {
    let key = format!("key-{}", offset * 7919 % 4001);
    let value = (offset % 7 != 0).then(|| offset.to_string().into_bytes());
    change(key.as_bytes(), value.as_deref())
}

/// The other process of the test below: applies changes until it is killed, and says ahead of each call how far it goes.
#[test]
fn applies_changes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let progress = fs::File::options().write(true).open(Path::new(&folder).join("progress")).unwrap();
    let config = StateConfig { cache_bytes: 256 << 10, flush_interval: Duration::from_millis(1), ..tiny() };
    let store = LocalStore::start(&Path::new(&folder).join("state"), &config).unwrap();
    let mut at = catch_up(&store, read_progress(Path::new(&folder)));
    loop {
        let changes: Vec<StateChange> = (at..at + UNIT).map(entry).collect();
        at += UNIT;
        progress.write_all_at(&at.to_be_bytes(), 0).unwrap();
        store.apply(&changes, &[end(at)], 1).unwrap();
    }
}

fn read_progress(folder: &Path) -> i64 {
    fs::read(folder.join("progress")).unwrap().try_into().map_or(0, i64::from_be_bytes)
}

/// Reads the changelog from the checkpoint up to `to`.
fn catch_up(store: &LocalStore, to: i64) -> i64 {
    let mut restore = store.restore("s", 0, TOPIC, 1).unwrap();
    let from = restore.checkpoint().unwrap().map_or(0, |found| found.next);
    assert!(from <= to, "{from} {to}");
    for offset in from..to {
        let change = entry(offset);
        restore.push(offset, &change.key, change.value.as_deref()).unwrap();
    }
    restore.finish(to, 1).unwrap();
    to
}

fn spawn(folder: &Path) -> Child {
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::applies_changes_until_it_is_killed");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&*test, "--exact"]).env(FOLDER, folder).stdout(std::process::Stdio::null());
    command.spawn().unwrap()
}

/// Red when a checkpoint reaches the disk ahead of its entries, or what a kill leaves cannot be opened.
#[test]
fn a_killed_process_leaves_what_the_tail_completes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("progress"), 0_i64.to_be_bytes()).unwrap();
    for _ in 0..6 {
        let (begun, mut child) = (read_progress(folder.path()), spawn(folder.path()));
        while read_progress(folder.path()) < begun + 20_000 {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::sleep(Duration::from_millis(3));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = LocalStore::start(&folder.path().join("state"), &small()).unwrap();
        let to = catch_up(&store, read_progress(folder.path()));
        let mut fold = BTreeMap::new();
        for change in (0..to).map(entry) {
            match change.value {
                Some(value) => fold.insert(change.key.to_vec(), value.to_vec()),
                None => fold.remove(&*change.key),
            };
        }
        assert!(store.scan("s", 0, b"", usize::MAX).unwrap().into_iter().eq(fold));
    }
}

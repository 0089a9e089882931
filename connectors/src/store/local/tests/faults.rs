use std::process::Command;

use crate::store::local::tests::*;

fn refused(dir: &Path) -> LocalError {
    LocalStore::start(dir, &small()).err().unwrap()
}

/// Red when the lock is not taken, or its error does not say which folder.
#[test]
fn a_folder_in_use_is_refused() {
    let (dir, store) = opened(&small());
    let error = refused(dir.path());
    assert!(matches!(error, LocalError::Locked(_)), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    drop(store);
    LocalStore::start(dir.path(), &small()).unwrap();
}

/// Red when the stamp is not read, or written over.
#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (dir, store) = opened(&small());
    drop(store);
    let stamp = |format| {
        let db = fjall::Database::builder(dir.path()).open().unwrap();
        disk::stamp_format(&db, format).unwrap();
    };
    stamp(disk::FORMAT + 1);
    for _ in 0..2 {
        let error = refused(dir.path()).to_string();
        assert!(error.contains("written by a newer version") && error.contains("format 2"), "{error}");
    }
    stamp(disk::FORMAT);
    let store = LocalStore::start(dir.path(), &small()).unwrap();
    assert_eq!(next(&store), Some(0));
}

/// Red when a crash while the folder was made leaves one that cannot be opened, or a missing file passes for such a crash.
#[test]
fn a_folder_that_was_never_finished_is_made_anew() {
    for left in [&["0.jnl"][..], &["0.jnl", "version"]] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keyspaces")).unwrap();
        left.iter().for_each(|name| fs::write(dir.path().join(name), b"").unwrap());
        let store = LocalStore::start(dir.path(), &small()).unwrap();
        open_part(&store, 0, 7);
        drop(store);
        fs::remove_file(dir.path().join("version")).unwrap();
        assert!(matches!(refused(dir.path()), LocalError::Corrupt { .. }));
        assert!(dir.path().join("0.jnl").exists());
    }
}

/// Red when damage shows as a panic, as a disk error, or as state that is silently not there, or nobody learns of damage that
/// shows only when the entries are read.
#[test]
fn damaged_files_are_named_and_nothing_is_deleted() {
    let (dir, store) = opened(&small());
    let mut restore = store.restore("t", 0, TOPIC, 1).unwrap();
    for offset in 0..30_000_i64 {
        restore.push(offset, format!("key-{offset}").as_bytes(), Some(&[7; 50])).unwrap();
    }
    restore.finish(30_000, 1).unwrap();
    drop((restore, store));
    let (mut refusals, mut later) = (0, 0);
    let all = files(dir.path()).unwrap();
    let tables = all.iter().filter(|(path, _)| path.parent().is_some_and(|parent| parent.ends_with("tables")));
    let largest = tables.max_by_key(|(_, bytes)| *bytes).map(|(path, _)| path.clone()).unwrap();
    // It holds the entries: where only their middle is damaged, nothing shows before they are read.
    for (victim, whole) in all.into_iter().map(|(path, _)| (path, true)).chain([(largest, false)]) {
        let copy = crashed(dir.path());
        let path = copy.path().join(victim.strip_prefix(dir.path()).unwrap());
        let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[if whole { 0..length } else { length / 3..length / 2 }].fill(0xA5);
        fs::write(&path, bytes).unwrap();
        let mut damage = None;
        let read = LocalStore::start(copy.path(), &small()).and_then(|store| {
            damage = Some(store.damage());
            let found = store.checkpoint("t", 0)?;
            let complete = found.as_ref().is_none_or(|found| found.next == 30_000);
            assert!(complete, "{} {found:?}", path.display());
            store.restore("t", 0, TOPIC, 1)?.finish(30_000, 1)?;
            store.list("t", 0, b"", ReadLimit { entries: usize::MAX, bytes: usize::MAX })
        });
        match read {
            Err(error) => {
                refusals += 1;
                assert!(error.to_string().contains("damaged"), "{}: {error}", path.display());
                assert!(error.to_string().contains("delete the folder"), "{error}");
                assert!(path.exists(), "{}", path.display());
                // Where the folder could be opened, whoever opened it learns of it.
                later += usize::from(damage.as_ref().is_some_and(|damage| damage.found() == Some(&error)));
                assert!(damage.is_none_or(|damage| damage.found().is_some()), "{}", path.display());
            }
            Ok(entries) => assert!(entries.len() == 30_000 || length == 0, "{}: {}", path.display(), entries.len()),
        }
    }
    assert!(refusals > 3 && later > 0, "{refusals} {later}");
}

/// Red when what was put aside before is in the way, the folder is deleted, or a new one does not begin empty.
#[test]
fn a_damaged_folder_is_put_aside_and_a_new_one_takes_its_place() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, aside) = (parent.path().join("shop.g"), parent.path().join(".damaged-shop.g"));
    for damage in [b"one", b"two"] {
        let store = LocalStore::start(&dir, &small()).unwrap();
        assert_eq!(store.checkpoint("s", 0).unwrap(), None);
        open_part(&store, 0, 7);
        drop(store);
        fs::write(dir.join("version"), damage).unwrap();
        assert!(matches!(refused(&dir), LocalError::Corrupt { .. }));
        assert_eq!(LocalStore::set_aside(&dir).unwrap(), aside);
        assert_eq!((fs::read(aside.join("version")).unwrap(), dir.exists()), (damage.to_vec(), false));
    }
}

/// A file system of 24 MiB, if this process may mount one.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "headwater-test"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Red when a full disk loses or doubles a change, blocks `apply` while there is memory, hides what is there, or when fjall's
/// refusal of every later write is not undone.
#[test]
fn a_full_disk_stops_nothing_until_memory_is_full_and_goes_on_by_itself() {
    let Some(tmpfs) = Tmpfs::mount() else {
        eprintln!("SKIPPED: a full disk: this process may not mount a tmpfs");
        return;
    };
    let store = LocalStore::start(tmpfs.0.path(), &small()).unwrap();
    open_part(&store, 0, 0);
    store.apply(&[set("first", "1")], &[end(1)], 1).unwrap();
    store.flush().unwrap();
    let filler = tmpfs.0.path().join("filler");
    // More than there is.
    fs::write(&filler, vec![0; 32 << 20]).unwrap_err();
    let (mut taken, value) = (0, "v".repeat(1_000));
    let error = loop {
        let key = format!("key-{taken:05}");
        match store.apply(&[set(&key, &value), set("last", &key)], &[end(taken + 2)], 2) {
            Ok(()) => taken += 1,
            Err(error) => break error.to_string(),
        }
        assert!(taken < 10_000);
    };
    assert!(taken > 300, "{taken}");
    for part in ["cannot write state under", "no space left on device: free space", "goes on by itself"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(lock(&store.shared().cache).used() <= small().entry_bytes() + 4096);
    let all_there = |count: i64| {
        assert_eq!(get(&store, "first").as_deref(), Some("1"));
        assert_eq!(get(&store, "last"), Some(format!("key-{:05}", count - 1)));
        (0..count).for_each(|key| assert_eq!(get(&store, &format!("key-{key:05}")).as_ref(), Some(&value)));
        assert_eq!((get(&store, &format!("key-{count:05}")), next(&store)), (None, Some(count + 1)));
    };
    all_there(taken);
    fs::remove_file(filler).unwrap();
    store
        .apply(
            &[set(&format!("key-{taken:05}"), &value), set("last", &format!("key-{taken:05}"))],
            &[end(taken + 2)],
            3,
        )
        .unwrap();
    all_there(taken + 1);
    store.flush().unwrap();
    assert_eq!(store.failure(), None);
    drop(store);
    let store = LocalStore::start(tmpfs.0.path(), &small()).unwrap();
    assert_eq!(next(&store), Some(taken + 2));
}

/// Red when fjall's own thread, which fails as it moves what was written into files, takes entries with it or stops the store
/// for good.
#[test]
fn a_disk_that_fills_up_by_itself_goes_on_once_it_has_room() {
    let Some(tmpfs) = Tmpfs::mount() else {
        eprintln!("SKIPPED: a disk that fills up: this process may not mount a tmpfs");
        return;
    };
    let store = LocalStore::start(tmpfs.0.path(), &small()).unwrap();
    open_part(&store, 0, 0);
    let filler = tmpfs.0.path().join("filler");
    fs::write(&filler, vec![0; 12 << 20]).unwrap();
    let (mut taken, value) = (0_i64, "v".repeat(1_000));
    let put = |count: i64| store.apply(&[set(&format!("key-{count:05}"), &value)], &[end(count + 1)], 2);
    while put(taken).is_ok() {
        taken += 1;
        assert!(taken < 30_000);
    }
    assert!(taken > 2_000, "{taken}");
    fs::remove_file(filler).unwrap();
    for _ in 0..1_000 {
        put(taken).unwrap();
        taken += 1;
    }
    store.flush().unwrap();
    drop(store);
    let store = LocalStore::start(tmpfs.0.path(), &small()).unwrap();
    assert_eq!(next(&store), Some(taken));
    open_part(&store, 0, taken);
    assert_eq!(i64::try_from(store.scan("s", 0, b"key", usize::MAX).unwrap().len()), Ok(taken));
}

use std::collections::BTreeMap;

use crate::store::local::tests::*;

/// Offset, key and value of a made-up changelog: keys come again, every fifth entry is a tombstone.
fn entry(offset: i64) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = format!("key-{:05}", offset * 7919 % 4001).into_bytes();
    (key, (offset % 5 != 0).then(|| format!("{offset:0>60}").into_bytes()))
}

fn push(restore: &mut Restore, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        let (key, value) = entry(offset);
        restore.push(offset, &key, value.as_deref()).unwrap();
    }
}

fn fold(end: i64) -> Vec<Entry> {
    let mut fold = BTreeMap::new();
    for offset in 0..end {
        let (key, value) = entry(offset);
        match value {
            Some(value) => fold.insert(key, value),
            None => fold.remove(&key),
        };
    }
    fold.into_iter().collect()
}

/// Red when a chunk keeps the first of a key, drops a tombstone, or is lost at a chunk's end.
#[test]
fn chunks_and_tombstones_make_the_fold() {
    let (_dir, store) = opened(&small());
    let mut restore = store.restore("t", 0, TOPIC, 1).unwrap();
    push(&mut restore, 0..20_000);
    assert!(store.get("t", 0, b"key-00001").is_err());
    restore.finish(20_000, 2).unwrap();
    assert_eq!(store.scan("t", 0, b"", usize::MAX).unwrap(), fold(20_000));
}

/// Red when a chunk's checkpoint is missing, or says more than the chunks before it hold.
#[test]
fn a_crash_in_the_middle_goes_on_from_the_last_chunk() {
    let (dir, store) = opened(&small());
    let mut restore = store.restore("t", 0, TOPIC, 1).unwrap();
    push(&mut restore, 0..15_000);
    let copy = crashed(dir.path());
    let after = LocalStore::start(copy.path(), &small()).unwrap();
    let mut restore = after.restore("t", 0, TOPIC, 2).unwrap();
    let found = restore.checkpoint().unwrap().unwrap();
    assert!(found.next > 5_000 && found.next < 15_000 && found.at_ms == 1, "{found:?}");
    push(&mut restore, found.next..16_000);
    restore.finish(16_000, 3).unwrap();
    assert_eq!(after.scan("t", 0, b"", usize::MAX).unwrap(), fold(16_000));
    assert_eq!(after.checkpoint("t", 0).unwrap().unwrap().at_ms, 3);
}

/// Red when a restore of an open partition leaves what was read before in memory, loses what waits, or lets what waits win.
#[test]
fn an_open_partition_catches_up() {
    for count in [3, 30_000] {
        let (_dir, store) = opened(&small());
        store.apply(&[set("a", "1"), set("b", "1")], &[end(2)], 1).unwrap();
        assert_eq!(get(&store, "z"), None);
        store.flush().unwrap();
        store.apply(&[set("b", "2"), set("c", "2")], &[end(4)], 1).unwrap();
        let mut restore = store.restore("s", 0, TOPIC, 2).unwrap();
        assert_eq!(restore.checkpoint().unwrap().unwrap().next, 4);
        for offset in 4..4 + count {
            restore.push(offset, b"b", Some(b"3")).unwrap();
        }
        restore.push(4 + count, b"a", None).unwrap();
        restore.push(5 + count, b"z", Some(b"3")).unwrap();
        restore.finish(6 + count, 2).unwrap();
        let found: Vec<_> = ["a", "b", "c", "z"].iter().map(|key| get(&store, key)).collect();
        assert_eq!(found, [None, Some("3".to_owned()), Some("2".to_owned()), Some("3".to_owned())]);
        assert_eq!(next(&store), Some(6 + count));
    }
}

/// Red when restores do not share their memory.
#[test]
fn restores_share_their_memory() {
    let (_dir, store) = opened(&small());
    let mut restores: Vec<_> = (0..8).map(|part| store.restore("t", part, TOPIC, 1).unwrap()).collect();
    for restore in &mut restores {
        push(restore, 0..1_000);
        assert!(restore.memory() <= (64 << 10) / 8 + 200, "{}", restore.memory());
    }
}

/// Red when keys that differ late, early, in length only or not at all come in a wrong order: fjall would panic.
#[test]
fn keys_of_every_shape_are_sorted() {
    let (_dir, store) = opened(&small());
    let shapes: [&[&[u8]]; 4] = [
        &[b"", b"a", b"a\0", b"a\0\0", b"b", b"\0"],
        &[b"customer-0001-b", b"customer-0001-a", b"customer-0001", b"customer-0001-a\0"],
        &[b"12345678x", b"12345678", b"12345678\0", b"123456789", b"12345678x"],
        &[b"same", b"same", b"same"],
    ];
    for (shape, partition) in shapes.iter().zip(0..) {
        let mut restore = store.restore("t", partition, TOPIC, 1).unwrap();
        // Enough to be written as files.
        for round in 0..3_000 {
            for (key, at) in shape.iter().zip(round * 10..) {
                restore.push(at, key, Some(at.to_string().as_bytes())).unwrap();
            }
        }
        restore.finish(30_000, 1).unwrap();
        let last: BTreeMap<Vec<u8>, Vec<u8>> =
            shape.iter().zip(29_990..).map(|(key, at)| (key.to_vec(), at.to_string().into_bytes())).collect();
        assert!(store.scan("t", partition, b"", 99).unwrap().into_iter().eq(last), "{partition}");
    }
}

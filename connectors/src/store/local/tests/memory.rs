use crate::store::local::tests::*;

/// Red when `apply` does not flush at half of the memory, or eviction misses entries.
#[test]
fn ten_times_the_memory_passes_through_it() {
    let config = StateConfig { cache_bytes: 1 << 20, ..tiny() };
    let (_dir, store) = opened(&config);
    let value = "v".repeat(100);
    let mut most = 0;
    for round in 0..1_000_i64 {
        let changes: Vec<StateChange> = (0..100).map(|key| set(&format!("key-{round}-{key}"), &value)).collect();
        store.apply(&changes, &[end(round)], 1).unwrap();
        assert!(get(&store, &format!("key-{}-7", round / 2)).is_some());
        let cache = lock(&store.shared().cache);
        most = most.max(cache.used());
        assert!(cache.pinned_bytes() <= config.entry_bytes() / 2 + 64 * 1024);
    }
    assert!(most <= config.entry_bytes() && most > config.entry_bytes() / 2, "{most}");
    let cached = store.stats()[0].cached;
    assert!(cached > 500 && cached < 10_000, "{cached}");
}

/// Red when counts drift: after all is forgotten nothing may be left.
#[test]
fn memory_is_counted_to_the_byte() {
    let (_dir, store) = opened(&small());
    for round in 0..50_usize {
        let changes: Vec<StateChange> =
            (0..100).map(|key| set(&format!("{}", (key * 13 + round) % 170), &"x".repeat(key + round))).collect();
        store.apply(&changes, &[end(1)], 1).unwrap();
        if round % 7 == 0 {
            store.flush().unwrap();
        }
        get(&store, &format!("absent {round}"));
    }
    store.scan("s", 0, b"1", 5).unwrap();
    store.flush().unwrap();
    assert_eq!(lock(&store.shared().cache).pinned_bytes(), 0);
    let stats = &store.stats()[0];
    assert_eq!((stats.dirty, stats.cached), (0, 170 + 50));
    store.forget(&[0]);
    let cache = lock(&store.shared().cache);
    assert_eq!((cache.used(), cache.pinned_bytes()), (0, 0));
}

/// Red when the hand does not spare what is asked for again and again.
#[test]
fn what_is_read_often_stays_in_memory() {
    let (_dir, store) = opened(&small());
    store.apply(&[set("hot", "1")], &[end(1)], 1).unwrap();
    store.flush().unwrap();
    for cold in 0..50_000 {
        get(&store, &format!("cold {cold}"));
        if cold % 100 == 0 {
            let mut cache = lock(&store.shared().cache);
            let id = cache.id("s", 0).unwrap();
            assert!(cache.lookup(id, b"hot").is_some(), "after {cold}");
        }
    }
}

/// Red when a read that was under way fills the cache with what has changed meanwhile.
#[test]
fn a_stale_answer_is_not_remembered() {
    let (_dir, store) = opened(&small());
    let mut cache = lock(&store.shared().cache);
    let id = cache.id("s", 0).unwrap();
    let clock = cache.partition(id).unwrap().clock;
    drop(cache);
    store.apply(&[set("a", "new")], &[end(1)], 1).unwrap();
    store.flush().unwrap();
    cache = lock(&store.shared().cache);
    cache.fill(id, clock, b"b", Some(&b"old"[..].into()));
    assert!(cache.lookup(id, b"b").is_none());
}

/// Red when the end of a write settles what has changed meanwhile, or a failed one forgets what it was to write.
#[test]
fn what_changes_while_it_is_written_still_waits() {
    for fails in [false, true] {
        let (_dir, store) = opened(&small());
        store.apply(&[set("a", "1"), set("b", "1"), set("c", "1")], &[end(3)], 1).unwrap();
        let mut cache = lock(&store.shared().cache);
        let id = cache.id("s", 0).unwrap();
        let (slots, checkpoint) = cache.partition_mut(id).unwrap().take_dirty().unwrap();
        assert_eq!((slots.len(), checkpoint.next), (3, 3));
        let begun = cache.begin(&slots, 2, 1 << 20);
        assert_eq!(begun.len(), 2);
        let first = begun[0].0.clone();
        cache.put(id, &first, Some(&b"2"[..].into()));
        if fails {
            cache.unwritten(id, &slots, 2);
        } else {
            cache.written(id, &slots[..2]);
            cache.unwritten(id, &slots[2..], 0);
        }
        let partition = cache.partition(id).unwrap();
        let mut waiting = partition.dirty.clone();
        waiting.sort_unstable();
        waiting.dedup();
        let expected = if fails { 3 } else { 2 };
        assert_eq!((partition.dirty.len(), waiting.len(), partition.waiting), (expected, expected, expected));
        drop(cache);
        store.flush().unwrap();
        store.forget(&[0]);
        open_part(&store, 0, 3);
        assert_eq!(*store.get("s", 0, &first).unwrap().unwrap(), *b"2");
    }
}

/// Red when a scan goes on past its bytes, on the disk, in memory or where the two meet, or ends before them.
#[test]
fn a_scan_within_bytes_reads_no_further() {
    let (_dir, store) = opened(&small());
    let value = "x".repeat(1_000);
    let some =
        |which: i64| (0..40).filter(|n| n % 2 == which).map(|n| set(&format!("k{n:02}"), &value)).collect::<Vec<_>>();
    let within = |bytes| store.scan_within("s", 0, b"k", 100, bytes).unwrap();
    let count = |bytes| within(bytes).len();
    store.apply(&some(0), &[end(1)], 1).unwrap();
    assert_eq!((count(1_003), count(1_004), count(10_000), count(usize::MAX)), (1, 2, 10, 20), "in memory");
    store.flush().unwrap();
    store.forget(&[0]);
    open_part(&store, 0, 1);
    assert_eq!((count(1_003), count(1_004), count(10_000), count(usize::MAX)), (1, 2, 10, 20), "on the disk");
    store.apply(&some(1), &[end(2)], 1).unwrap();
    assert_eq!((count(10_000), count(usize::MAX)), (10, 40), "both");
    let keys: Vec<String> = within(5_000).into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    assert_eq!(keys, ["k00", "k01", "k02", "k03", "k04"]);
}

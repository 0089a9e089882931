//! How fast the local state store is: `cargo run --release -p headwater-connectors --example state_speed -- [keys] [dir]`.

// A measurement on a developer's machine: it may end with a panic, and its output is what it is for.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use headwater::{Change, ports::Stores};
use headwater_connectors::state::{End, LocalStore, StateConfig};

const ROUNDS: u64 = 1_000_000;
/// Changes in one transaction.
const UNIT: u64 = 500;

fn main() {
    let mut args = std::env::args().skip(1);
    let keys: u64 = args.next().map_or(1_000_000, |text| text.parse().unwrap());
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("state-speed"), PathBuf::from);
    println!("{keys} keys of 16 bytes with values of 64 bytes, under {}", dir.display());
    let _ = std::fs::remove_dir_all(&dir);
    let config = StateConfig::default();
    let store = LocalStore::open(&dir, &config).unwrap();
    restore(&store, keys);
    modify(&store, "hit: 10000 keys", 10_000);
    modify(&store, "miss: all keys", keys);
    let began = Instant::now();
    store.flush().unwrap();
    println!("last flush {:?}", began.elapsed());
    println!("{:?}", store.stats());
    drop(store);
    reopen(&dir, &config);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// 16 bytes, in an order that jumps.
fn key(number: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

fn restore(store: &LocalStore, keys: u64) {
    let began = Instant::now();
    let mut restore = store.restore("s", 0, "topic", 1).unwrap();
    for number in 0..keys {
        restore.push(number.cast_signed(), &key(number), Some(&value(number))).unwrap();
    }
    restore.finish(keys.cast_signed(), 1).unwrap();
    report("restore", keys, began);
}

fn value(number: u64) -> [u8; 64] {
    let mut value = [b'v'; 64];
    value[..8].copy_from_slice(&number.to_be_bytes());
    value
}

/// Reads random keys of the first `keys` and writes them back changed, in transactions.
fn modify(store: &LocalStore, what: &str, keys: u64) {
    let (began, mut random) = (Instant::now(), 1_u64);
    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = key((random >> 33) % keys);
        let mut value = store.get("s", 0, &key).unwrap().unwrap();
        value[8] = value[8].wrapping_add(1);
        changes.push(Change { store: "s".into(), partition: 0, key: key[..].into(), value: Some(value.into()) });
        if (round + 1) % UNIT == 0 {
            let end = End { store: "s".into(), partition: 0, next: (keys + round).cast_signed() };
            store.apply(&changes, &[end], 1).unwrap();
            changes.clear();
        }
    }
    report(what, ROUNDS, began);
}

fn reopen(dir: &Path, config: &StateConfig) {
    let began = Instant::now();
    let store = LocalStore::open(dir, config).unwrap();
    println!("reopened in {:?} at {:?}", began.elapsed(), store.checkpoint("s", 0).unwrap().unwrap());
}

fn report(what: &str, count: u64, began: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory: Vec<&str> =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect();
    let rate = u128::from(count) * 1_000_000 / began.elapsed().as_micros().max(1);
    println!("{what}: {rate}/s, {:?}; {}", began.elapsed(), memory.join(" ").replace(['\t', ' '], ""));
}

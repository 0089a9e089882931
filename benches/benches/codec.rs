//! The codec, alone and around a processor, beside the bare apache-avro calls that it is made of, by time and with the
//! allocator that is shipped: `cargo bench -p headwater-benches --bench codec`.

use divan::{Bencher, counter::ItemsCount};
use headwater_benches::hot_path::pieces;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A piece is done this often between two looks at the time.
const TIMES: usize = 1_000;

fn main() {
    divan::main();
}

#[divan::bench(args = ["decode", "bare decode", "encode", "bare encode", "handle", "bare handle"])]
fn thousand_times(bencher: Bencher<'_, '_>, piece: &str) {
    let mut run = pieces::ready(piece).expect("a piece");
    bencher.counter(ItemsCount::new(TIMES)).bench_local(|| run(TIMES));
}

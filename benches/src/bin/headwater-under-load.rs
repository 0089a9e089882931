//! The program whose memory is measured: the orders pipeline, as `headwater` runs it.

use std::process::ExitCode;

use headwater_processors::{Warehouse, orders};

/// As it is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    headwater_runtime::main(|deps| Ok(orders(Warehouse::new(deps.http(), deps.warehouse_url()))))
}

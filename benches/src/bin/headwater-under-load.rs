//! The program whose memory is measured: the orders pipeline, as `headwater` runs it.

use std::process::ExitCode;

use headwater_load::Load;
use headwater_processors::{Warehouse, orders};
use headwater_runtime::Program;

/// As it is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::new(|deps| Ok(orders(Warehouse::new(deps.http(), deps.warehouse_url())))).command::<Load>().main()
}

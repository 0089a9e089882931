//! The product: the orders pipeline with every command.

use std::process::ExitCode;

use headwater::Pipeline;
use headwater_load::Load;
use headwater_processors::Warehouse;
use headwater_runtime::{Deps, Program};

/// A record's many small pieces are made on one thread and dropped on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::new(orders).command::<Load>().main()
}

fn orders(deps: &Deps) -> anyhow::Result<Pipeline> {
    Ok(headwater_processors::orders(Warehouse::new(deps.http(), deps.warehouse_url())))
}

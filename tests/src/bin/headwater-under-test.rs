//! The program that the end-to-end tests start, stop, freeze and kill: the orders pipeline, as `headwater` runs it.

use std::process::ExitCode;

use headwater_processors::{Warehouse, orders};

fn main() -> ExitCode {
    headwater_runtime::main(|deps| Ok(orders(Warehouse::new(deps.http(), deps.warehouse_url()))))
}

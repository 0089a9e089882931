//! The program that the end-to-end tests start, stop, freeze and kill: the orders pipeline, as `headwater` runs it.

use std::process::ExitCode;

use headwater_load::Load;
use headwater_processors::{Warehouse, orders};
use headwater_runtime::Program;

fn main() -> ExitCode {
    Program::new(|deps| Ok(orders(Warehouse::new(deps.http(), deps.warehouse_url())))).command::<Load>().main()
}

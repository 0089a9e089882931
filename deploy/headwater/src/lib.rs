//! The product: its pipelines, what they want to be told, and what they show. What every program can do is the runtime's.

mod demo;
mod warehouse;

use headwater::Pipeline;
use headwater_load::Load;
use headwater_processors::orders::{self, Warehouse};
use headwater_runtime::{Deps, Program};

use self::{demo::OrdersDemo, warehouse::WarehouseConfig};

/// The whole program.
pub fn program() -> Program {
    Program::new(pipelines).section::<WarehouseConfig>().command::<Load>().demo::<OrdersDemo>()
}

/// Every pipeline of the product, in one place.
fn pipelines(deps: &Deps) -> anyhow::Result<Pipeline> {
    let warehouse: WarehouseConfig = deps.section()?;
    Ok(Pipeline::default().merge(orders::pipeline(Warehouse::new(deps.http(), warehouse.url()))))
}

//! The commands, one file each, and those that a program adds.

mod line;

mod dev;
mod run;

mod groups;
mod instances;
mod offsets;
mod standing;
mod table;

mod dlq;
mod state;

mod config;
mod documents;
mod produce;
mod produce_target;
mod tail;
mod topology;

pub use dev::Demo;
pub use line::Command;
pub(crate) use line::{CommandLine, Written};
pub use produce_target::{KeySource, ProduceTarget};
pub use table::{Table, thousands};

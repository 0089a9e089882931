//! The commands, one file each, and those that a program adds.

mod arguments;
mod line;

mod dev;
mod run;
mod topology;

mod dlq;
mod groups;
mod offsets;
mod state;

mod events;

mod config;
mod health;

pub use dev::Demo;
pub use events::produce_target::{KeySource, ProduceTarget};
pub use line::Command;
pub(crate) use line::{CommandLine, Invocation};

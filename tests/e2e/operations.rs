//! What an operator sees and does: commands, lag, load and traces.

mod dev;
mod lag;
mod load;
mod offsets;
mod program;
mod traces;

//! Records that wait.

mod waiting;
mod waits;

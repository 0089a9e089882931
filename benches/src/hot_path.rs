//! The hot path, piece by piece, each counted for itself: instructions and allocations, which are the same on every run.

pub mod figures;
pub mod pieces;

mod memory;

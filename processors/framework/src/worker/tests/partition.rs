//! Partitions that come and go, and what is bounded in them.

mod bounds;
mod progress;
mod rebalance;

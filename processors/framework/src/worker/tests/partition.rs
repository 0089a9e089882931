//! Partitions that come and go, and what is bounded in them.

mod bounds;
mod places;
mod rebalance;

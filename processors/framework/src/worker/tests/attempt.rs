//! What becomes of one record: its attempts, its failures, its spans, the state that it sees.

mod circuits;
mod crowds;
mod foreign;
mod hops;
mod letters;
mod redrive;
mod replays;
mod retries;
mod spans;
mod stateful;

//! The program that the end-to-end tests start, stop, freeze and kill: the orders pipeline, as `headwater` runs it.

fn main() {}

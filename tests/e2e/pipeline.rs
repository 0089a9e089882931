//! What a pipeline does with records: where it begins, what it delivers, and what it writes.

mod assignment;
mod bus;
mod causation;
mod delivery;
mod orders;
mod records;

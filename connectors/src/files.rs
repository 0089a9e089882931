//! Files: each event becomes one JSON line, at least once.
//!
//! A unit of work is appended and flushed to the disk (fsync) before its positions are committed, so a line is never
//! missing; after a crash, or an outage in between, the lines of a unit may come again. A reader tells them by `topic`,
//! `partition` and `offset`. Lines of one key stand in the order of its records.
//!
//! Every line is whole JSON. Several processes may append to one file: each unit is written under the file's lock, which
//! the system takes back from a process that dies. Whoever appends next cuts off the half line that such a one has left.
//! With a file for each process nobody would cut off the half line of one that never comes back, and who reads them would
//! have to know all their names.
//!
//! The file is opened anew for each unit: one that was renamed by a log rotation is let go of, and one that is gone is
//! made again, but for its folder. A file that cannot be written is an outage: the group waits, and says why.
//!
//! At shutdown there is nothing to do: a unit of work is committed, or it is not and will be read again.

mod config;

mod sink;

mod append;
mod line;

pub use config::FileSink;
pub use line::event_fields;

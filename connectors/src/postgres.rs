//! Postgres: events become rows, exactly once.
//!
//! A sink's rows and the offsets that cover them commit in one transaction, so neither is ever without the other.
//! Who may move a partition's offset is decided in the same place: an owner takes the partition's next epoch when the
//! partition is assigned, and every commit names the epoch and the offset that it expects. A commit of an owner that
//! has been replaced changes nothing; its records are dropped, and the new owner has read them itself.
//!
//! With each offset stands the id of the topic that it belongs to: a topic that was deleted and created again under its
//! name has another one, and stops the group before anything of it is read, however many records it has by then.
//!
//! An upsert and a delete apply only over what is older: a lower offset of the same partition, an event time that is not
//! later from another one, or whatever a topic left that had the name before; each row says the id of its topic. So a
//! record that comes late (a redrive, a restart) does no harm. A column that a record's schema does not have is left as it
//! is, whatever else is in the batch. An insert sink has no key to go by: of a record that was sent back it writes one row,
//! however often it comes.
//!
//! Dead letters are kept by the same committer, each as it is. There is nowhere else to put one, so nothing of them is
//! refused: what Postgres does not take of them stops the group until somebody has helped.
//!
//! Whose fault it is that Postgres refuses a row is found out by trying it alone: see `sink/trial.rs`. What refuses every row is
//! the table's fault or an outage, and makes no dead letter. No message holds a value of a row.
//!
//! At shutdown there is nothing to do: a unit of work is committed, or it is not and will be read again.

mod config;
mod database;
mod login;

mod sink;

mod dead_letters;
mod migrate;
mod offsets;

mod columns;

mod error;
mod sql;

pub use config::Config;
pub use database::Database;
pub use dead_letters::query::{
    FailureGroup, LetterFilter, Letters, Moment, Status, StoredLetter, Summary,
    change::{DiscardResult, EditResult, LetterActions, LetterError, RedriveResult, SendOutcome},
};
pub use error::PostgresError;
pub use migrate::{Migration, migrate, pending_migrations};
pub use offsets::{
    group_offsets::{reset_offsets, stored_offsets},
    topic_ids::TopicIds,
};
pub use sink::watch::TableWatch;
pub use sink::{PostgresSink, SinkCounts};

//! Kafka: a group's member that reads, a producer that publishes, and the topics themselves.
//!
//! What it promises:
//! - **Reading.** After a partition is assigned, no record of it is delivered before the engine said where to begin.
//!   Records come in order of their offsets; none is skipped silently: a topic that was truncated or created anew
//!   stops the source, and records that retention deleted unread are counted in a warning.
//! - **Offsets.** Only positions that the engine declared durable are committed, from the polling thread, and during a
//!   rebalance only in the revoke callback. A lost assignment commits nothing.
//! - **Polling never stops.** When the engine does not take records the partitions are paused and polled on, so that a
//!   handler slower than `max.poll.interval.ms` keeps them.
//! - **Publishing.** A record is acknowledged by all in-sync replicas or is an error with its index: never neither.
//!   The producer is idempotent, so the order within a partition is the order of sending.
//! - **Transactions.** Records and offsets become durable together or not at all, and whoever asked is told which, or that
//!   nobody knows yet; no call hangs, whatever a coordinator does.
//! - **Changelogs.** Read to the end that they had when reading began, committed records only; what the log does not have
//!   any more is said, and never passed over.
//! - **Shutdown.** `Close` commits what was said to be durable, leaves, and reports `Closed`.

mod config;
mod credentials;
mod error;

mod consumer;

mod producer;

mod admin;
mod changelog;

mod debounce;
mod diagnosis;
mod librdkafka;
mod logs;
pub(crate) mod topic_recreated;

pub use admin::groups::{CommittedOffset, GroupAdmin, GroupMember, GroupState, GroupStatus, LogEnd};
pub use admin::record_counts::{OffsetRange, count_records};
pub use admin::retention::delete_records_before;
pub use admin::single_record::record_at;
pub use admin::stable_offsets::stable_offsets;
pub use admin::topic_change::{Topic, TopicChange, TopicSpec};
pub use admin::topics::Cluster;
pub(crate) use changelog::INPUTS;
pub use changelog::{ChangelogEnd, ChangelogError, ChangelogProgress, ChangelogReader, ReadOutcome};
pub use config::security::{KafkaSasl, KafkaTls, SaslMechanism};
pub use config::{Assignor, Compression, ConsumerConfig, KafkaConfig, MembershipKind, ProducerConfig};
pub use consumer::config::{SourceConfig, Start};
pub use consumer::membership::Membership;
pub use consumer::membership::lease::{Lease, PublishPermit};
pub use consumer::membership::tenure::Tenure;
pub use consumer::source::{CloseSignal, KafkaSource};
pub use consumer::subscription::Subscription;
pub use error::KafkaError;
pub use headwater::spi::HEADER_ROOM;
pub use producer::callback::{CallbackProducer, EnqueueOutcome, RecordMetadata};
pub use producer::core::produce_error::{BatchError, BatchErrors};
pub use producer::core::reports::EndOffsets;
pub use producer::gapless::GaplessProducer;
pub use producer::idempotent::{CloseError, Producer};
pub use producer::transactional::{TransactionError, TransactionalProducer, kept_keys, wipe_state};

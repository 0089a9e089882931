//! What happens when the group deals its partitions anew. librdkafka calls this on the polling thread, within `poll`.
//!
//! Taken away: report it, serve the engine until it has let go of every partition or the drain deadline is over, commit
//! what is durable, let go. Lost: report it, commit nothing. Nobody else commits while this goes on.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    ports::{Control, Fetched},
};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::KafkaError as ClientError,
    types::RDKafkaRespErr,
};

use super::{partition, poll_loop::PollLoop};
use crate::kafka::logs;

/// How long the last commit of partitions that leave may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A consumer whose callbacks reach the member.
pub(crate) type GroupConsumer = BaseConsumer<GroupContext>;

/// librdkafka's callbacks, all of them on the polling thread.
pub(crate) struct GroupContext {
    member: Mutex<PollLoop>,
    /// The text of the last error event; the error that `poll` returns has only a code.
    reason: Mutex<String>,
}

impl GroupContext {
    pub(crate) fn new(member: PollLoop) -> Self {
        Self { member: Mutex::new(member), reason: Mutex::default() }
    }

    /// The member; never held across a `poll`.
    pub(crate) fn member(&self) -> MutexGuard<'_, PollLoop> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of the last error event.
    pub(crate) fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    fn error(&self, _error: ClientError, reason: &str) {
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &GroupConsumer, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let mut member = self.member();
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            member.assigned(consumer, list);
        } else {
            member.revoked(consumer, list);
        }
    }
}

impl PollLoop {
    fn assigned(&mut self, consumer: &GroupConsumer, list: &mut TopicPartitionList) {
        let names = partition::names(list);
        self.attach(consumer, names.iter());
        self.want_ids(&names);
        // Nothing is fetched there, since the partitions are paused before they have any place, and `Begin` names the real
        // one. It is absolute: for `Beginning` librdkafka asks the broker, and when something else is said of the partition
        // meanwhile, it asks again half a second later and then goes there, over whatever place it was told.
        let paused = if names.is_empty() { Ok(()) } else { consumer.pause(list) };
        let placed = paused.and_then(|()| list.set_all_offsets(Offset::Offset(0)));
        let assigned = placed.and_then(|()| match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            _ => consumer.assign(list),
        });
        if let Err(error) = assigned {
            return self.fail(format!("cannot take over assigned partitions: {error}"));
        }
        tracing::info!(group = self.source.group, partitions = names.len(), "partitions were assigned");
        let now = Instant::now();
        self.joined.get_or_insert(now);
        names.iter().for_each(|name| self.partitions.insert(name, now));
        if !self.leaving {
            self.reached();
            self.report(Fetched::Assigned(names));
        }
    }

    fn revoked(&mut self, consumer: &GroupConsumer, list: &TopicPartitionList) {
        let names = partition::names(list);
        if !consumer.assignment_lost() && !self.leaving && !names.is_empty() {
            tracing::info!(group = self.source.group, partitions = names.len(), "partitions are taken away");
            self.drop_unsent(&names);
            self.report(Fetched::Revoked(names.clone()));
            self.await_release(consumer, &names);
        }
        if consumer.assignment_lost() {
            tracing::warn!(
                group = self.source.group,
                partitions = names.len(),
                "partitions were lost to other members"
            );
            self.commits.forget(&names);
            if !self.leaving {
                self.report_lost(names.clone());
            }
        } else {
            self.commit_last(consumer, &names);
        }
        self.drop_unsent(&names);
        names.iter().for_each(|name| self.partitions.remove(name));
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            tracing::warn!(group = self.source.group, %error, "cannot give up partitions");
        }
    }

    /// Gives up every partition: we have no place in the group any more, and librdkafka may say so later or never.
    pub(crate) fn lose_all(&mut self) {
        let names = self.partitions.select(|_| true);
        self.commits.forget(&names);
        self.drop_unsent(&names);
        names.iter().for_each(|name| self.partitions.remove(name));
        if !names.is_empty() && !self.leaving {
            self.report_lost(names);
        }
    }

    /// Serves the engine until it has let go of these partitions, at most for the drain deadline.
    fn await_release(&mut self, consumer: &GroupConsumer, names: &[TopicPartition]) {
        let mut waiting: HashSet<TopicPartition> = names.iter().cloned().collect();
        let deadline = Instant::now() + self.config.drain;
        let mailbox = std::sync::Arc::clone(&self.mailbox);
        while !waiting.is_empty() && !mailbox.is_abandoned() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let still = waiting.len();
                tracing::warn!(group = self.source.group, still, "revoked partitions leave before they were drained");
                return self.report_lost(waiting.into_iter().collect());
            }
            match mailbox.take() {
                Some(Control::Released(released)) => released.iter().for_each(|name| {
                    waiting.remove(name);
                }),
                Some(control) => self.control(control),
                None => {
                    // What is drained is published, for which our place may have to be proven.
                    if self.outlets.lease.is_wanted() {
                        self.commit(consumer);
                    }
                    mailbox.wait(left.min(Duration::from_millis(100)));
                }
            }
        }
    }

    /// Tells the broker the last durable positions of partitions that leave, and waits for its answer.
    fn commit_last(&mut self, consumer: &GroupConsumer, names: &[TopicPartition]) {
        let positions = self.commits.take(names);
        // A source that is closed has tried for as long as it may.
        if positions.is_empty() || self.leaving {
            return;
        }
        let deadline = Instant::now() + ANSWER;
        // librdkafka may repeat a commit that is under way, and then its older position must not come behind the last.
        self.take_answers(consumer, ANSWER / 2);
        let list = partition::list_at(positions.iter().map(|(name, next)| (name, *next)));
        let sent = list.and_then(|list| self.send_commit(consumer, &list)).map_err(|error| error.to_string());
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome =
            sent.and_then(|()| self.take_answers(consumer, left).map_or(Ok(()), |code| Err(code.to_string())));
        if let Err(error) = outcome {
            tracing::warn!(
                group = self.source.group,
                error,
                "the last positions of revoked partitions were not committed: their next owner reads some records again"
            );
        }
    }
}

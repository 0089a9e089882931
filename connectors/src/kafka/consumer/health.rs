//! What an operator hears: brokers that do not answer, records that were lost, and why a source cannot go on.

use std::time::{Duration, Instant};

use headwater::{TopicPartition, ports::Fetched};
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{poll_loop::PollLoop, rebalance::GroupConsumer};
use crate::topic_recreated::created_anew;

/// How often it is tried whether the brokers are back, and how long one try may take.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

impl PollLoop {
    /// The client reports an error; most pass by themselves.
    pub(crate) fn trouble(&mut self, consumer: &GroupConsumer, error: &ClientError, reason: &str) {
        if let Some((code, fatal)) = consumer.client().fatal_error() {
            return match code {
                Code::FencedInstanceId => self.fenced(),
                _ => self.fail(format!("the kafka consumer of group {} failed for good: {fatal}", self.source.group)),
            };
        }
        let group = &self.source.group;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown | Code::Authentication) => self.unreachable(reason),
            Some(
                Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => {
                self.unreachable(&format!("{reason}: grant group {group} the right to read"));
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                tracing::warn!(group, reason, "a subscribed topic does not exist: run `headwater topology apply`");
            }
            // Of each connection of each group: that no broker is left is said once.
            Some(Code::BrokerTransportFailure) => {
                tracing::debug!(group, reason, "a connection to a kafka broker is gone")
            }
            _ => tracing::warn!(group, %error, reason, "the kafka consumer has trouble"),
        }
    }

    fn unreachable(&mut self, reason: &str) {
        self.probe_at = Instant::now() + PROBE;
        if self.up != Some(false) {
            self.up = Some(false);
            self.report(Fetched::Connected(Err(reason.to_owned())));
        }
    }

    /// A broker has answered.
    pub(crate) fn reached(&mut self) {
        if self.up != Some(true) {
            self.up = Some(true);
            self.report(Fetched::Connected(Ok(())));
        }
    }

    /// Asks whether the brokers are back: an idle topic would not show it.
    pub(crate) fn probe(&mut self, consumer: &GroupConsumer) {
        if self.up != Some(false) || Instant::now() < self.probe_at {
            return;
        }
        // One topic that every cluster with groups has; whether we may see it does not matter.
        match consumer.fetch_metadata(Some("__consumer_offsets"), PROBE_TIMEOUT) {
            Ok(_) => self.reached(),
            Err(_) => self.bootstrap.again(consumer.client()),
        }
        self.probe_at = Instant::now() + PROBE;
    }

    /// Says that retention was faster than the group.
    pub(crate) fn warn_lost(&self, topic: &str, partition: i32, records: i64) {
        let group = &self.source.group;
        tracing::error!(
            group,
            topic,
            partition,
            records,
            "up to this many records were deleted by retention before the group read them: reading goes on at the oldest one left; raise the topic's retention"
        );
    }

    /// Ends the source because a topic is not the one that the offsets belong to.
    pub(crate) fn halt_anew(&mut self, name: &TopicPartition, what: &str) {
        self.halt(created_anew(&self.source.group, &name.topic, Some(name.partition), what));
    }
}

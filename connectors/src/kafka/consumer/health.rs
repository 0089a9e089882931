//! What an operator hears: brokers that do not answer, records that were lost, and other trouble of the client.

use std::time::{Duration, Instant};

use headwater::spi::SourceEvent;
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{membership::group_consumer::GroupConsumer, outlets::Outlets};
use crate::kafka::{
    config::{KafkaConfig, client_settings::LoginSettings},
    credentials,
    librdkafka::bootstrap::Bootstrap,
};

/// After so long without a word from a broker it is asked whether any answers.
const QUIET: Duration = Duration::from_secs(5);
/// Between two such questions while none answers, and how long one may take.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the brokers answer.
pub(crate) struct BrokerHealth {
    /// As the engine was told last.
    up: Option<bool>,
    probe_at: Instant,
    /// Whether the last question was in vain.
    in_vain: bool,
    bootstrap: Bootstrap,
    login: Option<LoginSettings>,
}

impl BrokerHealth {
    /// Of a cluster that is reached so.
    pub(crate) fn new(config: &KafkaConfig, now: Instant) -> Self {
        let (bootstrap, login) = (Bootstrap::new(&config.bootstrap), config.login());
        Self { up: None, probe_at: now + QUIET, in_vain: false, bootstrap, login }
    }

    /// The client reports an error that is not fatal; most pass by themselves.
    pub(crate) fn trouble(&mut self, error: &ClientError, reason: &str, outlets: &Outlets) {
        let group = &outlets.group;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => self.nobody(reason, outlets),
            Some(Code::Authentication) => self.unreachable(reason, outlets),
            Some(
                Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => {
                self.unreachable(&format!("{reason}: grant group {group} the right to read"), outlets);
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

    fn nobody(&mut self, why: &str, outlets: &Outlets) {
        self.unreachable(&format!("{why} (looked for at {})", self.bootstrap), outlets);
    }

    fn unreachable(&mut self, reason: &str, outlets: &Outlets) {
        self.probe_at = Instant::now() + PROBE;
        if self.up != Some(false) {
            self.up = Some(false);
            let login = self.login.as_ref().and_then(credentials::login_problem);
            let reason = login.map_or_else(|| reason.to_owned(), |problem| problem.to_string());
            outlets.report(SourceEvent::Connected(Err(reason)));
        }
    }

    /// A broker has answered.
    pub(crate) fn reached(&mut self, outlets: &Outlets) {
        (self.probe_at, self.in_vain) = (Instant::now() + QUIET, false);
        if self.up != Some(true) {
            self.up = Some(true);
            outlets.report(SourceEvent::Connected(Ok(())));
        }
    }

    /// Asks whether brokers answer: an idle topic would not show it, and librdkafka does not always say that it has none left.
    pub(crate) fn probe(&mut self, consumer: &GroupConsumer, outlets: &Outlets) {
        if Instant::now() < self.probe_at {
            return;
        }
        // One topic that every cluster with groups has; whether we may see it does not matter.
        let asked = consumer.fetch_metadata(Some("__consumer_offsets"), PROBE_TIMEOUT);
        if asked.is_ok_and(|cluster| !cluster.brokers().is_empty()) {
            return self.reached(outlets);
        }
        self.bootstrap.again(consumer.client());
        self.probe_at = Instant::now() + PROBE;
        // A broker that was slow once is not away.
        if std::mem::replace(&mut self.in_vain, true) {
            self.nobody("no broker answers", outlets);
        }
    }
}

/// Says that retention was faster than the group.
pub(crate) fn warn_lost(group: &str, topic: &str, partition: i32, records: i64) {
    tracing::error!(
        group,
        topic,
        partition,
        records,
        "up to this many records were deleted by retention before the group read them: reading goes on at the oldest one left; raise the topic's retention"
    );
}

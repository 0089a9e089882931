//! What an operator hears: brokers that do not answer and why, rights that are lacking, records that were lost, and other trouble
//! of the client.

mod inquiry;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::SourceEvent};
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use self::inquiry::Inquiry;
use super::{membership::group_consumer::GroupConsumer, outlets::Outlets};
use crate::kafka::{
    config::KafkaConfig,
    diagnosis::{
        Diagnosis, refused_login,
        rights::{ResourceNames, Right, lacking},
    },
    librdkafka::{bootstrap::Bootstrap, fetch::Message},
};

/// After so long without a word from a broker it is asked whether any answers.
const QUIET: Duration = Duration::from_secs(5);
/// Between two such questions while none answers, and how long one may take.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A topic that every cluster with groups has; whether we may see it does not matter.
const ANY_TOPIC: &str = "__consumer_offsets";
/// How librdkafka begins what it says of a topic that the group subscribes to.
const SUBSCRIBED: &str = "Subscribed topic not available: ";

/// What shows that something works.
#[derive(Clone, Copy)]
pub(crate) enum Evidence<'a> {
    /// A broker has answered.
    Answer,
    /// A topic was read, be it to its end.
    Read(&'a Message<'a>),
    /// The group has let us in.
    Joined,
}

/// What we have no right to, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Forbidden {
    /// To see a topic.
    Seeing(String),
    /// To read a topic that we see.
    Reading(String),
    /// To use the group.
    Group,
}

/// Whether the brokers answer, and let us do our work.
pub(crate) struct BrokerHealth {
    /// As the engine was told last; `None` before it was told anything.
    told: Option<Result<(), String>>,
    probe_at: Instant,
    /// Whether the last question was in vain.
    in_vain: bool,
    bootstrap: Bootstrap,
    kafka: Arc<KafkaConfig>,
    inquiry: Inquiry,
    /// Everything that is known to be; the first is told.
    forbidden: Vec<Forbidden>,
}

impl BrokerHealth {
    /// Of a cluster that is reached so.
    pub(crate) fn new(kafka: &KafkaConfig, now: Instant) -> Self {
        let (bootstrap, kafka) = (Bootstrap::new(&kafka.bootstrap), Arc::new(kafka.clone()));
        let inquiry = Inquiry::new(Arc::clone(&kafka));
        Self { told: None, probe_at: now + QUIET, in_vain: false, bootstrap, kafka, inquiry, forbidden: Vec::new() }
    }

    /// The client reports an error that is not fatal; most pass by themselves.
    pub(crate) fn trouble(&mut self, error: &ClientError, reason: &str, outlets: &Outlets) {
        let group = &outlets.group;
        match error.rdkafka_error_code() {
            Some(Code::Authentication) if let Some(refused) = refused_login(&self.kafka, reason) => {
                self.unreachable(&refused.text, outlets);
            }
            Some(Code::AllBrokersDown | Code::Authentication | Code::SSL) => self.inquire(reason),
            Some(Code::GroupAuthorizationFailed) => self.forbid(Forbidden::Group, outlets),
            Some(Code::TopicAuthorizationFailed) if let Some(topic) = subscribed(reason) => {
                self.forbid(Forbidden::Seeing(topic), outlets);
            }
            Some(code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
                let lacks = lacking(code, Right::Read, ResourceNames::group(group)).unwrap_or_default();
                self.unreachable(&format!("{lacks}: {reason}"), outlets);
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                // Of topics that it does not let us see a cluster says no more.
                tracing::warn!(
                    group,
                    reason,
                    "a subscribed topic does not exist, or we may not see it: run `headwater topology apply`, or grant Read on it"
                );
            }
            // Of each connection of each group: that no broker is left is said once.
            Some(Code::BrokerTransportFailure) => {
                tracing::debug!(group, reason, "a connection to a kafka broker is gone")
            }
            _ => tracing::warn!(group, %error, reason, "the kafka consumer has trouble"),
        }
    }

    /// A broker does not let us read a topic.
    pub(crate) fn forbid_reading(&mut self, topic: String, outlets: &Outlets) {
        self.forbid(Forbidden::Reading(topic), outlets);
    }

    fn forbid(&mut self, what: Forbidden, outlets: &Outlets) {
        if !self.forbidden.contains(&what) {
            self.forbidden.push(what);
        }
        self.tell_forbidden(outlets);
    }

    /// Tells the first of what is forbidden, if anything is.
    fn tell_forbidden(&mut self, outlets: &Outlets) {
        let why = match self.forbidden.first() {
            Some(Forbidden::Seeing(topic) | Forbidden::Reading(topic)) => {
                lacking(Code::TopicAuthorizationFailed, Right::Read, ResourceNames::topic(topic))
            }
            Some(Forbidden::Group) => {
                lacking(Code::GroupAuthorizationFailed, Right::Read, ResourceNames::group(&outlets.group))
            }
            None => None,
        };
        if let Some(why) = why {
            self.unreachable(&why, outlets);
        }
    }

    /// These partitions are not ours any more: whether we may read them is nobody's business.
    pub(crate) fn forget(&mut self, names: &[TopicPartition]) {
        let is_left = |topic: &String| names.iter().any(|name| *name.topic == **topic);
        self.forbidden.retain(|known| !matches!(known, Forbidden::Reading(topic) if is_left(topic)));
    }

    /// Finds out why brokers do not answer, on a thread of its own; once it is known, the engine is told.
    fn inquire(&mut self, reason: &str) {
        self.probe_at = Instant::now() + PROBE;
        // What is told lasts until brokers answer again, or something else is wrong with them.
        self.inquiry.begin(reason, Instant::now());
    }

    fn found(&mut self, (diagnosis, reason): (Option<Diagnosis>, String), outlets: &Outlets) {
        match diagnosis {
            Some(found) => self.unreachable(&found.text, outlets),
            // Nothing is wrong with them any more, and they may soon answer.
            None if matches!(self.told, Some(Err(_))) => {}
            None => self.unreachable(&format!("{reason} (looked for at {})", self.bootstrap), outlets),
        }
    }

    fn unreachable(&mut self, reason: &str, outlets: &Outlets) {
        self.probe_at = Instant::now() + PROBE;
        if !matches!(&self.told, Some(Err(told)) if told == reason) {
            self.told = Some(Err(reason.to_owned()));
            outlets.report(SourceEvent::Connected(Err(reason.to_owned())));
        }
    }

    /// Something works.
    pub(crate) fn reached(&mut self, evidence: Evidence<'_>, outlets: &Outlets) {
        (self.probe_at, self.in_vain) = (Instant::now() + QUIET, false);
        self.inquiry.drop_it();
        self.forbidden.retain(|known| match (known, evidence) {
            (Forbidden::Group, Evidence::Joined) => false,
            (Forbidden::Seeing(topic) | Forbidden::Reading(topic), Evidence::Read(read)) => *topic != read.topic(),
            _ => true,
        });
        if !self.forbidden.is_empty() {
            self.probe_at = Instant::now() + PROBE;
            self.tell_forbidden(outlets);
        } else if self.told != Some(Ok(())) {
            self.told = Some(Ok(()));
            outlets.report(SourceEvent::Connected(Ok(())));
        }
    }

    /// Asks whether brokers answer: an idle topic would not show it, and librdkafka does not always say that it has none left.
    pub(crate) fn probe(&mut self, consumer: &GroupConsumer, outlets: &Outlets) {
        if let Some(answer) = self.inquiry.answer() {
            self.found(answer, outlets);
        }
        if Instant::now() < self.probe_at {
            return;
        }
        let unseen = self.forbidden.iter().find_map(|known| match known {
            Forbidden::Seeing(topic) => Some(topic.clone()),
            Forbidden::Reading(_) | Forbidden::Group => None,
        });
        let asked = consumer.fetch_metadata(Some(unseen.as_deref().unwrap_or(ANY_TOPIC)), PROBE_TIMEOUT);
        if let Ok(cluster) = asked
            && !cluster.brokers().is_empty()
        {
            let is_seen = |topic: &String| {
                let mut listed = cluster.topics().iter().filter(|listed| listed.name() == topic);
                listed.all(|listed| listed.error().map(Code::from) != Some(Code::TopicAuthorizationFailed))
            };
            if let Some(topic) = unseen.filter(is_seen) {
                self.forbidden.retain(|known| *known != Forbidden::Seeing(topic.clone()));
            }
            return self.reached(Evidence::Answer, outlets);
        }
        self.bootstrap.again(consumer.client());
        self.probe_at = Instant::now() + PROBE;
        // A broker that was slow once is not away.
        if std::mem::replace(&mut self.in_vain, true) {
            self.inquire("no broker answers");
        }
    }
}

/// The topic that librdkafka says is not there for us.
fn subscribed(reason: &str) -> Option<String> {
    let (topic, _) = reason.strip_prefix(SUBSCRIBED)?.split_once(": ")?;
    Some(topic.to_owned())
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

//! Any librdkafka property, by its name: which cannot be set, and which must not be printed.

use std::collections::BTreeMap;

use rdkafka::{ClientConfig, error::KafkaError};

/// Properties that the engine's guarantees rest on, and what to use instead of the map.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.bootstrap"),
    ("metadata.broker.list", "set kafka.bootstrap"),
    ("group.id", "it is the processor's name"),
    ("group.instance.id", "set instance"),
    ("group.protocol", "the classic protocol is the one supported"),
    ("partition.assignment.strategy", "set kafka.consumer.assignor"),
    ("session.timeout.ms", "set kafka.consumer.session_timeout"),
    ("max.poll.interval.ms", "set kafka.consumer.max_poll_interval"),
    ("enable.auto.commit", "offsets are committed after their effects"),
    ("auto.commit.interval.ms", "offsets are committed after their effects"),
    ("enable.auto.offset.store", "offsets are committed after their effects"),
    ("auto.offset.reset", "set the processor's start"),
    ("enable.partition.eof", "how far a log was read rests on it"),
    ("isolation.level", "aborted records must not be read"),
    ("enable.idempotence", "order and single delivery rest on it"),
    ("acks", "an effect must be durable before its offset is committed"),
    ("request.required.acks", "an effect must be durable before its offset is committed"),
    ("partitioner", "keys are hashed as Java does"),
    ("message.max.bytes", "set kafka.max_record_bytes"),
    ("fetch.max.bytes", "set kafka.max_record_bytes"),
    ("receive.message.max.bytes", "set kafka.max_record_bytes"),
    ("batch.size", "set kafka.producer.batch_bytes"),
    ("message.timeout.ms", "set kafka.producer.delivery_timeout"),
    ("delivery.timeout.ms", "set kafka.producer.delivery_timeout"),
    ("transactional.id", "it is derived from group and instance"),
    ("transaction.timeout.ms", "set kafka.producer.transaction_timeout"),
    ("log.queue", "librdkafka's log lines go through the program's"),
];

/// Properties that [kafka.tls] sets; all others of TLS stand beside it.
const OF_TLS: [&str; 13] = [
    "enable.ssl.certificate.verification",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl_ca",
];

/// The section that a property belongs to, where it is there.
fn section(name: &str, tls: bool, sasl: bool) -> Option<&'static str> {
    match name {
        "security.protocol" if tls || sasl => Some("[kafka.tls] and [kafka.sasl] say it"),
        name if tls && OF_TLS.contains(&name) => Some("set it in [kafka.tls]"),
        name if sasl && (name.starts_with("sasl.") || name.starts_with("enable.sasl.")) => {
            Some("set it in [kafka.sasl]")
        }
        _ => None,
    }
}

/// What is wrong with these properties beside the sections that are there, in words that name them.
pub(super) fn problems(properties: &BTreeMap<String, String>, tls: bool, sasl: bool) -> Vec<String> {
    let refused = REFUSED.iter().copied().filter(|(name, _)| properties.contains_key(*name));
    let owned = properties.keys().filter_map(|name| Some((name.as_str(), section(name, tls, sasl)?)));
    let refused = refused.chain(owned);
    let refused = refused.map(|(name, instead)| format!("kafka.properties: `{name}` cannot be set: {instead}"));
    refused.chain(properties.iter().filter_map(|(name, value)| unsettable(name, value))).collect()
}

/// Why librdkafka does not take this property: it does not know it, or cannot read its value.
fn unsettable(name: &str, value: &str) -> Option<String> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => None,
        // Without the value: it may be a password, under a name that is misspelt.
        Err(KafkaError::ClientConfig(_, why, name, _)) => {
            Some(format!("kafka.properties: `{name}` cannot be set: {why}"))
        }
        Err(error) => Some(format!("kafka.properties: {error}")),
    }
}

/// Whether a property's value must not be printed.
pub(super) fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "username", "sasl.oauthbearer.config"].iter().any(|part| name.contains(part))
}

use super::*;
use crate::units::Secret;

fn with(name: &str, value: &str) -> KafkaConfig {
    KafkaConfig { properties: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..KafkaConfig::default() }
}

/// Red when the map is applied before the typed settings, or not at all.
#[test]
fn the_map_overrides_what_is_free_to_choose() {
    let client = with("fetch.queue.backoff.ms", "11").consumer("g", Some("i")).unwrap();
    assert_eq!(client.get("fetch.queue.backoff.ms"), Some("11"));
    assert_eq!(client.get("group.instance.id"), Some("i"));
    assert_eq!(client.get("isolation.level"), Some("read_committed"));
}

/// Red when a row of `REFUSED` is dropped, or an unknown name is handed on unchecked.
#[test]
fn properties_that_guarantees_rest_on_are_refused_by_name() {
    for name in ["enable.auto.commit", "isolation.level", "acks", "group.id", "partitioner"] {
        let error = with(name, "true").producer().unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
    }
    let error = with("fetch.max.bites", "1").consumer("g", None).unwrap_err().to_string();
    assert!(error.contains("fetch.max.bites"), "{error}");
}

/// Red when such a property is no problem, or librdkafka's own error is printed, which quotes the value: a password whose name is
/// misspelt is no secret then.
#[test]
fn a_property_that_nobody_knows_is_refused_without_its_value() {
    let problems = with("sasl.pasword", "hunter2").problems().join("; ");
    assert!(problems.contains("`sasl.pasword`") && problems.contains("No such"), "{problems}");
    assert!(!problems.contains("hunter2"), "{problems}");
}

/// Red when a property is taken that a section says otherwise, or one is refused without the section, or that it does not have.
#[test]
fn a_property_of_a_section_is_refused_where_the_section_is() {
    let tls = || Some(KafkaTls::default());
    let login =
        || KafkaSasl { username: Some("u".to_owned()), password: Some(Secret::new("p")), ..KafkaSasl::default() };
    let problems =
        |name: &str, value: &str, tls, sasl| KafkaConfig { tls, sasl, ..with(name, value) }.problems().join("; ");
    for (name, value) in [("security.protocol", "ssl"), ("ssl.ca.location", "/ca"), ("ssl.key.password", "hunter2")] {
        let said = problems(name, value, tls(), None);
        assert!(said.contains(&format!("`{name}` cannot be set")) && said.contains("[kafka.tls]"), "{said}");
        assert_eq!(problems(name, value, None, None), "");
    }
    for (name, value) in [("security.protocol", "ssl"), ("sasl.password", "hunter2"), ("sasl.mechanisms", "PLAIN")] {
        let said = problems(name, value, None, Some(login()));
        assert!(said.contains(&format!("`{name}` cannot be set")) && said.contains("[kafka.sasl]"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert_eq!(problems(name, value, None, None), "");
    }
    assert_eq!(problems("ssl.cipher.suites", "DEFAULT", tls(), Some(login())), "");
    assert_eq!(problems("ssl.ca.location", "/ca", None, Some(login())), "");
}

/// Red when a consumer refuses an answer that holds the largest record, or a producer a record with all its headers.
#[test]
fn clients_take_the_largest_record_and_its_headers() {
    let config = KafkaConfig {
        max_record_bytes: 200_000_000,
        producer: ProducerConfig { queue_bytes: 300_000_000, ..ProducerConfig::default() },
        ..KafkaConfig::default()
    };
    let number = |client: &ClientSettings, name: &str| client.get(name).unwrap().parse::<u32>().unwrap();
    assert_eq!(number(&config.producer().unwrap(), "message.max.bytes"), 200_065_536);
    let consumer = config.consumer("g", None).unwrap();
    assert_eq!(number(&consumer, "fetch.max.bytes"), 200_065_536);
    assert!(number(&consumer, "receive.message.max.bytes") > 200_065_536 + 512);
    // librdkafka checks them against each other only here.
    consumer.native().create::<rdkafka::consumer::BaseConsumer>().unwrap();
    KafkaConfig::default().consumer("g", None).unwrap().native().create::<rdkafka::consumer::BaseConsumer>().unwrap();
}

/// Red when librdkafka refuses what a transaction's time makes of the other settings, the shortest time included; or when
/// one that is too short or too long is not said.
#[test]
fn transactions_of_every_length_can_be_made() {
    let with = |transaction_timeout| KafkaConfig {
        producer: ProducerConfig { transaction_timeout, ..ProducerConfig::default() },
        ..KafkaConfig::default()
    };
    for seconds in [1, 10, 900] {
        let client = with(Duration::from_secs(seconds)).transactional("id").unwrap();
        client.native().create::<rdkafka::producer::BaseProducer>().unwrap();
    }
    for seconds in [0, 901] {
        let problems = with(Duration::from_secs(seconds)).problems().join("; ");
        assert!(problems.contains("kafka.producer.transaction_timeout"), "{problems}");
    }
}

/// Red when a record can be larger than the queue that it must pass: it would wait for room for ever.
#[test]
fn the_largest_record_finds_room() {
    let config = KafkaConfig { max_record_bytes: 64 << 20, ..KafkaConfig::default() };
    let problems = config.problems();
    assert!(problems.len() == 1 && problems[0].contains("kafka.producer.queue_bytes"), "{problems:?}");
    let config = KafkaConfig { max_record_bytes: 500_000, ..KafkaConfig::default() };
    let problems = config.problems();
    assert!(problems.len() == 1 && problems[0].contains("message_max_bytes"), "{problems:?}");
}

/// Red when `is_secret` forgets a word.
#[test]
fn secrets_do_not_print() {
    for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.username"] {
        let text = format!("{:?}", with(name, "hunter2"));
        assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
    }
    assert!(format!("{:?}", with("debug", "cgrp")).contains("cgrp"));
}

/// Red when `deny_unknown_fields` or the duration format goes.
#[test]
fn reads_durations_and_refuses_unknown_keys() {
    let read = |text: &str| serde_json::from_str::<KafkaConfig>(text);
    let config = read(r#"{"bootstrap":"b:1","consumer":{"drain":"3s","assignor":"range"}}"#).unwrap();
    assert_eq!(config.consumer.drain, Duration::from_secs(3));
    assert_eq!(config.consumer.assignor, Assignor::Range);
    assert!(read(r#"{"bootstap":"b:1"}"#).unwrap_err().to_string().contains("bootstap"));
    assert!(read(r#"{"consumer":{"drain":"soon"}}"#).unwrap_err().to_string().contains("20s"));
}

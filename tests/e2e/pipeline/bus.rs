//! The bus: batches, wildcards, evolving schemas.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use headwater::{Any, Event, Headers, Payload, Pipeline, Result, matching, spi::Outgoing, with};
use headwater_connectors::{
    kafka::Producer,
    registry::{Registry, RegistryConfig},
    units::Secret,
};
use headwater_tests::{Engine, ForeignClient, Group, eventually, register};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::space;

const SOON: Duration = Duration::from_secs(20);

/// Red when one error fails the batch, an index is off, or the oversize record is dropped silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_oversize_record_of_a_thousand_is_named_and_the_others_arrive() {
    let space = space("batch").await;
    let topic = space.topic("batch");
    space.create_topics(&[&topic], 3).await;
    let record = |n: usize| Outgoing {
        topic: topic.as_str().into(),
        partition: None,
        key: Some(n.to_string().into_bytes()),
        value: Some(vec![b'x'; if n == 417 { 20_000_000 } else { 100 }]),
        headers: Headers::default(),
    };
    let records: Vec<Outgoing> = (0..1_000).map(record).collect();
    let producer = Producer::new(&space.kafka()).expect("a producer");
    let errors = producer.send(&records).await.expect_err("one is too large");
    let places: Vec<usize> = errors.0.iter().map(|error| error.index).collect();
    assert_eq!(places, [417]);
    let arrived: BTreeSet<_> =
        ForeignClient::new(&space).read(&topic).into_iter().filter_map(|seen| seen.key).collect();
    assert_eq!(arrived.len(), 999);
    assert!(!arrived.contains(&b"417"[..]));
    producer.close(Duration::from_secs(10)).await.expect("nothing is left");
}

/// Red when metadata is refreshed by librdkafka's default of five minutes, or a new topic is read from its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_of_a_new_topic_reaches_a_wildcard_within_ten_seconds() {
    async fn audit(seen: Arc<Mutex<Vec<String>>>, event: Event<Any>) -> Result<()> {
        seen.lock().unwrap().push(event.meta.event_type.clone());
        Ok(())
    }
    let space = space("wildcard").await;
    let database = space.migrate().await;
    // A member of a pattern joins once there is a topic to read.
    space.create_topics(&["events.olddomain"], 1).await;
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let audit = matching("*", with(seen.clone(), audit));
    let pipeline = Pipeline::default().on("audit", audit);
    let how = Group::of(&space);
    // What others write to `events.*` may be no event.
    how.make_topics(&space, &pipeline, 1, 1_048_588).await;
    let engine = Engine::start(&space, &database, &pipeline, &how);
    let joined = async || !engine.state("audit").troubles().join(" ").contains("joining");
    eventually("the subscriber has joined", SOON, joined).await;
    let topic = "events.newdomain";
    space.create_topics(&[topic], 1).await;
    let schema = r#"{"type":"record","name":"Born","namespace":"headwater.newdomain","fields":[]}"#;
    let id = register(&space, &format!("{topic}-value"), schema).await;
    let mut value = vec![0];
    value.extend(id.to_be_bytes());
    let (foreign, sent) = (ForeignClient::new(&space), Instant::now());
    foreign.send(topic, Some("k"), Some(&value), &[("ce_type", "newdomain.born")]);
    foreign.flush();
    let delivered = async || seen.lock().unwrap().iter().any(|name| name == "newdomain.born");
    eventually("the first event is delivered", Duration::from_secs(60), delivered).await;
    assert!(sent.elapsed() < Duration::from_secs(10));
    engine.stop().await;
}

macro_rules! version {
    ($name:ident { $($field:ident: $type:ty = $default:expr),* }, $fields:literal) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename = "UserChanged")]
        struct $name { $($field: $type),* }

        impl Payload for $name {
            const TYPE: &'static str = "user.changed";
            const SCHEMA: &'static str = concat!(
                r#"{"type":"record","name":"UserChanged","namespace":"headwater.user","fields":["#, $fields, "]}");

            fn key(&self) -> &str {
                &self.id
            }
        }

        impl $name {
            fn sample(id: &str) -> Self {
                Self { $($field: $default(id)),* }
            }
        }
    };
}

version!(
    V1 { id: String = str::to_owned, note: String = |_| "a note".to_owned() },
    r#"{"name":"id","type":"string"},{"name":"note","type":"string","default":""}"#
);
version!(
    V2 { id: String = str::to_owned, note: String = |_| "a note".to_owned(), channel: String = |_| "app".to_owned() },
    r#"{"name":"id","type":"string"},{"name":"note","type":"string","default":""},{"name":"channel","type":"string","default":"web"}"#
);
version!(
    V3 { id: String = str::to_owned, channel: String = |_| "app".to_owned() },
    r#"{"name":"id","type":"string"},{"name":"channel","type":"string","default":"web"}"#
);

type Bag<T> = Arc<Mutex<Vec<T>>>;

async fn collect<T: Payload>(bag: Bag<T>, data: T) -> Result<()> {
    bag.lock().unwrap().push(data);
    Ok(())
}

fn sorted<T: Clone + std::fmt::Debug>(bag: &Bag<T>) -> Vec<String> {
    let mut all: Vec<String> = bag.lock().unwrap().iter().map(|one| format!("{one:?}")).collect();
    all.sort();
    all
}

/// Red when a reader takes the writer's schema for its own, or a default is not filled in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processors_of_three_schema_versions_read_events_of_all_three() {
    let space = space("evolution").await;
    let database = space.migrate().await;
    space.create_topics(&["events.user"], 3).await;
    let subject = "events.user-headwater.user.UserChanged";
    let url = Secret::new(space.endpoints.schema_registry_url.as_str()).into();
    let config = RegistryConfig { url, ..RegistryConfig::default() };
    let registry = Registry::new(&config).expect("valid");
    registry.set_compatibility(subject, "FULL_TRANSITIVE").await.expect("set");
    let foreign = ForeignClient::new(&space);
    let send = async |id: &str, schema: &str, data: serde_json::Value| {
        let schema_id = registry.register(subject, schema).await.expect("a compatible schema");
        let encoder = headwater::spi::codec::Encoder::new(schema_id, schema).expect("valid");
        foreign.send("events.user", Some(id), Some(&encoder.encode(&data).expect("it fits")), &[]);
    };
    send("u1", V1::SCHEMA, serde_json::to_value(V1::sample("u1")).expect("json")).await;
    send("u2", V2::SCHEMA, serde_json::to_value(V2::sample("u2")).expect("json")).await;
    send("u3", V3::SCHEMA, serde_json::to_value(V3::sample("u3")).expect("json")).await;
    foreign.flush();
    for (wrong, field) in [
        (V3::SCHEMA.replace(r#","default":"web""#, "").replace("channel", "colour"), "colour"),
        (V3::SCHEMA.replace(r#"{"name":"id","type":"string"},"#, ""), "id"),
    ] {
        let refused = registry.register(subject, &wrong).await.expect_err("a field without a default").to_string();
        assert!(refused.contains(field), "the reason names {field}: {refused}");
    }

    let (v1, v2, v3) = (Bag::<V1>::default(), Bag::<V2>::default(), Bag::<V3>::default());
    let how = Group::of(&space);
    let engines = [
        Engine::start(
            &space.named("1"),
            &database,
            &Pipeline::default().on("v", with(v1.clone(), collect::<V1>)),
            &how,
        ),
        Engine::start(
            &space.named("2"),
            &database,
            &Pipeline::default().on("v", with(v2.clone(), collect::<V2>)),
            &how,
        ),
        Engine::start(
            &space.named("3"),
            &database,
            &Pipeline::default().on("v", with(v3.clone(), collect::<V3>)),
            &how,
        ),
    ];
    let all = async || v1.lock().unwrap().len() + v2.lock().unwrap().len() + v3.lock().unwrap().len() == 9;
    eventually("each has read all three", SOON, all).await;
    let of = |note: &str, id: &str| format!("V1 {{ id: {id:?}, note: {note:?} }}");
    assert_eq!(sorted(&v1), [of("a note", "u1"), of("a note", "u2"), of("", "u3")]);
    let of = |note: &str, id: &str, channel: &str| format!("V2 {{ id: {id:?}, note: {note:?}, channel: {channel:?} }}");
    assert_eq!(sorted(&v2), [of("a note", "u1", "web"), of("a note", "u2", "app"), of("", "u3", "app")]);
    let of = |id: &str, channel: &str| format!("V3 {{ id: {id:?}, channel: {channel:?} }}");
    assert_eq!(sorted(&v3), [of("u1", "web"), of("u2", "app"), of("u3", "app")]);
    for engine in engines {
        engine.stop().await;
    }
}

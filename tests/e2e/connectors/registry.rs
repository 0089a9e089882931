//! What the registry connector promises, of the registry that `dev` brings and of Apicurio: one suite, two servers.

use std::time::Duration;

use headwater::spi::{SchemaError, Schemas as _};
use headwater_connectors::{
    registry::{Registry, RegistryConfig},
    units::Secret,
};
use headwater_dev::{PostgresChoice, RegistryChoice};
use headwater_tests::{ForeignClient, Gate, Payments, Process, SharedStack, Space, apicurio, eventually};
use serde_json::json;

use crate::{PROGRAM, faults::outage::own_stack, shared};

const FULL: &str = "FULL_TRANSITIVE";
const X: &str = r#"{"name":"x","type":"long"}"#;
const Y: &str = r#"{"name":"y","type":"string","default":""}"#;
const Y_BARE: &str = r#"{"name":"y","type":"string"}"#;

/// Each promise, kept by each of the two registries.
macro_rules! kept_by_both {
    ($($promise:ident),+ $(,)?) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(&shared().endpoints.schema_registry_url).await;
            })+
            use crate::shared;
        }
        mod apicurio {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(&headwater_tests::apicurio(shared())).await;
            })+
            use crate::shared;
        }
    };
}

kept_by_both!(
    a_schema_is_found_by_its_id_and_by_its_text,
    an_incompatible_schema_is_refused_with_the_reason,
    a_subject_that_was_prepared_and_never_filled_is_unknown,
    what_is_unknown_is_not_an_outage,
    what_a_schema_refers_to_comes_with_it,
    an_outage_is_no_verdict_and_ends_by_itself,
);

fn at(url: &str) -> Registry {
    Registry::new(&RegistryConfig {
        url: Secret::new(url).into(),
        timeout: Duration::from_secs(20),
        ..RegistryConfig::default()
    })
    .expect("a valid address")
}

fn record(name: &str, fields: &[&str]) -> String {
    format!(r#"{{"type":"record","name":"{name}","namespace":"suite","fields":[{}]}}"#, fields.join(","))
}

#[track_caller]
fn unknown<T: std::fmt::Debug>(outcome: Result<T, SchemaError>) -> String {
    match outcome {
        Err(SchemaError::Unknown(why)) => why,
        other => panic!("not unknown: {other:?}"),
    }
}

/// Red when the same schema gets another id under another subject or at the second time, or one that is written otherwise is
/// not found (`normalize` left out of `find_normalised`, with Apicurio).
async fn a_schema_is_found_by_its_id_and_by_its_text(url: &str) {
    let (registry, schema) = (at(url), record("Found", &[X]));
    let id = registry.register("suite-found", &schema).await.expect("registered");
    assert_eq!(registry.register("suite-found", &schema).await, Ok(id));
    assert_eq!(registry.register("suite/found again", &schema).await, Ok(id));
    assert_eq!(registry.id_of("suite-found", &schema).await, Ok(id));
    assert_eq!(registry.id_of("suite/found again", &schema).await, Ok(id));
    assert_eq!(registry.id_of("suite-found", &schema.replace(',', ",\n  ")).await, Ok(id), "white space means nothing");
    let text = registry.by_id(id).await.expect("known");
    assert_eq!((text.schema, text.references), (schema, Vec::new()));

    let wider = registry.register("suite-found", &record("Found", &[X, Y])).await.expect("compatible");
    assert_ne!(wider, id);
    assert_eq!(registry.latest("suite-found").await, Ok(wider));
}

/// Red when the level is not in force before the first version, or is held against the last one alone.
async fn an_incompatible_schema_is_refused_with_the_reason(url: &str) {
    let registry = at(url);
    registry.set_compatibility("suite-full", FULL).await.expect("set before the first version");
    registry.register("suite-full", &record("Full", &[X])).await.expect("the first");
    let why = unknown(registry.register("suite-full", &record("Full", &[X, Y_BARE])).await);
    assert!(why.contains("suite-full") && why.contains('y'), "{why}");
    registry.set_compatibility("suite-full", FULL).await.expect("set again");
    registry.register("suite-full", &record("Full", &[X, Y])).await.expect("a field with a default");
    // Of the second version alone it would be a compatible one.
    let why = unknown(registry.register("suite-full", &record("Full", &[X, Y_BARE])).await);
    assert!(why.contains("suite-full") && why.contains('y'), "{why}");
    let why = unknown(registry.register("suite-full", "{").await);
    assert!(why.contains("suite-full"), "{why}");
}

/// A start that was cut short between level and schema goes on. Red when an answer without versions counts as an outage.
async fn a_subject_that_was_prepared_and_never_filled_is_unknown(url: &str) {
    let (registry, schema) = (at(url), record("Prepared", &[X]));
    registry.set_compatibility("suite-prepared", FULL).await.expect("set");
    unknown(registry.id_of("suite-prepared", &schema).await);
    unknown(registry.latest("suite-prepared").await);
    let id = registry.register("suite-prepared", &schema).await.expect("registered");
    assert_eq!(registry.id_of("suite-prepared", &schema).await, Ok(id));
}

/// Red when an unknown id, subject or schema is an outage, which would be asked for for ever.
async fn what_is_unknown_is_not_an_outage(url: &str) {
    let (registry, schema) = (at(url), record("Known", &[X]));
    registry.register("suite-known", &schema).await.expect("registered");
    let why = unknown(registry.by_id(1_999_999_999).await);
    assert!(why.contains("1999999999"), "{why}");
    unknown(registry.id_of("suite-nobody", &schema).await);
    unknown(registry.latest("suite-nobody").await);
    unknown(registry.id_of("suite-known", &record("Known", &[Y])).await);
}

/// Red when references are left out, come after what needs them, or come twice where two schemas need one.
async fn what_a_schema_refers_to_comes_with_it(url: &str) {
    let refer =
        |name: &str| json!({ "name": format!("suite.{name}"), "subject": format!("suite-{name}"), "version": 1 });
    let field = |name: &str, of: &str| format!(r#"{{"name":"{name}","type":"suite.{of}"}}"#);
    let point = record("Point", &[X]);
    let line = record("Line", &[&field("from", "Point"), &field("to", "Point")]);
    let shape = record("Shape", &[&field("edge", "Line"), &field("centre", "Point")]);
    let mut id = 0;
    for (name, schema, references) in [
        ("Point", &point, vec![]),
        ("Line", &line, vec![refer("Point")]),
        ("Shape", &shape, vec![refer("Line"), refer("Point")]),
    ] {
        let body = json!({ "schema": schema, "references": references });
        let request = reqwest::Client::new().post(format!("{url}/subjects/suite-{name}/versions")).json(&body);
        let request = request.header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer: serde_json::Value = request.send().await.expect("an answer").json().await.expect("json");
        id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or_else(|| panic!("{answer}"));
    }
    let text = at(url).by_id(id).await.expect("known");
    assert_eq!((text.schema, text.references), (shape, vec![point, line]));
}

/// Red when a failing registry, or another server in its place, says that something is unknown, or an answer of
/// the outage is remembered.
async fn an_outage_is_no_verdict_and_ends_by_itself(url: &str) {
    let schema = record("Outage", &[X]);
    let id = at(url).register("suite-outage", &schema).await.expect("registered");
    let (host, path) = url["http://".len()..].split_once('/').unwrap_or((&url["http://".len()..], ""));
    let gate = Gate::before(&format!("http://{host}")).await;
    let registry = at(&format!("{}/{path}", gate.url()));
    for answer in ["503 Service Unavailable", "500 Internal Server Error", "404 Not Found", "200 OK"] {
        gate.answer(Some(answer));
        let outage = |outcome: Result<u32, SchemaError>| {
            assert!(matches!(outcome, Err(SchemaError::Outage(_))), "{answer}: {outcome:?}");
        };
        outage(registry.by_id(id).await.map(|_| 0));
        outage(registry.id_of("suite-outage", &schema).await);
        outage(registry.latest("suite-outage").await);
        outage(registry.register("suite-outage", &schema).await);
    }
    gate.answer(None);
    assert_eq!(registry.by_id(id).await.expect("known").schema, schema);
    assert_eq!(registry.id_of("suite-outage", &schema).await, Ok(id));
}

/// Red when `topology apply` does not register with Apicurio, or its ids are read as another registry's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orders_pipeline_runs_with_apicurio() {
    let registry = apicurio(shared());
    // Ids of two registries must not meet on one topic of events.
    let stack = own_stack("apicurio", |config| {
        config.registry = RegistryChoice::At(registry.clone());
        config.postgres = PostgresChoice::At(shared().endpoints.database_url.clone());
    })
    .await;
    let at_own = SharedStack::at(stack.endpoints().clone(), shared().data.clone());
    let space = Space::new(&at_own, "apicurio").await;
    for left in [true, false] {
        let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.contains("register schema events.payment-headwater.payment.PaymentCompleted"), left, "{out}");
    }
    let id = at(&registry).latest("events.payment-headwater.payment.PaymentCompleted").await.expect("registered");
    let text = at(&registry).by_id(id).await.expect("known").schema;
    let payments = Payments::register_as(&space, "events.payment", &text).await;
    assert_eq!(payments.id(), id, "one schema, one id");
    let foreign = ForeignClient::new(&space);
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    foreign.send("events.payment", Some("ap-1"), Some(&payments.value("ap-1", 990, Some("a@example.org"))), &[]);
    foreign.flush();
    for table in ["orders", "receipts"] {
        let count = format!("select count(*) from {table} where order_id = 'ap-1'");
        eventually("its row is stored", Duration::from_mins(1), async || space.count(&count).await == 1).await;
    }
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

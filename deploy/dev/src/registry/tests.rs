use std::path::Path;

use futures_util::future::join_all;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::*;

struct Api {
    registry: Registry,
    http: Client,
}

impl Api {
    async fn on(data: &Path) -> Self {
        let registry = Registry::launch(data, &mut Ports::load(data)).await.unwrap();
        Self { registry, http: crate::http_server::tests::client() }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.registry.url()));
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/vnd.schemaregistry.v1+json");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, Value::Null).await
    }

    async fn register(&self, subject: &str, schema: &str) -> (u16, Value) {
        self.call(Method::POST, &format!("/subjects/{subject}/versions"), json!({ "schema": schema })).await
    }

    async fn level(&self, subject: &str, level: &str) {
        let (status, _) =
            self.call(Method::PUT, &format!("/config/{subject}"), json!({ "compatibility": level })).await;
        assert_eq!(status, 200);
    }
}

fn record(fields: &[&str]) -> String {
    format!(r#"{{"type":"record","name":"a.R","fields":[{}]}}"#, fields.join(","))
}

const X: &str = r#"{"name":"x","type":"long"}"#;
const Y: &str = r#"{"name":"y","type":"string","default":""}"#;
const Y_BARE: &str = r#"{"name":"y","type":"string"}"#;

/// Red when the file is written after the answer's map, not at all, or ids are counted anew at start.
#[tokio::test]
async fn ids_are_shared_by_subjects_and_kept_across_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    assert_eq!(api.register("s", &record(&[X])).await, (200, json!({ "id": 1 })));
    assert_eq!(api.register("s", &record(&[X, Y])).await, (200, json!({ "id": 2 })));
    assert_eq!(api.register("s", &record(&[X])).await, (200, json!({ "id": 1 })));
    assert_eq!(api.register("t", &record(&[X, Y])).await, (200, json!({ "id": 2 })));
    api.level("t", "FULL_TRANSITIVE").await;
    api.registry.stop().await;

    let api = Api::on(data.path()).await;
    assert_eq!(api.get("/schemas/ids/2").await, (200, json!({ "schema": record(&[X, Y]) })));
    assert_eq!(api.get("/subjects").await.1, json!(["s", "t"]));
    assert_eq!(api.get("/subjects/s/versions").await.1, json!([1, 2]));
    assert_eq!(api.get("/config/t").await.1, json!({ "compatibilityLevel": "FULL_TRANSITIVE" }));
    let places = json!([{ "subject": "s", "version": 2 }, { "subject": "t", "version": 1 }]);
    assert_eq!(api.get("/schemas/ids/2/versions").await.1, places);
    assert_eq!(api.register("u", &record(&[X])).await, (200, json!({ "id": 1 })));
    assert_eq!(api.register("v", r#""string""#).await, (200, json!({ "id": 3 })));
}

/// Red when only the last version is compared, or the reason does not say which field.
#[tokio::test]
async fn full_transitive_refuses_a_field_without_default_and_names_it() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    api.level("s", "FULL_TRANSITIVE").await;
    api.register("s", &record(&[X])).await;
    let (status, body) = api.register("s", &record(&[X, Y_BARE])).await;
    assert_eq!((status, &body["error_code"]), (409, &json!(409)));
    assert!(body["message"].as_str().unwrap().contains("field `y`"), "{body}");

    // With the last version alone this would pass: it has `y`.
    assert_eq!(api.register("s", &record(&[X, Y])).await.0, 200);
    let (status, body) = api.register("s", &record(&[X, Y_BARE])).await;
    assert_eq!(status, 409, "{body}");
    assert_eq!(api.get("/subjects/s/versions").await.1, json!([1, 2]));

    let ask = |level| {
        let body = json!({ "schema": record(&[X, Y_BARE]) });
        api.call(Method::POST, level, body)
    };
    let (_, body) = ask("/compatibility/subjects/s/versions/1?verbose=true").await;
    assert_eq!(body["is_compatible"], json!(false));
    assert!(body["messages"][0].as_str().unwrap().contains("field `y`"), "{body}");
    assert_eq!(ask("/compatibility/subjects/s/versions/latest").await.1, json!({ "is_compatible": true }));
}

/// Red when an unknown thing is a plain 404, or a lookup registers.
#[tokio::test]
async fn what_is_unknown_or_wrong_has_confluents_error_code() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    let post = |path: &'static str, body: Value| api.call(Method::POST, path, body);
    let code = |(status, body): (u16, Value)| (status, body["error_code"].as_u64().unwrap_or(0));
    let known = json!({ "schema": record(&[X]), "schemaType": "AVRO" });
    assert_eq!(code(post("/subjects/s", known.clone()).await), (404, 40401));
    api.register("s", &record(&[X])).await;
    let (status, found) = post("/subjects/s", known.clone()).await;
    let expected = json!({ "subject": "s", "version": 1, "id": 1, "schema": record(&[X]) });
    assert_eq!((status, &found), (200, &expected));
    assert_eq!(api.get("/subjects/s/versions/latest").await, (200, expected.clone()));
    assert_eq!(api.get("/subjects/s/versions/1").await, (200, expected));

    assert_eq!(code(post("/subjects/s", json!({ "schema": record(&[X, Y]) })).await), (404, 40403));
    assert_eq!(code(api.get("/subjects/s/versions/2").await), (404, 40402));
    assert_eq!(code(api.get("/subjects/s/versions/0").await), (422, 42202));
    assert_eq!(code(api.get("/subjects/no/versions").await), (404, 40401));
    assert_eq!(code(api.get("/schemas/ids/7").await), (404, 40403));
    assert_eq!(code(api.get("/schemas/ids/7/versions").await), (404, 40403));
    assert_eq!(code(api.register("s", "{").await), (422, 42201));
    let protobuf = json!({ "schema": "message M {}", "schemaType": "PROTOBUF" });
    assert_eq!(code(post("/subjects/s/versions", protobuf).await), (422, 42201));
    assert_eq!(code(api.get("/config/s").await), (404, 40408));
    assert_eq!(api.get("/config/s?defaultToGlobal=true").await.1, json!({ "compatibilityLevel": "BACKWARD" }));
    assert_eq!(code(api.call(Method::PUT, "/config", json!({ "compatibility": "SIDEWAYS" })).await), (422, 42203));
    assert_eq!(api.call(Method::PUT, "/config", json!({ "compatibility": "NONE" })).await.0, 200);
    assert_eq!(api.get("/config").await.1, json!({ "compatibilityLevel": "NONE" }));
    assert_eq!(api.get("/nowhere").await.0, 404);
}

/// Red when two changes work on copies of the same catalog (the lock dropped in `Store::change`).
#[tokio::test(flavor = "multi_thread")]
async fn registrations_at_once_lose_nothing() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    let (one, two) = (record(&[X]), record(&[X, Y]));
    let (api, one, two) = (&api, &one, &two);
    let bursts = (0..12).map(|i| async move {
        let same = api.register("same", if i % 2 == 0 { one } else { two }).await;
        let own = api.register(&format!("own{i}"), &format!(r#"{{"type":"fixed","name":"F","size":{}}}"#, i + 1)).await;
        (same, own)
    });
    let answers = join_all(bursts).await;
    assert!(answers.iter().all(|((a, _), (b, _))| (*a, *b) == (200, 200)), "{answers:?}");
    let mut ids: Vec<u64> = answers.iter().map(|(_, (_, own))| own["id"].as_u64().unwrap()).collect();
    ids.extend(answers.iter().map(|((_, same), _)| same["id"].as_u64().unwrap()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (1..=14).collect::<Vec<u64>>());
    assert_eq!(api.get("/subjects/same/versions").await.1, json!([1, 2]));
    let on_disk = Api::on(data.path()).await;
    assert_eq!(on_disk.get("/subjects").await.1.as_array().unwrap().len(), 13);
}

/// Red when references are not kept with the schema or not resolved for the comparison.
#[tokio::test]
async fn a_schema_may_use_a_type_of_another_subject() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    let point = r#"{"type":"record","name":"a.P","fields":[{"name":"v","type":"int"}]}"#;
    api.register("point", point).await;
    let user = |extra: &str| {
        let fields = format!(r#"{{"name":"p","type":"a.P"}}{extra}"#);
        json!({
            "schema": format!(r#"{{"type":"record","name":"a.U","fields":[{fields}]}}"#),
            "references": [{ "name": "a.P", "subject": "point", "version": 1 }],
        })
    };
    let path = "/subjects/user/versions";
    assert_eq!(api.call(Method::POST, path, user("")).await, (200, json!({ "id": 2 })));
    assert_eq!(api.get("/schemas/ids/2").await.1["references"][0]["subject"], json!("point"));
    assert_eq!(api.call(Method::POST, path, user(r#",{"name":"q","type":"a.P"}"#)).await.0, 409);
    let default = r#",{"name":"q","type":["null","a.P"],"default":null}"#;
    assert_eq!(api.call(Method::POST, path, user(default)).await, (200, json!({ "id": 3 })));
}

/// Red when `heal` forgets one of the two kinds, or a fault of one id hits another.
#[tokio::test]
async fn faults_are_503_until_healed() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    api.register("s", &record(&[X])).await;
    api.register("s", &record(&[X, Y])).await;
    api.registry.fail_ids([2]);
    assert_eq!(api.get("/schemas/ids/1").await.0, 200);
    assert_eq!(api.get("/schemas/ids/2").await.0, 503);
    api.registry.fail_all();
    assert_eq!(api.get("/subjects").await.0, StatusCode::SERVICE_UNAVAILABLE.as_u16());
    api.registry.heal();
    assert_eq!(api.get("/schemas/ids/2").await.0, 200);
}

/// Red when a damaged file counts as an empty one: ids would be given twice.
#[test]
fn a_damaged_file_is_not_begun_anew() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("registry.json");
    std::fs::write(&file, "{").unwrap();
    assert!(Store::open(&file).unwrap_err().to_string().contains("is damaged"));
}

/// Red when `order` is any text, aliases need be no list, a field need be no object, or a type may be defined twice with another
/// size; or one of those is refused that Java takes; or clients that write `null` for no references are refused.
#[tokio::test]
async fn a_schema_that_nobody_takes_is_refused_with_its_place() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    let twice = |size: u32| {
        format!(
            r#"{{"name":"x","type":{{"type":"fixed","name":"F","size":2}}}},{{"name":"y","type":{{"type":"fixed","name":"F","size":{size}}}}}"#
        )
    };
    for (schema, why) in [
        (record(&[r#"{"name":"x","type":"long","order":"sideways"}"#]), "field a.R.x: order \"sideways\""),
        (record(&[r#"{"name":"x","type":"long","aliases":"B"}"#]), "a.R.x: aliases \"B\""),
        (r#"{"type":"enum","name":"E","symbols":["A"],"aliases":"B"}"#.to_owned(), "E: aliases \"B\""),
        (record(&["7"]), "a field of a.R is no object"),
        (record(&[&twice(3)]), "type a.F is defined twice"),
    ] {
        let (status, body) = api.register("s", &schema).await;
        assert_eq!((status, &body["error_code"]), (422, &json!(42201)), "{schema}: {body}");
        assert!(body["message"].as_str().unwrap().contains(why), "{body}");
    }
    for fine in [r#"{"name":"x","type":"long","order":"ignore","aliases":["B"]}"#, X] {
        assert_eq!(api.register("t", &record(&[fine])).await.0, 200, "{fine}");
    }
    let none = json!({ "schema": record(&[X]), "references": null, "schemaType": null });
    assert_eq!(api.call(Method::POST, "/subjects/u/versions", none).await.0, 200);
}

/// Confluent's API. Red when there is no such route, a subject without versions is unknown to it, or it compares with the
/// last version alone where the level says all, or with all where it says the last.
#[tokio::test]
async fn a_schema_can_be_compared_with_all_that_its_level_asks_for() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::on(data.path()).await;
    let ask = async |fields: &[&str], verbose: &str| {
        let path = format!("/compatibility/subjects/s/versions{verbose}");
        api.call(Method::POST, &path, json!({ "schema": record(fields) })).await
    };
    assert_eq!(ask(&[X], "").await, (200, json!({ "is_compatible": true })));
    for fields in [&[X][..], &[X, Y]] {
        assert_eq!(api.register("s", &record(fields)).await.0, 200);
    }
    api.level("s", "FULL").await;
    assert_eq!(ask(&[X, Y_BARE], "").await, (200, json!({ "is_compatible": true })));
    api.level("s", "FULL_TRANSITIVE").await;
    let (status, body) = ask(&[X, Y_BARE], "?verbose=true").await;
    assert_eq!((status, &body["is_compatible"]), (200, &json!(false)));
    assert!(body["messages"][0].as_str().unwrap().contains("field `y`"), "{body}");
}

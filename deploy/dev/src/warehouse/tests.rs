use reqwest::Client;

use super::*;

struct Api {
    warehouse: Warehouse,
    http: Client,
}

impl Api {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let warehouse = Warehouse::launch(&mut Ports::load(data.path())).await.unwrap();
        Self { warehouse, http: crate::http_server::tests::client() }
    }

    async fn reserve(&self, key: &str, order: &str) -> (u16, Value) {
        let request = self.http.post(format!("{}/reservations", self.warehouse.url())).header("Idempotency-Key", key);
        let answer = request.json(&json!({ "order_id": order, "quantity": 1 })).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn faults(&self, faults: Value) -> u16 {
        let url = format!("{}/faults", self.warehouse.url());
        let request = if faults.is_null() { self.http.delete(url) } else { self.http.put(url).json(&faults) };
        request.send().await.unwrap().status().as_u16()
    }

    async fn list(&self) -> Vec<Value> {
        let answer = self.http.get(format!("{}/reservations", self.warehouse.url())).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

/// Red when the reservation depends on anything but the key, or failed calls are not counted.
#[tokio::test]
async fn a_key_has_one_reservation_however_often_it_is_asked_for() {
    let api = Api::new().await;
    let (status, first) = api.reserve("k1", "o1").await;
    assert_eq!(status, 201);
    assert_eq!(api.reserve("k1", "o1").await, (201, first.clone()));
    assert_ne!(api.reserve("k2", "o1").await.1, first);
    assert_eq!(api.faults(json!({ "status": 500 })).await, 204);
    assert_eq!(api.reserve("k1", "o1").await.0, 500);
    assert_eq!(api.reserve("k3", "o3").await.0, 500);
    let rows = api.list().await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    let row = rows.iter().find(|row| row["key"] == "k1").unwrap();
    assert_eq!(row, &json!({ "reservation": first["reservation"], "order_id": "o1", "key": "k1", "calls": 3 }));
}

/// Red when `order_id` is ignored, `first` counts all orders together, or `DELETE` leaves a fault.
#[tokio::test]
async fn faults_hit_the_first_calls_of_each_order_or_of_one() {
    let api = Api::new().await;
    api.faults(json!({ "first": 2 })).await;
    for order in ["o1", "o2"] {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(api.reserve(order, order).await.0);
        }
        assert_eq!(statuses, [503, 503, 201], "{order}");
    }
    api.faults(json!({ "status": 429, "order_id": "o3" })).await;
    assert_eq!((api.reserve("a", "o3").await.0, api.reserve("b", "o4").await.0), (429, 201));
    assert_eq!(api.faults(Value::Null).await, 204);
    assert_eq!(api.reserve("a", "o3").await.0, 201);
}

/// Red when the ratio is drawn by chance, or by the key.
#[tokio::test]
async fn a_ratio_hits_the_same_orders_every_time() {
    let api = Api::new().await;
    api.faults(json!({ "status": 503, "ratio": 0.5 })).await;
    let mut statuses = [Vec::new(), Vec::new()];
    for (round, statuses) in statuses.iter_mut().enumerate() {
        for order in 0..40 {
            statuses.push(api.reserve(&format!("{round}-{order}"), &order.to_string()).await.0);
        }
    }
    assert_eq!(statuses[0], statuses[1]);
    let failed = statuses[0].iter().filter(|status| **status == 503).count();
    assert!((8..=32).contains(&failed), "{failed} of 40");
    api.faults(json!({ "ratio": 0.0 })).await;
    assert_eq!(api.reserve("x", "1").await.0, 201);
}

/// Red when the reservation is made after the wait, so that a caller who gave up is not the cause of one.
#[tokio::test]
async fn a_late_answer_is_a_reservation_even_when_the_caller_gave_up() {
    let api = Api::new().await;
    api.faults(json!({ "delay_ms": 60_000 })).await;
    let early = tokio::time::timeout(Duration::from_millis(200), api.reserve("k", "o")).await;
    assert!(early.is_err());
    assert_eq!(api.list().await.len(), 1);
    api.faults(Value::Null).await;
    assert_eq!(api.reserve("k", "o").await.0, 201);
    assert_eq!(api.list().await[0]["calls"], 2);
}

/// Red when a missing key is taken for an empty one, or an unknown fault is ignored.
#[tokio::test]
async fn what_is_missing_or_wrong_is_400_and_says_what() {
    let api = Api::new().await;
    let url = format!("{}/reservations", api.warehouse.url());
    let bare = api.http.post(&url).json(&json!({ "order_id": "o" })).send().await.unwrap();
    assert_eq!(bare.status().as_u16(), 400);
    assert!(bare.text().await.unwrap().contains("Idempotency-Key"));
    let bodyless = api.http.post(&url).header("Idempotency-Key", "k").json(&json!({})).send().await.unwrap();
    assert_eq!(bodyless.status().as_u16(), 400);
    assert!(bodyless.text().await.unwrap().contains("order_id"));
    for wrong in
        [json!({ "ratio": 2 }), json!({ "status": 200 }), json!({ "colour": "red" }), json!({ "delay_ms": 1e12 })]
    {
        assert_eq!(api.faults(wrong.clone()).await, 400, "{wrong}");
    }
}

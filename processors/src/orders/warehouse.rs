//! The warehouse: where a paid order's goods are reserved.

use std::{fmt, sync::Arc, time::Duration};

use headwater::{
    Failure, OrReject, Result,
    http::{Http, Request, Response},
};
use headwater_schemas::PaymentCompleted;
use serde::{Deserialize, Serialize};

/// How long to wait when the warehouse says 429 without saying how long.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest and the longest wait that the warehouse may ask for: neither a busy loop nor a pause of days.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));
/// How much of a refusal's body is quoted, in characters.
const QUOTED: usize = 200;

/// A handle on the warehouse's HTTP interface; cloning it is cheap.
#[derive(Clone)]
pub struct Warehouse {
    http: Arc<dyn Http>,
    reservations: Arc<str>,
}

/// What a reservation is asked for with.
#[derive(Serialize)]
struct Order<'a> {
    order_id: &'a str,
    payment_id: &'a str,
    customer_id: &'a str,
}

/// What the warehouse answers.
#[derive(Deserialize)]
struct Reserved {
    reservation: String,
}

impl Warehouse {
    /// The warehouse at this base URL, `http://warehouse:8080`, with or without a slash at its end.
    pub fn new(http: Arc<dyn Http>, base_url: &str) -> Self {
        let reservations = format!("{}/reservations", base_url.trim_end_matches('/'));
        Self { http, reservations: reservations.into() }
    }

    /// Reserves the goods of a paid order and returns the reservation's name; the same key reserves once.
    ///
    /// # Errors
    /// No answer, a time-out and 5xx ask for a retry, as does an answer that is none of the interface's; 429 asks to wait
    /// as long as `Retry-After` says (100 ms to 5 minutes; 1 s when it says nothing); any other 4xx rejects.
    pub(crate) async fn reserve(&self, key: &str, payment: &PaymentCompleted) -> Result<String> {
        let order =
            Order { order_id: &payment.order_id, payment_id: &payment.payment_id, customer_id: &payment.customer_id };
        let request = Request {
            method: "POST",
            url: self.reservations.to_string(),
            headers: vec![("Idempotency-Key", header_value(key)?.to_owned())],
            body: serde_json::to_vec(&order).or_reject("the order is no JSON")?,
        };
        let answer = self.http.send(request).await?;
        match answer.status {
            200 | 201 => Ok(serde_json::from_slice::<Reserved>(&answer.body)?.reservation),
            429 => Err(Failure::Throttled(answer.retry_after.unwrap_or(PAUSE).clamp(PAUSES.0, PAUSES.1))),
            // The warehouse gave up waiting for our request: a time-out like any other.
            408 => Err(Failure::retry(said(&answer))),
            400..=499 => Err(Failure::reject(said(&answer))),
            _ => Err(Failure::retry(said(&answer))),
        }
    }
}

impl fmt::Debug for Warehouse {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warehouse").finish_non_exhaustive()
    }
}

/// Event ids are any text, headers are not: an id that would be refused or changed on its way can never be a key.
fn header_value(id: &str) -> Result<&str> {
    let fits = !id.is_empty() && id.trim() == id && id.bytes().all(|b| (b' '..=b'~').contains(&b));
    fits.then_some(id).or_reject("the event's id is no header value, so it cannot be the Idempotency-Key")
}

fn said(answer: &Response) -> String {
    let body: String = String::from_utf8_lossy(&answer.body).chars().take(QUOTED).collect();
    match body.trim() {
        "" => format!("the warehouse answered {}", answer.status),
        body => format!("the warehouse answered {}: {body}", answer.status),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Mutex, PoisonError};

    use headwater::{
        Category, Event, Headers, Meta, Origin, Payload, Priority, Time, TopicPartition, TraceContext, http::HttpError,
        spi::BoxFuture,
    };

    use super::*;

    type Answer = std::result::Result<Response, HttpError>;

    /// A warehouse that gives its answers in order, the last one again and again, and keeps what it was asked.
    pub(crate) struct Answers {
        answers: Vec<Answer>,
        asked: Mutex<Vec<Request>>,
    }

    impl Answers {
        pub(crate) fn with(status: u16, body: &str) -> Arc<Self> {
            Self::of(vec![answer(status, body)])
        }

        pub(crate) fn of(answers: Vec<Answer>) -> Arc<Self> {
            Arc::new(Self { answers, asked: Mutex::default() })
        }

        pub(crate) fn asked(&self) -> Vec<Request> {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Http for Answers {
        fn send(&self, request: Request) -> BoxFuture<'_, Answer> {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = self.answers.get(asked.len()).or(self.answers.last()).expect("an answer").clone();
            asked.push(request);
            Box::pin(std::future::ready(answer))
        }
    }

    pub(crate) fn answer(status: u16, body: &str) -> Answer {
        Ok(Response { status, retry_after: None, body: body.as_bytes().to_vec() })
    }

    pub(crate) fn payment() -> PaymentCompleted {
        PaymentCompleted {
            payment_id: "p1".to_owned(),
            order_id: "o1".to_owned(),
            customer_id: "c1".to_owned(),
            amount_cents: 1_250,
            currency: "EUR".to_owned(),
            email: Some("ann@example.org".to_owned()),
            completed_at: Time::from_millis(1_767_225_600_000),
        }
    }

    /// The payment, received under this id with this event time.
    pub(crate) fn event(id: &str, time: Time) -> Event<PaymentCompleted> {
        let meta = Meta {
            id: id.to_owned(),
            source: "kafka://events.payment".to_owned(),
            event_type: PaymentCompleted::TYPE.to_owned(),
            time,
            subject: None,
            aggregate_type: None,
            aggregate_version: None,
            category: Category::Domain,
            priority: Priority::Normal,
            data_version: None,
            correlation_id: id.to_owned(),
            causation_id: None,
            user_id: None,
            trace: TraceContext::derived("kafka://events.payment", id),
            attempt: 0,
            origin: Origin {
                partition: TopicPartition::new("events.payment", 0),
                offset: 7,
                timestamp_ms: time.millis(),
            },
            extra: Headers::default(),
        };
        Event { meta: Arc::new(meta), data: payment() }
    }

    async fn reserve(http: Arc<Answers>) -> Result<String> {
        Warehouse::new(http, "http://warehouse/").reserve("event-1", &payment()).await
    }

    /// What became of an answer with this status, which names a reservation whatever the status.
    async fn outcome(status: u16) -> &'static str {
        match reserve(Answers::with(status, r#"{"reservation": "r1"}"#)).await {
            Ok(_) => "done",
            Err(Failure::Retry(_)) => "retry",
            Err(Failure::Reject(_)) => "reject",
            Err(Failure::Throttled(_)) => "throttled",
        }
    }

    /// Red when the URL keeps the slash, the header has another name, or the body lacks the order.
    #[tokio::test]
    async fn a_reservation_is_one_post_under_the_events_id() {
        let http = Answers::with(201, r#"{"reservation": "r1", "shelf": 7}"#);
        assert_eq!(reserve(http.clone()).await.expect("a reservation"), "r1");
        let asked = http.asked();
        let [request] = &asked[..] else { panic!("asked {} times", asked.len()) };
        assert_eq!((request.method, request.url.as_str()), ("POST", "http://warehouse/reservations"));
        assert_eq!(request.headers, [("Idempotency-Key", "event-1".to_owned())]);
        let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body, serde_json::json!({"order_id": "o1", "payment_id": "p1", "customer_id": "c1"}));
    }

    /// Red when 5xx rejects, a 4xx is retried, 429 is one of them, or a redirect counts as done.
    #[tokio::test]
    async fn the_status_decides_what_becomes_of_the_payment() {
        for (status, wanted) in [
            (500, "retry"),
            (503, "retry"),
            (599, "retry"),
            (408, "retry"),
            (302, "retry"),
            (202, "retry"),
            (200, "done"),
            (201, "done"),
            (429, "throttled"),
            (400, "reject"),
            (404, "reject"),
            (409, "reject"),
            (499, "reject"),
        ] {
            assert_eq!(outcome(status).await, wanted, "{status}");
        }
    }

    /// Red when a body that names no reservation rejects, or passes as one.
    #[tokio::test]
    async fn an_answer_without_a_reservation_asks_for_a_retry() {
        for body in ["", "{}", "<html>", r#"{"reservation": 7}"#] {
            let outcome = reserve(Answers::with(201, body)).await;
            assert!(matches!(outcome, Err(Failure::Retry(_))), "{body}: {outcome:?}");
        }
    }

    /// Red when an error of the port rejects.
    #[tokio::test]
    async fn no_answer_asks_for_a_retry_and_says_why() {
        let http = Answers::of(vec![Err(HttpError("no answer within 10s".to_owned()))]);
        let Err(Failure::Retry(cause)) = reserve(http).await else { panic!("no retry") };
        assert_eq!(cause.to_string(), "no answer within 10s");
    }

    /// Red when `Retry-After` is not heeded, or not bounded.
    #[tokio::test]
    async fn a_throttled_call_waits_as_long_as_it_is_told_within_bounds() {
        let seconds = Duration::from_secs;
        for (told, wanted) in [
            (None, seconds(1)),
            (Some(seconds(7)), seconds(7)),
            (Some(seconds(0)), Duration::from_millis(100)),
            (Some(seconds(86_400)), seconds(300)),
        ] {
            let http = Answers::of(vec![Ok(Response { status: 429, retry_after: told, body: Vec::new() })]);
            let Err(Failure::Throttled(after)) = reserve(http).await else { panic!("not throttled") };
            assert_eq!(after, wanted, "told {told:?}");
        }
    }

    /// Red when an id with a line break or an umlaut is sent, or asks for a retry.
    #[tokio::test]
    async fn an_id_that_no_header_can_carry_is_rejected_before_it_is_sent() {
        for id in ["", "a\r\nX-Admin: 1", "zahlung-ü", " padded"] {
            let http = Answers::with(201, r#"{"reservation": "r1"}"#);
            let outcome = Warehouse::new(http.clone(), "http://warehouse").reserve(id, &payment()).await;
            assert!(matches!(outcome, Err(Failure::Reject(_))), "{id:?}: {outcome:?}");
            assert_eq!(http.asked(), [], "{id:?} was sent");
        }
    }

    /// Red when the body is left out or not cut.
    #[tokio::test]
    async fn a_refusal_quotes_the_beginning_of_what_was_said() {
        let Err(Failure::Reject(cause)) = reserve(Answers::with(400, &"no such order ".repeat(100))).await else {
            panic!("not rejected")
        };
        assert!(cause.message().starts_with("the warehouse answered 400: no such order no"), "{}", cause.message());
        assert!(cause.message().len() < 300, "{} bytes", cause.message().len());
    }

    /// Red when `Debug` is derived.
    #[test]
    fn a_password_in_the_address_is_not_printed() {
        let warehouse = Warehouse::new(Answers::with(201, ""), "http://me:secret@warehouse");
        assert!(!format!("{warehouse:?}").contains("secret"));
    }
}

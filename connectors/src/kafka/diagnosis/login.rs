//! Whether brokers take our login: a client of librdkafka's logs in, and what it is told is heard.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::{Diagnosis, reason};
use crate::kafka::{config::KafkaConfig, credentials, error::KafkaError, librdkafka::live_clients::ClientHandle, logs};

/// How long a login is tried: a user who has just been made, or a password, is not known to every broker at once.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one try may take.
const ROUND: Duration = Duration::from_millis(200);

/// Why brokers do not take the configured login; `None` where they take it, where there is none, and where nobody says so in time.
pub(super) fn refusal(config: &KafkaConfig) -> Option<Diagnosis> {
    config.sasl.as_ref()?;
    // A producer that sends nothing: it hears of its logins on a thread of its own.
    let client: ClientHandle<ThreadedProducer<LoginListener>> =
        credentials::create(&config.admin().ok()?, LoginListener::default()).ok()?;
    if let Err(problem) = credentials::await_login(config) {
        return Some(of_login(problem));
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // Asking is what makes it connect.
        if client.client().fetch_metadata(Some("__consumer_offsets"), ROUND).is_ok() {
            return None;
        }
    }
    let heard = client.context().heard()?;
    reason::refused_login(config, &heard)
}

/// Why there is nothing to log in with, where that comes from a token server.
pub(super) fn lacking(config: &KafkaConfig) -> Option<Diagnosis> {
    credentials::login_problem(&config.login()?).map(of_login)
}

fn of_login(problem: KafkaError) -> Diagnosis {
    match problem {
        KafkaError::Credentials(why) => Diagnosis::denial(why),
        other => Diagnosis::outage(other.to_string()),
    }
}

/// Hears what librdkafka says of a login.
#[derive(Default)]
struct LoginListener(Mutex<Option<String>>);

impl LoginListener {
    fn heard(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for LoginListener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Authentication) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for LoginListener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

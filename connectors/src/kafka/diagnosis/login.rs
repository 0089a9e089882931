//! Whether brokers take our login: a client of librdkafka's logs in, and what it is told is heard.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{finding::Finding, reason};
use crate::kafka::{config::KafkaConfig, credentials, error::KafkaError, librdkafka::live_clients::ClientHandle, logs};

/// How long a login may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it is listened at a time.
const ROUND: Duration = Duration::from_millis(100);

/// Why brokers do not take the configured login; `None` where they take it, where there is none, and where nobody says so in time.
pub(super) fn refusal(config: &KafkaConfig) -> Option<Finding> {
    config.sasl.as_ref()?;
    let settings = config.consumer("headwater-diagnosis", None).ok()?;
    // In no group: it neither subscribes nor assigns.
    let client: ClientHandle<BaseConsumer<LoginListener>> =
        credentials::create(&settings, LoginListener::default()).ok()?;
    if let Err(problem) = credentials::await_login(config) {
        return Some(of_login(problem));
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // Asking is what makes it connect.
        if client.fetch_metadata(Some("__consumer_offsets"), ROUND).is_ok() {
            return None;
        }
        // Whatever comes is an event: nothing is read.
        drop(client.poll(Duration::ZERO));
        if let Some(text) = client.context().heard() {
            return reason::refused_login(config, &text);
        }
    }
    None
}

/// Why there is nothing to log in with, where that comes from a token server.
pub(super) fn lacking(config: &KafkaConfig) -> Option<Finding> {
    credentials::login_problem(&config.login()?).map(of_login)
}

fn of_login(problem: KafkaError) -> Finding {
    match problem {
        KafkaError::Credentials(why) => Finding::denial(why),
        other => Finding::outage(other.to_string()),
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

impl ConsumerContext for LoginListener {}

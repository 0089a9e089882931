//! Why brokers cannot be talked to, in one sentence that names the broker, what is wrong and what to change.
//!
//! librdkafka has one text for several causes, and some it tells nobody. So a broker is asked: a connection, a TLS handshake as
//! it is configured, the first request of a login. It never knows who wants to know, nor what becomes of the answer.

mod conversation;
mod trust;

mod login;
mod reason;

pub(crate) mod rights;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use self::reason::refused_login;
use super::{config::KafkaConfig, error::KafkaError};

/// Brokers that are asked at most; each may take some seconds.
const BROKERS: usize = 3;
/// So long an answer holds for whoever asks.
const FRESH: Duration = Duration::from_secs(5);

/// What is wrong with the way to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    /// In one sentence.
    pub(crate) text: String,
    /// Whether only a person can mend it: a certificate, a login, or the kind of listener.
    pub(crate) is_denial: bool,
}

impl Diagnosis {
    fn denial(text: String) -> Self {
        Self { text, is_denial: true }
    }

    fn outage(text: String) -> Self {
        Self { text, is_denial: false }
    }

    /// The same as an error.
    pub(crate) fn into_error(self) -> KafkaError {
        if self.is_denial { KafkaError::Credentials(self.text) } else { KafkaError::Outage(self.text) }
    }
}

/// Asks the brokers why a client does not reach them; `reason` is what librdkafka says, if anything. `None` where nothing is found
/// to be wrong. Blocks for some seconds at most, as long as the resolver answers.
pub(crate) fn diagnose(config: &KafkaConfig, reason: &str) -> Option<Diagnosis> {
    if let Some(known) = refused_login(config, reason).or_else(|| login::lacking(config)) {
        return Some(known);
    }
    let named = reason::broker(reason);
    if let Some(broker) = named
        && let Err(problem) = conversation::open(config, broker)
        && problem.is_denial
    {
        return Some(problem);
    }
    let listed = config.bootstrap.split(',').map(str::trim).filter(|broker| !broker.is_empty());
    let mut problems = Vec::new();
    for broker in listed.take(BROKERS) {
        match conversation::open(config, broker) {
            // One broker is enough: whatever is wrong with another one keeps nobody out.
            Ok(()) => return login::refusal(config),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.iter().find(|problem| problem.is_denial) {
        Some(denial) => Some(denial.clone()),
        None if problems.is_empty() => None,
        None => {
            let texts: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
            Some(Diagnosis::outage(texts.join("; ")))
        }
    }
}

/// Diagnoses of one cluster, for many that want to know at once.
pub(crate) struct Diagnoses {
    config: Arc<KafkaConfig>,
    last: Mutex<Option<(Instant, Option<Diagnosis>)>>,
}

impl Diagnoses {
    /// Of the cluster that is reached so.
    pub(crate) fn new(config: Arc<KafkaConfig>) -> Self {
        Self { config, last: Mutex::new(None) }
    }

    /// What is wrong now, or was a moment ago. Blocks as [`diagnose`] does.
    pub(crate) fn now(&self) -> Option<Diagnosis> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, found)) if at.elapsed() < FRESH => found.clone(),
            _ => {
                let found = diagnose(&self.config, "");
                *last = Some((Instant::now(), found.clone()));
                found
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Why brokers cannot be talked to, in one sentence that names the broker, what is wrong and what to change.
//!
//! librdkafka has one text for several causes, and some it tells nobody. So a broker is asked: a connection, a TLS handshake as
//! it is configured, the first request of a login. It never knows who wants to know, nor what becomes of the answer.

mod conversation;
pub(crate) mod finding;
mod trust;

mod login;
mod reason;

pub(crate) mod rights;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use self::finding::Finding;
pub(crate) use self::reason::refused_login;
use super::{config::KafkaConfig, error::KafkaError};

/// Brokers that are asked at most; each may take some seconds.
const BROKERS: usize = 3;
/// A question to brokers that is not answered for so long may have no answer, for a reason that they tell.
const SLOW: Duration = Duration::from_secs(1);
/// So long an answer holds for whoever asks.
const FRESH: Duration = Duration::from_secs(5);

/// Asks the brokers why a client does not reach them; `reason` is what librdkafka says, if anything. `None` where nothing is found
/// to be wrong. Blocks for some seconds at most, as long as the resolver answers.
pub(crate) fn diagnose(config: &KafkaConfig, reason: &str) -> Option<Finding> {
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
            Some(Finding::outage(texts.join("; ")))
        }
    }
}

/// When brokers were asked last, and what was found.
type Answer = (Instant, Option<Finding>);

/// Diagnoses of one cluster, for many that want to know at once.
#[derive(Clone)]
pub(crate) struct Diagnoses {
    config: Arc<KafkaConfig>,
    last: Arc<Mutex<Option<Answer>>>,
}

impl Diagnoses {
    /// Of the cluster that is reached so.
    pub(crate) fn new(config: Arc<KafkaConfig>) -> Self {
        Self { config, last: Arc::default() }
    }

    /// Resolves once only a person can bring about the answer that somebody waits for.
    pub(crate) async fn denial(&self) -> Finding {
        loop {
            tokio::time::sleep(SLOW).await;
            if let Some(found) = self.find().await.filter(|found| found.is_denial) {
                return found;
            }
        }
    }

    /// An outage with its cause, or what is none.
    pub(crate) async fn explained(&self, why: &str) -> KafkaError {
        match self.find().await {
            Some(denial) if denial.is_denial => denial.into_error(),
            Some(found) if why.contains(&found.text) => KafkaError::Outage(why.to_owned()),
            Some(found) => KafkaError::Outage(format!("{why} ({})", found.text)),
            None => KafkaError::Outage(format!("{why} ({})", self.config.bootstrap)),
        }
    }

    async fn find(&self) -> Option<Finding> {
        let diagnoses = self.clone();
        tokio::task::spawn_blocking(move || diagnoses.now()).await.ok().flatten()
    }

    /// What is wrong now, or was a moment ago. Blocks as [`diagnose`] does.
    fn now(&self) -> Option<Finding> {
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

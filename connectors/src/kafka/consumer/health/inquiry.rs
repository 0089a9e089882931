//! Why brokers do not answer, found out on a thread of its own: the polling thread waits for nobody.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use crate::kafka::{
    config::KafkaConfig,
    diagnosis::{Diagnosis, diagnose},
};

/// As long as an outage lasts it is not asked more often: what is wrong may change.
const PAUSE: Duration = Duration::from_secs(30);

/// What was found, and what librdkafka had said.
type Answer = (Option<Diagnosis>, String);

/// At most one inquiry at a time.
pub(super) struct Inquiry {
    kafka: Arc<KafkaConfig>,
    answer: Option<Receiver<Answer>>,
    not_before: Option<Instant>,
}

impl Inquiry {
    pub(super) fn new(kafka: Arc<KafkaConfig>) -> Self {
        Self { kafka, answer: None, not_before: None }
    }

    /// Begins one, unless one is under way, or was a while ago in the same outage.
    pub(super) fn begin(&mut self, reason: &str, now: Instant) {
        if self.answer.is_some() || self.not_before.is_some_and(|not_before| now < not_before) {
            return;
        }
        self.not_before = Some(now + PAUSE);
        let (found, answer) = mpsc::sync_channel(1);
        self.answer = Some(answer);
        let (kafka, reason) = (Arc::clone(&self.kafka), reason.to_owned());
        let ask = move || {
            let diagnosis = diagnose(&kafka, &reason);
            // Nobody may wait for it any more.
            let _ = found.send((diagnosis, reason));
        };
        // Without a thread there is no answer, and the next time another try.
        if std::thread::Builder::new().name("kafka-diagnosis".to_owned()).spawn(ask).is_err() {
            self.drop_it();
        }
    }

    /// What was found, once.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        let answer = self.answer.as_ref()?.try_recv().ok()?;
        self.answer = None;
        Some(answer)
    }

    /// Brokers answer: the next outage is another one.
    pub(super) fn drop_it(&mut self) {
        (self.answer, self.not_before) = (None, None);
    }
}

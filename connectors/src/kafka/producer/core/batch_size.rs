//! How many bytes travel together, learned from brokers that refuse a batch.
//!
//! A broker refuses a batch as a whole when it is larger than its topic takes, and does not say for which record. So the next
//! batches have half as many bytes, until what is refused stands alone. That is learned once, for as long as the producer is
//! used, and after a few tries: from the largest setting to one byte it is halved thirty times at most.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::produce_error::ProduceError;
use crate::kafka::config::client_settings::ClientSettings;
use headwater::spi::Outgoing;

/// Bytes of one batch at most, beside one record.
#[derive(Debug)]
pub(crate) struct BatchBytes(AtomicU32);

impl BatchBytes {
    pub(crate) const fn new(configured: u32) -> Self {
        Self(AtomicU32::new(configured))
    }

    /// These settings with what is known now.
    pub(crate) fn applied(&self, settings: &ClientSettings) -> ClientSettings {
        let mut settings = settings.clone();
        settings.set("batch.size", self.0.load(Ordering::Relaxed).to_string());
        settings
    }

    /// Whether a smaller batch may help some of the records that were refused as too large: then the next ones are.
    pub(crate) fn narrow<'a>(&self, errors: &[(usize, ProduceError)], record: impl Fn(usize) -> &'a Outgoing) -> bool {
        let bytes = self.0.load(Ordering::Relaxed);
        let refused = || errors.iter().filter(|(_, error)| error.is_too_large()).map(|(index, _)| *index);
        let beside = |index: &usize| !is_alone(record(*index), bytes);
        let Some(first) = refused().find(beside).filter(|_| refused().count() > 1) else { return false };
        self.0.store((bytes / 2).max(1), Ordering::Relaxed);
        let topic: Arc<str> = Arc::clone(&record(first).topic);
        tracing::warn!(%topic, batch_bytes = (bytes / 2).max(1), "a batch was too large for its topic, and batches are smaller from now on: lower kafka.producer.batch_bytes below the topic's max.message.bytes");
        true
    }

    /// Whether a record travels in a batch of its own.
    pub(crate) fn is_alone(&self, record: &Outgoing) -> bool {
        is_alone(record, self.0.load(Ordering::Relaxed))
    }
}

fn is_alone(record: &Outgoing, bytes: u32) -> bool {
    bytes <= 1 || record.size() >= usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use headwater::Headers;
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn record(size: usize) -> Outgoing {
        Outgoing {
            topic: "t".into(),
            partition: None,
            key: None,
            value: Some(vec![0; size]),
            headers: Headers::default(),
        }
    }

    /// Red when batches shrink for a record that was refused alone, do not while one of several may pass, or for ever.
    #[test]
    fn batches_shrink_until_what_is_refused_stands_alone() {
        let refused = |indices: &[usize]| -> Vec<(usize, ProduceError)> {
            indices.iter().map(|index| (*index, ProduceError::of(Code::MessageSizeTooLarge))).collect()
        };
        let records = [record(400), record(10), record(500)];
        let bytes = BatchBytes::new(1_000);
        let narrow = |indices: &[usize]| bytes.narrow(&refused(indices), |index| &records[index]);
        assert!(!narrow(&[1]), "there was no other");
        assert!(narrow(&[0, 2]));
        assert!(narrow(&[0, 2]), "500 bytes stood beside nobody, 400 may have");
        assert!(!narrow(&[0, 2]) && bytes.is_alone(&records[0]) && !bytes.is_alone(&records[1]));
        assert!((0..30).any(|_| !narrow(&[0, 1, 2])), "it comes to an end");
        assert!(
            !bytes.narrow(&[(0, ProduceError::Oversize), (1, ProduceError::Oversize)], |index| &records[index]),
            "not sent at all"
        );
    }
}

//! What is found to be wrong.

use crate::kafka::error::KafkaError;

/// What is wrong with the way to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// In one sentence.
    pub(crate) text: String,
    /// Whether only a person can mend it: a certificate, a login, or the kind of listener.
    pub(crate) is_denial: bool,
}

impl Finding {
    pub(super) fn denial(text: String) -> Self {
        Self { text, is_denial: true }
    }

    pub(super) fn outage(text: String) -> Self {
        Self { text, is_denial: false }
    }

    /// The same as an error.
    pub(crate) fn into_error(self) -> KafkaError {
        if self.is_denial { KafkaError::Credentials(self.text) } else { KafkaError::Outage(self.text) }
    }
}

//! What goes wrong with Kafka, told apart by what helps: a person, or time.

use headwater::spi::CommitError;

/// What goes wrong when a client is built or the cluster is asked something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// The configuration cannot work; another try changes nothing.
    #[error("{0}")]
    Config(String),
    /// The cluster does not answer, or not properly; it may later.
    #[error("{0}")]
    Outage(String),
    /// The cluster does not let us in, or we do not trust it: a certificate, a login or the kind of listener is wrong. At the start
    /// of a process only a person can mend that; later it is an outage, since it worked before.
    #[error("{0}")]
    Credentials(String),
    /// The cluster answered, and refuses.
    #[error("{0}")]
    Refused(String),
}

impl From<KafkaError> for CommitError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::Outage(why) | KafkaError::Credentials(why) => Self::Outage(why),
            other => Self::Fatal(other.to_string()),
        }
    }
}

//! The ways to be let in by Kafka.

use headwater_connectors::kafka::SaslMechanism;

/// A way to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaLogin {
    /// SASL_SSL with a password that is never sent.
    ScramSha512,
    /// The same with another hash.
    ScramSha256,
    /// SASL_SSL with the password as it is.
    Plain,
    /// SASL_SSL with a token of [`SecuredStack::tokens`](super::SecuredStack::tokens).
    OauthBearer,
    /// SSL with the client certificate.
    Certificate,
}

impl KafkaLogin {
    /// Every way there is.
    pub const ALL: [Self; 5] =
        [Self::ScramSha512, Self::ScramSha256, Self::Plain, Self::OauthBearer, Self::Certificate];

    /// The mechanism and its name; none where the certificate is enough.
    pub(super) fn mechanism(self) -> Option<(SaslMechanism, &'static str)> {
        match self {
            Self::ScramSha512 => Some((SaslMechanism::ScramSha512, "SCRAM-SHA-512")),
            Self::ScramSha256 => Some((SaslMechanism::ScramSha256, "SCRAM-SHA-256")),
            Self::Plain => Some((SaslMechanism::Plain, "PLAIN")),
            Self::OauthBearer => Some((SaslMechanism::OauthBearer, "OAUTHBEARER")),
            Self::Certificate => None,
        }
    }
}

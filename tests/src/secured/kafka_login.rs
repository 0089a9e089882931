//! The ways to be let in by Kafka, as settings.

use std::{path::Path, time::Duration};

use headwater_connectors::kafka::{KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism};

use super::{SecuredStack, USER};

/// A way to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaLogin {
    /// SASL_SSL with a password that is never sent.
    ScramSha512,
    /// The same with another hash.
    ScramSha256,
    /// SASL_SSL with the password as it is.
    Plain,
    /// SASL_SSL with a token of [`SecuredStack::tokens`].
    OauthBearer,
    /// SSL with the client certificate.
    Certificate,
}

impl KafkaLogin {
    /// Every way there is.
    pub const ALL: [Self; 5] =
        [Self::ScramSha512, Self::ScramSha256, Self::Plain, Self::OauthBearer, Self::Certificate];

    fn mechanism(self) -> Option<(SaslMechanism, &'static str)> {
        match self {
            Self::ScramSha512 => Some((SaslMechanism::ScramSha512, "SCRAM-SHA-512")),
            Self::ScramSha256 => Some((SaslMechanism::ScramSha256, "SCRAM-SHA-256")),
            Self::Plain => Some((SaslMechanism::Plain, "PLAIN")),
            Self::OauthBearer => Some((SaslMechanism::OauthBearer, "OAUTHBEARER")),
            Self::Certificate => None,
        }
    }
}

impl SecuredStack {
    /// `host:port` of Kafka's listener for this way.
    pub fn kafka_bootstrap(&self, login: KafkaLogin) -> &str {
        if login == KafkaLogin::Certificate { &self.kafka.tls } else { &self.kafka.sasl }
    }

    /// How connectors reach Kafka that way, with rights to do everything; a member is given up after a few seconds. What a
    /// test changes in it is its own.
    pub fn kafka(&self, login: KafkaLogin) -> KafkaConfig {
        let certificate = (login == KafkaLogin::Certificate).then(|| self.client.clone());
        let tls = KafkaTls {
            ca: Some(self.authority.file().to_owned()),
            cert: certificate.as_ref().map(|one| one.cert.clone()),
            key: certificate.map(|one| one.key),
            ..KafkaTls::default()
        };
        let mut config = KafkaConfig {
            bootstrap: self.kafka_bootstrap(login).to_owned(),
            tls: Some(tls),
            sasl: login.mechanism().map(|(mechanism, _)| self.sasl(mechanism)),
            ..KafkaConfig::default()
        };
        config.consumer.session_timeout = Duration::from_secs(3);
        config
    }

    fn sasl(&self, mechanism: SaslMechanism) -> KafkaSasl {
        let by_token = mechanism == SaslMechanism::OauthBearer;
        let file = self.password_file.clone();
        KafkaSasl {
            mechanism,
            username: (!by_token).then(|| USER.to_owned()),
            password: None,
            password_file: (!by_token).then(|| file.clone()),
            token_url: by_token.then(|| self.tokens.url().to_owned()),
            client_id: by_token.then(|| USER.to_owned()),
            client_secret_file: by_token.then_some(file),
            scope: None,
            extensions: Default::default(),
        }
    }

    /// The variables that have a process reach Kafka that way, to be set after those of a [`Space`](crate::Space).
    pub fn kafka_env(&self, login: KafkaLogin) -> Vec<(String, String)> {
        let path = |file: &Path| file.display().to_string();
        let mut set =
            vec![("BOOTSTRAP", self.kafka_bootstrap(login).to_owned()), ("TLS__CA", path(self.authority.file()))];
        match (login, login.mechanism()) {
            (KafkaLogin::OauthBearer, Some((_, name))) => set.extend([
                ("SASL__MECHANISM", name.to_owned()),
                ("SASL__TOKEN_URL", self.tokens.url().to_owned()),
                ("SASL__CLIENT_ID", USER.to_owned()),
                ("SASL__CLIENT_SECRET_FILE", path(&self.password_file)),
            ]),
            (_, Some((_, name))) => set.extend([
                ("SASL__MECHANISM", name.to_owned()),
                ("SASL__USERNAME", USER.to_owned()),
                ("SASL__PASSWORD_FILE", path(&self.password_file)),
            ]),
            (_, None) => {
                set.extend([("TLS__CERT", path(&self.client.cert)), ("TLS__KEY", path(&self.client.key))]);
            }
        }
        set.into_iter().map(|(name, value)| (format!("HEADWATER__KAFKA__{name}"), value)).collect()
    }
}

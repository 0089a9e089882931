//! The settings of one client as librdkafka has them, and the login that is kept up to date while it lives.

use std::path::PathBuf;

use rdkafka::ClientConfig;

use super::security::KafkaSasl;

/// A login that may change while clients live: its password is in a file, or it is a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoginSettings {
    pub(crate) sasl: KafkaSasl,
    /// The authorities that the token server's certificate is checked by; the system's without.
    pub(crate) ca: Option<PathBuf>,
}

/// The settings of one client.
#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    native: ClientConfig,
    login: Option<LoginSettings>,
}

impl ClientSettings {
    pub(crate) fn new(native: ClientConfig, login: Option<LoginSettings>) -> Self {
        Self { native, login }
    }

    /// Sets a property of librdkafka.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.native.set(name, value);
        self
    }

    /// A property of librdkafka, where it is set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.native.get(name)
    }

    /// All properties of librdkafka.
    pub(crate) fn native(&self) -> &ClientConfig {
        &self.native
    }

    /// The login, where it may change.
    pub(crate) fn login(&self) -> Option<&LoginSettings> {
        self.login.as_ref()
    }
}

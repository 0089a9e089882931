//! What the registry does instead of answering, in words that name the address and never a password.

use headwater::spi::SchemaError;
use reqwest::StatusCode;
use schema_registry_converter::schema_registry_common::RawError;

use super::config::{Address, RegistryLogin};
use crate::{
    http::with_causes,
    security::tls::handshake::{is_denial, problem, tls_error},
};

/// Why one address gave nothing.
#[derive(Debug)]
pub(super) enum FailureCause {
    /// It answers with this status, and what it says of it.
    Status(StatusCode, Option<RawError>),
    /// One of us does not trust the other.
    Handshake(String),
    /// It cannot be reached, or does not answer in time.
    Connection(String),
    /// It answers something else than a registry does.
    Unreadable(String),
}

impl FailureCause {
    /// Of a request to this host that came to nothing.
    pub(super) fn of_request(error: &reqwest::Error, host: &str) -> Self {
        match tls_error(error) {
            Some(tls) if is_denial(tls) => Self::Handshake(problem(tls, host)),
            Some(tls) => Self::Connection(problem(tls, host)),
            None => Self::Connection(with_causes(error)),
        }
    }

    /// Whether it answers, be it unwillingly: another address would not do better.
    fn is_answer(&self) -> bool {
        match self {
            Self::Status(status, _) => !status.is_server_error(),
            Self::Unreadable(_) => true,
            Self::Handshake(_) | Self::Connection(_) => false,
        }
    }

    /// Whether it does not let us in, or one of us does not trust the other. Who may not do one thing may do others.
    fn is_denial(&self) -> bool {
        matches!(self, Self::Handshake(_) | Self::Status(StatusCode::UNAUTHORIZED, _))
    }

    fn words(&self, login: &RegistryLogin) -> String {
        match self {
            Self::Status(StatusCode::UNAUTHORIZED, _) => refused(login),
            Self::Status(StatusCode::FORBIDDEN, said) => forbidden(login, said.as_ref()),
            Self::Status(status, Some(said)) => format!("it answers {status}: {}", said.message),
            Self::Status(status, None) => format!("it answers {status}"),
            Self::Handshake(why) | Self::Connection(why) => why.clone(),
            Self::Unreadable(why) => format!("it answers something that no registry does: {why}"),
        }
    }
}

fn refused(login: &RegistryLogin) -> String {
    match login {
        RegistryLogin::None => {
            "it wants a login: set registry.user and registry.password_file, or registry.token_file".to_owned()
        }
        RegistryLogin::Basic(user, _) => {
            format!("it does not accept user \"{user}\": check registry.user and its password")
        }
        RegistryLogin::Bearer(_) => "it does not accept the token: check registry.token_file".to_owned(),
    }
}

fn forbidden(login: &RegistryLogin, said: Option<&RawError>) -> String {
    let who = match login {
        RegistryLogin::None => "us without a login".to_owned(),
        RegistryLogin::Basic(user, _) => format!("user \"{user}\""),
        RegistryLogin::Bearer(_) => "the token".to_owned(),
    };
    let said = said.map(|said| format!(" ({})", said.message)).unwrap_or_default();
    format!("it does not accept {who} for this{said}: grant it there")
}

/// Why nobody can ask the registry anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It does not let us in, or one of us does not trust the other.
    #[error("{0}")]
    Credentials(String),
    /// It does not answer.
    #[error("{0}")]
    Outage(String),
}

/// Why there is no answer, or another one than was asked for.
#[derive(Debug)]
pub(super) struct CallFailure {
    /// With what it answers, where that is about what it was asked.
    status: Option<StatusCode>,
    /// What it says of it.
    said: Option<RawError>,
    denial: bool,
    answered: bool,
    sentence: String,
}

impl CallFailure {
    /// Of this address; `over` says which proxy was in between.
    pub(super) fn at(address: &Address, cause: FailureCause, over: &str) -> Self {
        let sentence = format!("schema registry {}: {}{over}", address.base(), cause.words(&address.login));
        let (denial, answered) = (cause.is_denial(), cause.is_answer());
        let (status, said) = match cause {
            // That is about us, not about what was asked.
            FailureCause::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => (None, None),
            FailureCause::Status(status, said) => (Some(status), said),
            _ => (None, None),
        };
        Self { status, said, denial, answered, sentence }
    }

    /// Of all addresses, none of which answered.
    pub(super) fn of_all(failures: Vec<Self>) -> Self {
        let denial = !failures.is_empty() && failures.iter().all(|failure| failure.denial);
        let sentences: Vec<String> = failures.into_iter().map(|failure| failure.sentence).collect();
        Self { status: None, said: None, denial, answered: false, sentence: sentences.join("; ") }
    }

    /// Whether the registry has answered: no other address is asked.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    /// With what the registry answers what it was asked, where it does.
    pub(super) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// What it says of it.
    pub(super) fn said(&self) -> Option<&RawError> {
        self.said.as_ref()
    }

    /// Whether the registry has let us in, whatever else it says.
    pub(super) fn admission(self) -> Result<(), RegistryError> {
        match self {
            Self { denial: true, sentence, .. } => Err(RegistryError::Credentials(sentence)),
            Self { answered: true, .. } => Ok(()),
            Self { sentence, .. } => Err(RegistryError::Outage(sentence)),
        }
    }

    /// An outage, met when this was asked for.
    pub(super) fn outage(self, what: &str) -> SchemaError {
        SchemaError::Outage(format!("{} ({what})", self.sentence))
    }
}

//! Where a login comes from: a password file or a token server, and when it is looked at again.

use std::{
    ffi::CString,
    time::{Duration, Instant},
};

use headwater::spi::Backoff;
use tokio::runtime::{Builder, Runtime};

use super::token::{self, Token};
use crate::{
    kafka::{
        config::{client_settings::LoginSettings, security::SaslMechanism},
        error::KafkaError,
        librdkafka::live_clients::ClientLogin,
    },
    watched_files::{LOOK, WatchedFiles},
};

/// What clients log in with from now on.
pub(super) struct LoginChange {
    pub(super) login: ClientLogin,
    /// Why that is nothing.
    pub(super) problem: Option<KafkaError>,
}

/// Where a login comes from.
pub(super) enum LoginSource {
    /// A file with a password.
    Password(PasswordFile),
    /// A server that gives tokens.
    Token(TokenServer),
}

impl LoginSource {
    pub(super) fn new(settings: LoginSettings) -> Self {
        if settings.sasl.mechanism == SaslMechanism::OauthBearer {
            return Self::Token(TokenServer::new(settings));
        }
        Self::Password(PasswordFile::new(settings))
    }

    /// Looks whether there is another login, if it is time to. Blocks, as long as a request may take.
    pub(super) fn refresh(&mut self) -> Option<LoginChange> {
        match self {
            Self::Password(file) => file.refresh(),
            Self::Token(server) => server.refresh(),
        }
    }

    /// How long until it is time again.
    pub(super) fn pause(&self) -> Duration {
        match self {
            Self::Password(_) => LOOK,
            Self::Token(server) => server.due.saturating_duration_since(Instant::now()).min(LOOK),
        }
    }
}

/// A file with a password.
pub(super) struct PasswordFile {
    settings: LoginSettings,
    watched: WatchedFiles,
    /// Whether it was said that it cannot be read.
    is_said: bool,
}

impl PasswordFile {
    fn new(settings: LoginSettings) -> Self {
        let watched = WatchedFiles::new(settings.sasl.password_file.clone());
        Self { settings, watched, is_said: false }
    }

    fn refresh(&mut self) -> Option<LoginChange> {
        let change = self.watched.changed()?;
        match password(&self.settings) {
            Ok(login) => {
                self.watched.take(change);
                self.is_said = false;
                tracing::info!("the password of kafka has changed: new connections log in with it");
                Some(LoginChange { login, problem: None })
            }
            // While it is replaced, maybe.
            Err(why) => {
                if !std::mem::replace(&mut self.is_said, true) {
                    tracing::warn!("kafka login: {why}: the password before it is used on");
                }
                None
            }
        }
    }
}

/// The name and the password, as the file holds it now.
pub(super) fn password(settings: &LoginSettings) -> Result<ClientLogin, String> {
    let text = |text: &str| CString::new(text).map_err(|_| "it holds a NUL".to_owned());
    let (Some(user), Some(password)) = (&settings.sasl.username, settings.sasl.present_password()?) else {
        return Err("there is none".to_owned());
    };
    Ok(ClientLogin::Password { user: text(user)?, password: text(password.expose())? })
}

/// A server that gives tokens, and when it is asked again.
pub(super) struct TokenServer {
    settings: LoginSettings,
    secret: WatchedFiles,
    runtime: Option<Runtime>,
    due: Instant,
    backoff: Backoff,
    failures: u32,
    /// When the last token is of no use any more.
    expires: Option<Instant>,
    /// What was said of the last failure.
    said: Option<KafkaError>,
}

impl TokenServer {
    fn new(settings: LoginSettings) -> Self {
        Self {
            secret: WatchedFiles::new(settings.sasl.client_secret_file.clone()),
            settings,
            runtime: None,
            due: Instant::now(),
            backoff: Backoff::default(),
            failures: 0,
            expires: None,
            said: None,
        }
    }

    fn refresh(&mut self) -> Option<LoginChange> {
        // Another secret may help where the last one was refused.
        if let Some(change) = self.secret.changed() {
            self.secret.take(change);
            if self.failures > 0 {
                self.due = Instant::now();
            }
        }
        if Instant::now() < self.due {
            return None;
        }
        let fetched = self.fetch();
        self.fetched(Instant::now(), fetched)
    }

    fn fetch(&mut self) -> Result<Token, KafkaError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => Ok(runtime),
            None => Builder::new_current_thread().enable_all().build(),
        };
        let runtime = runtime.map_err(|error| KafkaError::Outage(format!("kafka login: {error}")))?;
        self.runtime.insert(runtime).block_on(token::fetch(&self.settings))
    }

    /// What becomes of an answer: a token is renewed when four fifths of its time are over, and used until all of it is.
    fn fetched(&mut self, now: Instant, fetched: Result<Token, KafkaError>) -> Option<LoginChange> {
        match fetched {
            Ok(token) => {
                if self.said.take().is_some() {
                    tracing::info!("kafka login: the token server gives tokens again");
                }
                self.failures = 0;
                self.due = now + token.lifetime * 4 / 5;
                self.expires = Some(now + token.lifetime);
                Some(LoginChange { login: ClientLogin::Token(token.bearer), problem: None })
            }
            Err(problem) => {
                self.failures += 1;
                self.due = now + self.backoff.after(self.failures);
                if self.said.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                    self.said = Some(problem.clone());
                }
                if self.expires.is_some_and(|expires| now < expires) {
                    return None;
                }
                let why = CString::new(problem.to_string()).unwrap_or_default();
                Some(LoginChange { login: ClientLogin::Nothing(why), problem: Some(problem) })
            }
        }
    }
}

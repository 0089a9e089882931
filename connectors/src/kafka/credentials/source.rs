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
    security::watched_files::{LOOK, WatchedFiles},
};

/// What is known from now on.
pub(super) struct LoginChange {
    /// What clients log in with, where that is something else than before.
    pub(super) login: Option<ClientLogin>,
    /// Why there is nothing newer.
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
                Some(LoginChange { login: Some(login), problem: None })
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
        Some(self.fetched(Instant::now(), fetched))
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
    fn fetched(&mut self, now: Instant, fetched: Result<Token, KafkaError>) -> LoginChange {
        match fetched {
            Ok(token) => {
                if self.said.take().is_some() {
                    tracing::info!("kafka login: the token server gives tokens again");
                }
                self.failures = 0;
                self.due = now + token.lifetime * 4 / 5;
                self.expires = Some(now + token.lifetime);
                LoginChange { login: Some(ClientLogin::Token(token.bearer)), problem: None }
            }
            Err(problem) => {
                self.failures += 1;
                let is_valid = self.expires.is_some_and(|expires| now < expires);
                self.due = now + self.backoff.after(self.failures);
                if self.said.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                    self.said = Some(problem.clone());
                }
                let nothing = || ClientLogin::Nothing(CString::new(problem.to_string()).unwrap_or_default());
                LoginChange { login: (!is_valid).then(nothing), problem: Some(problem) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{config::security::KafkaSasl, librdkafka::live_clients::BearerToken};

    fn token(seconds: u64) -> Token {
        let text = |text: &str| CString::new(text).unwrap();
        let bearer = BearerToken { value: text("t"), expires: 1, principal: text("p"), extensions: Vec::new() };
        Token { bearer, lifetime: Duration::from_secs(seconds) }
    }

    fn seconds(server: &TokenServer, since: Instant) -> f64 {
        server.due.duration_since(since).as_secs_f64()
    }

    /// Red when a token is renewed late or at once, a failure is told while the last token is valid, is kept silent when it is not,
    /// or is followed by the next try without a pause.
    #[test]
    fn a_token_is_renewed_in_time_and_used_while_none_can_be_had() {
        let mut server = TokenServer::new(LoginSettings { sasl: KafkaSasl::default(), ca: None });
        let (now, down) = (Instant::now(), || Err(KafkaError::Outage("down".to_owned())));
        let told = |change: LoginChange| {
            let login = change.login.map(|login| matches!(login, ClientLogin::Token(_)));
            (login, change.problem.map(|problem| problem.to_string()))
        };
        let (at, why) = (|seconds| now + Duration::from_secs(seconds), || Some("down".to_owned()));
        assert_eq!(told(server.fetched(now, down())), (Some(false), why()));
        assert!(server.due > now && server.due < at(10));
        assert_eq!(told(server.fetched(now, Ok(token(100)))), (Some(true), None));
        assert_eq!(seconds(&server, now), 80.0);
        assert_eq!(told(server.fetched(at(80), down())), (None, why()));
        assert!(server.due > at(80) && server.due < at(90));
        assert_eq!(told(server.fetched(at(100), down())), (Some(false), why()));
        assert_eq!(told(server.fetched(at(101), Ok(token(10)))), (Some(true), None));
        assert_eq!(seconds(&server, now), 109.0);
    }

    /// Red when the old password is told again after the file has changed, or a file that is being replaced takes the login away.
    #[test]
    fn a_password_file_that_changes_is_told_once_it_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "one").unwrap();
        let sasl =
            KafkaSasl { username: Some("u".to_owned()), password_file: Some(path.clone()), ..KafkaSasl::default() };
        let mut file = PasswordFile::new(LoginSettings { sasl, ca: None });
        let mut told = || {
            std::thread::sleep(LOOK);
            file.refresh().map(|change| match change.login {
                Some(ClientLogin::Password { password, .. }) => password.into_string().unwrap(),
                _ => panic!("no password"),
            })
        };
        assert_eq!(told(), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(told(), None);
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(told().as_deref(), Some("two"));
        assert_eq!(told(), None);
    }
}

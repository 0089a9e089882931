//! One login, shared by all clients of the process that have its settings, and the thread that keeps it: it ends with the last of
//! these clients.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rdkafka::ClientConfig;

use super::source::{CredentialSource, LoginChange, password};
use crate::kafka::{
    config::{client_settings::LoginSettings, security::SaslMechanism},
    error::KafkaError,
    librdkafka::live_clients::{ClientHandle, ClientLogin, LiveClients, OwnedClient},
};

/// The logins of this process: clients with the same settings share one, and so one token.
static LOGINS: Mutex<Vec<Weak<SharedLogin>>> = Mutex::new(Vec::new());

/// What clients log in with, and those that are alive.
pub(super) struct SharedLogin {
    settings: LoginSettings,
    clients: Arc<LiveClients>,
    known: Mutex<Known>,
    /// Rings when clients are told something.
    bell: Condvar,
}

/// What is known at the moment.
#[derive(Default)]
struct Known {
    /// What clients were told last.
    login: Option<ClientLogin>,
    /// Why there is nothing newer.
    problem: Option<KafkaError>,
}

impl SharedLogin {
    /// The one of these settings.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(super) fn shared(settings: &LoginSettings) -> Result<Arc<Self>, String> {
        let mut logins = lock(&LOGINS);
        logins.retain(|login| login.strong_count() > 0);
        if let Some(login) = find(&logins, settings) {
            return Ok(login);
        }
        let login = Arc::new(Self {
            settings: settings.clone(),
            clients: Arc::default(),
            known: Mutex::default(),
            bell: Condvar::new(),
        });
        let (kept, settings) = (Arc::downgrade(&login), settings.clone());
        std::thread::Builder::new()
            .name("kafka-login".to_owned())
            .spawn(move || keep(&kept, settings))
            .map_err(|error| format!("no thread for the kafka login: {error}"))?;
        logins.push(Arc::downgrade(&login));
        Ok(login)
    }

    /// The one of these settings, where any client has it.
    pub(super) fn present(settings: &LoginSettings) -> Option<Arc<Self>> {
        find(&lock(&LOGINS), settings)
    }

    /// These settings with the password that the file holds now; with the one that they have while it cannot be read.
    pub(super) fn applied(&self, settings: &ClientConfig) -> ClientConfig {
        let mut settings = settings.clone();
        if let Ok(Some(password)) = self.settings.sasl.present_password() {
            settings.set("sasl.password", password.expose());
        }
        settings
    }

    /// Lets a client know what to log in with, now and whenever that changes.
    pub(super) fn add<T: OwnedClient>(self: &Arc<Self>, client: T) -> ClientHandle<T> {
        // Held meanwhile: what changes is told either here or there.
        let known = lock(&self.known);
        let now = password(&self.settings).ok();
        self.clients.add(client, now.as_ref().or(known.login.as_ref()), self.clone())
    }

    /// Waits until it is known what clients log in with, if that is not in their settings.
    ///
    /// # Errors
    /// Why there is nothing, at the moment or after this time.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), KafkaError> {
        if self.settings.sasl.mechanism != SaslMechanism::OauthBearer {
            return Ok(());
        }
        let waited = self.bell.wait_timeout_while(lock(&self.known), patience, |known| known.login.is_none());
        let (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let outage = || KafkaError::Outage("kafka login: the token server does not answer".to_owned());
        match known.login {
            Some(ClientLogin::Nothing(_)) | None => Err(known.problem.clone().unwrap_or_else(outage)),
            Some(_) => Ok(()),
        }
    }

    /// Why no newer login can be had, where that is so.
    pub(super) fn problem(&self) -> Option<KafkaError> {
        lock(&self.known).problem.clone()
    }

    fn take(&self, LoginChange { login, problem }: LoginChange) {
        let mut known = lock(&self.known);
        known.problem = problem;
        if let Some(login) = login {
            self.clients.tell(&login);
            known.login = Some(login);
            self.bell.notify_all();
        }
    }
}

fn keep(login: &Weak<SharedLogin>, settings: LoginSettings) {
    let mut source = CredentialSource::new(settings);
    while let Some(login) = login.upgrade() {
        if let Some(change) = source.refresh() {
            login.take(change);
        }
        drop(login);
        std::thread::sleep(source.pause());
    }
}

fn find(logins: &[Weak<SharedLogin>], settings: &LoginSettings) -> Option<Arc<SharedLogin>> {
    logins.iter().filter_map(Weak::upgrade).find(|login| login.settings == *settings)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

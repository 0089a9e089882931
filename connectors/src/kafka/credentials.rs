//! The logins of this process's clients: each client is made with what its password file or its token server says at the time, and
//! told while it lives when that is something else, so that its next connection logs in with it.
//!
//! It never knows what a client is for, nor whether anybody has connected.

mod login;
mod source;
mod token;

use std::time::Duration;

use rdkafka::{client::ClientContext, config::FromClientConfigAndContext};

use self::login::SharedLogin;
use super::{
    config::{
        KafkaConfig,
        client_settings::{ClientSettings, LoginSettings},
    },
    error::KafkaError,
    librdkafka::live_clients::{ClientHandle, OwnedClient},
};

/// How long the first token is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client with these settings, which has its login for as long as it lives. Does not connect yet. Every client of this crate is
/// made here.
///
/// # Errors
/// When the settings cannot work.
pub(crate) fn create<C, T>(settings: &ClientSettings, context: C) -> Result<ClientHandle<T>, String>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C> + OwnedClient,
{
    let Some(login) = settings.login() else {
        return settings
            .native()
            .create_with_context(context)
            .map(ClientHandle::fixed)
            .map_err(|error| error.to_string());
    };
    let login = SharedLogin::shared(login)?;
    let client = login.applied(settings.native()).create_with_context(context).map_err(|error| error.to_string())?;
    Ok(login.add(client))
}

/// Waits until clients with these settings have something to log in with. Blocks while the first token is asked for, some seconds
/// at most.
///
/// # Errors
/// [`KafkaError::Credentials`] when the token server refuses; [`KafkaError::Outage`] when it does not answer. It is asked again
/// meanwhile.
pub(crate) fn await_login(config: &KafkaConfig) -> Result<(), KafkaError> {
    let login = config.login().and_then(|login| SharedLogin::present(&login));
    login.map_or(Ok(()), |login| login.wait(PATIENCE))
}

/// Why no newer login can be had for clients with these settings, where that is so: what happens to connections then, happens for
/// this reason.
pub(crate) fn login_problem(login: &LoginSettings) -> Option<KafkaError> {
    SharedLogin::present(login)?.problem()
}

//! The logins of this process's clients: each client is made with what its password file or its token server says at the time, and
//! told while it lives when that is something else, so that its next connection logs in with it.
//!
//! It never knows what a client is for, nor whether anybody has connected.

mod login;
mod source;
mod token;

use rdkafka::{client::ClientContext, config::FromClientConfigAndContext};

use self::login::Login;
use super::{
    config::{KafkaConfig, client_settings::ClientSettings},
    error::KafkaError,
    librdkafka::live_clients::{ClientHandle, OwnedClient},
};

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
    let login = Login::shared(login)?;
    let client = login.applied(settings.native()).create_with_context(context).map_err(|error| error.to_string())?;
    Ok(login.add(client))
}

/// Why clients with these settings have nothing to log in with at the moment, where that is so: their token server does not answer,
/// or refuses.
pub(crate) fn login_problem(config: &KafkaConfig) -> Option<KafkaError> {
    Login::present(&config.login()?)?.problem()
}

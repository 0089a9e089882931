//! What lets us in now: whatever stands in files may be replaced while the program runs.
//!
//! It counts for new connections. What cannot be read leaves what is in use.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use sqlx::{PgPool, SqlStr, postgres::PgConnectOptions};

use super::session::SessionSettings;
use crate::{
    postgres::{
        error::PostgresError,
        login::{Login, LoginSource},
    },
    security::watched_files::LOOK,
};

/// Where it stands how to be let in, and what of it is in use.
pub(super) struct LiveLogin {
    source: LoginSource,
    settings: SessionSettings,
    begin: Option<SqlStr>,
    used: Mutex<UsedLogin>,
}

struct UsedLogin {
    login: Login,
    looked: Instant,
    /// Why it was not read last, which is said once.
    problem: Option<String>,
}

impl LiveLogin {
    /// What stands there now, and how one connects with it.
    ///
    /// # Errors
    /// [`PostgresError::Config`] when something of it cannot be read.
    pub(super) fn new(
        source: LoginSource,
        settings: SessionSettings,
    ) -> Result<(Self, PgConnectOptions), PostgresError> {
        let login = source.read().map_err(|problems| PostgresError::Config(problems.join("; ")))?;
        if !login.ignored().is_empty() {
            let parameters = login.ignored().join(", ");
            tracing::warn!(parameters, "postgres: nobody knows these parameters of the url, and they are ignored");
        }
        let options = settings.apply(login.options());
        let used = Mutex::new(UsedLogin { login, looked: Instant::now(), problem: None });
        Ok((Self { begin: settings.begin(), source, settings, used }, options))
    }

    /// How a transaction begins behind a pooler.
    pub(super) fn begin(&self) -> Option<SqlStr> {
        self.begin.clone()
    }

    /// Has new connections of this pool use what the files hold now, unless they were looked at just before.
    pub(super) fn look(&self, pool: &PgPool) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.looked.elapsed() >= LOOK {
            drop(used);
            self.look_at_once(pool);
        }
    }

    /// The same, however short ago they were looked at. Says whether they hold something else.
    pub(super) fn look_at_once(&self, pool: &PgPool) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.looked = Instant::now();
        if !self.source.has_files(&used.login) {
            return false;
        }
        match self.source.read() {
            Ok(login) => {
                used.problem = None;
                let is_new = !login.is_same(&used.login);
                if is_new {
                    tracing::info!("postgres: new connections use what the files of its section hold now");
                    pool.set_connect_options(self.settings.apply(login.options()));
                    used.login = login;
                }
                is_new
            }
            Err(problems) => {
                let why = Some(problems.join("; "));
                if used.problem != why {
                    tracing::warn!(error = why, "postgres: new connections go on with what was read before");
                    used.problem = why;
                }
                false
            }
        }
    }
}

//! How to be let in: the address, the password and the certificates, as their files are now.
//!
//! It never connects, nor knows when a file changes.

mod address;
mod certificates;

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

use self::{address::Address, certificates::Certificates};
use crate::units::{Secret, SecretSource};

/// Where it stands how to be let in.
#[derive(Clone, Debug)]
pub(super) struct LoginSource {
    pub(super) url: SecretSource,
    pub(super) password_file: Option<PathBuf>,
    /// Whether a transaction pooler stands before the server.
    pub(super) pooler: bool,
}

/// How to be let in, as it stood there at one moment.
pub(super) struct Login {
    url: Secret,
    password: Option<Secret>,
    certificates: Certificates,
    address: Address,
}

impl LoginSource {
    /// What stands there now.
    ///
    /// # Errors
    /// Everything that is wrong, a sentence each, which begins with the setting's name.
    pub(super) fn read(&self) -> Result<Login, Vec<String>> {
        let name = if matches!(self.url, SecretSource::Text(_)) { "url" } else { "url_file" };
        let of_url = |why: String| format!("{name}: {why}");
        let mut problems = Vec::new();
        let password = self.password_file.clone().map(|file| SecretSource::File(file).read()).transpose();
        let password = password.unwrap_or_else(|why| {
            problems.push(format!("password_file: {why}"));
            None
        });
        let url = self.url.read().map_err(|why| vec![why]);
        let address = url.and_then(|url| Ok((Address::parse(url.expose(), self.pooler)?, url)));
        let found = address.and_then(|(address, url)| Ok((Certificates::read(&address.files)?, address, url)));
        match found {
            Err(whys) => problems.extend(whys.into_iter().map(of_url)),
            Ok((_, address, _)) if address.has_password && self.password_file.is_some() => {
                problems.push(of_url("it has a password, and password_file is set: keep one".to_owned()));
            }
            Ok((certificates, address, url)) if problems.is_empty() => {
                return Ok(Login { url, password, certificates, address });
            }
            Ok(_) => {}
        }
        Err(problems)
    }

    /// Whether something of it may change.
    pub(super) fn has_files(&self, login: &Login) -> bool {
        matches!(self.url, SecretSource::File(_)) || self.password_file.is_some() || !login.certificates.is_empty()
    }
}

impl Login {
    /// Whether the other one would be let in by the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.url, &self.password, &self.certificates) == (&other.url, &other.password, &other.certificates)
    }

    /// How sqlx connects with it.
    pub(super) fn options(&self) -> PgConnectOptions {
        let options = self.certificates.apply(self.address.options.clone());
        match &self.password {
            Some(password) => options.password(password.expose()),
            None => options,
        }
    }

    /// Names of what the address says and nobody knows.
    pub(super) fn ignored(&self) -> &[String] {
        &self.address.ignored
    }
}

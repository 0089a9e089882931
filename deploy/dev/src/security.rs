//! What makes the stack's own servers ask who calls: on ports beside Kafka's open one, and for every user of PostgreSQL but
//! the harness' own.
//!
//! It never makes a certificate: the files are the caller's.

use std::fmt;
use std::path::PathBuf;

/// How the stack's servers prove who they are, and whom they let in. All files are PEM.
#[derive(Debug, Clone)]
pub struct ServerSecurity {
    /// Certificates of those who sign clients' certificates.
    pub ca: PathBuf,
    /// The servers' certificate, for `localhost` and 127.0.0.1, with those that lead to its authority behind it.
    pub cert: PathBuf,
    /// Its key, in PKCS#8 and not encrypted.
    pub key: PathBuf,
    /// Who may log in with a password: at Kafka by SCRAM and PLAIN, at PostgreSQL and its pooler by SCRAM. Plain names and
    /// passwords: letters, digits, `-` and `_`.
    pub users: Vec<ServerUser>,
    /// The common names of client certificates that PostgreSQL lets in, each as the user of this name. Kafka lets in every
    /// certificate of the authority, as the user that it names.
    pub certificate_users: Vec<String>,
    /// Who may do everything at Kafka; any other user may do what ACLs allow, so nothing at first.
    pub super_users: Vec<String>,
    /// Which tokens Kafka takes.
    pub tokens: TokenValidation,
}

/// A user with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUser {
    /// The user's name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for ServerUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What an OAuth token (a signed JWT) must have to be taken by Kafka; its subject is the user.
#[derive(Debug, Clone)]
pub struct TokenValidation {
    /// The file with the public keys that tokens are signed for: a JSON Web Key Set.
    pub keys: PathBuf,
    /// Its `iss`.
    pub issuer: String,
    /// Its `aud`.
    pub audience: String,
}

//! What the server needs to ask who calls: its certificate, in files that its user may read, and who may come in how.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::User;
use crate::security::ServerSecurity;

use super::USER;

/// The files of a server or a pooler that asks who calls.
#[derive(Debug)]
pub(super) struct SecurityFiles {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl SecurityFiles {
    /// Copies of the certificates in `home`, for `user` alone.
    ///
    /// # Errors
    /// When one cannot be read or written.
    pub(super) fn copy(security: &ServerSecurity, home: &Path, user: Option<User>) -> Result<Self> {
        let copy = |file: &Path, name: &str| {
            let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            write(&home.join(name), &content, user)
        };
        Ok(Self {
            ca: copy(&security.ca, "ca.pem")?,
            cert: copy(&security.cert, "server.pem")?,
            key: copy(&security.key, "server.key")?,
        })
    }
}

/// Writes a file that only `user` can read.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, content: &[u8], user: Option<User>) -> Result<PathBuf> {
    let written = || -> std::io::Result<()> {
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        user.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
    };
    written().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

/// `pg_hba.conf`: the open door is the superuser's of the stack; everybody else comes over TLS and shows something.
pub(super) fn host_based_authentication(security: &ServerSecurity) -> String {
    let mut lines = vec![format!("host all {USER} 127.0.0.1/32 trust")];
    lines.extend(security.users.iter().map(|user| format!("hostssl all {} 127.0.0.1/32 scram-sha-256", user.name)));
    lines.extend(security.certificate_users.iter().map(|name| format!("hostssl all {name} 127.0.0.1/32 cert")));
    lines.push(String::new());
    lines.join("\n")
}

/// The statements that make the users, each of whom may do everything.
pub(super) fn users(security: &ServerSecurity) -> Vec<String> {
    let password = |password: &str| format!(" password '{password}'");
    let with = security.users.iter().map(|user| (&user.name, password(&user.password)));
    let without = security.certificate_users.iter().map(|name| (name, String::new()));
    with.chain(without).map(|(name, password)| format!("create role \"{name}\" superuser login{password}")).collect()
}

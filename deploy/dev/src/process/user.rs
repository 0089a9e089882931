//! The unprivileged user that PostgreSQL runs as when we are root, because `initdb` and `postgres` refuse root.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;

/// A user's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// `None` when we are not root ourselves, else `postgres` where it exists, else `nobody`.
    ///
    /// # Errors
    /// When we are root and `/etc/passwd` has neither.
    pub(crate) fn unprivileged() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let user = Self::find(&passwd, "postgres").or_else(|| Self::find(&passwd, "nobody"));
        user.map(Some)
            .context("postgres does not run as root, and there is no user postgres or nobody: useradd -r postgres")
    }

    /// Whether a line of `sh` about a path, its `$1`, succeeds as this user. That asks the system itself: mode bits alone
    /// do not tell (ACLs, mounts).
    pub(crate) async fn passes(self, test: &str, path: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", test, "probe"]).arg(path).current_dir("/");
        command.uid(self.uid).gid(self.gid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true).status().await.is_ok_and(|status| status.success())
    }

    fn find(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use super::User;

    /// Red when the fields are counted from the password instead of the uid.
    #[test]
    fn reads_the_numbers_of_a_user_by_its_whole_name() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(User::find(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(User::find(passwd, "nobody"), None);
    }
}

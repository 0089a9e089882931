//! The ways to be let in by PostgreSQL, as URLs and variables.

use std::path::Path;

use super::{CERTIFICATE_USER, PASSWORD, SecuredStack, USER};

impl SecuredStack {
    /// A database by password over TLS that verifies the server.
    pub fn postgres_url(&self, database: &str) -> String {
        self.url(&format!("{USER}:{PASSWORD}"), self.postgres.server, database)
    }

    /// A database by client certificate; as [`CERTIFICATE_USER`].
    pub fn postgres_url_by_certificate(&self, database: &str) -> String {
        let path = |file: &Path| file.display().to_string();
        format!(
            "{}&sslcert={}&sslkey={}",
            self.url(CERTIFICATE_USER, self.postgres.server, database),
            path(&self.client.cert),
            path(&self.client.key)
        )
    }

    /// A database through PgBouncer, by password over TLS.
    pub fn pooler_url(&self, database: &str) -> String {
        self.url(&format!("{USER}:{PASSWORD}"), self.postgres.pooler, database)
    }

    /// The variables that have a process reach a database by password, which stands in a file; to be set after those of a
    /// [`Space`](crate::Space).
    pub fn postgres_env(&self, database: &str) -> Vec<(String, String)> {
        self.database_env(self.postgres.server, database)
    }

    /// The same through PgBouncer.
    pub fn pooler_env(&self, database: &str) -> Vec<(String, String)> {
        let mut set = self.database_env(self.postgres.pooler, database);
        set.push(("HEADWATER__POSTGRES__POOLER".to_owned(), "true".to_owned()));
        set
    }

    fn database_env(&self, port: u16, database: &str) -> Vec<(String, String)> {
        let file = self.password_file.display().to_string();
        let set = [("URL", self.url(USER, port, database)), ("PASSWORD_FILE", file)];
        set.map(|(name, value)| (format!("HEADWATER__POSTGRES__{name}"), value)).into()
    }

    /// `host:port` of the server itself, for a [`TlsProxy`](super::TlsProxy) before it.
    pub fn postgres_address(&self) -> String {
        format!("127.0.0.1:{}", self.postgres.server)
    }

    fn url(&self, user: &str, port: u16, database: &str) -> String {
        let ca = self.authority.file().display();
        format!("postgres://{user}@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={ca}")
    }
}

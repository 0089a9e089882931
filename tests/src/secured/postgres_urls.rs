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

    /// `host:port` of the server itself, for a [`TlsProxy`](super::TlsProxy) before it.
    pub fn postgres_address(&self) -> String {
        format!("127.0.0.1:{}", self.postgres.server)
    }

    fn url(&self, user: &str, port: u16, database: &str) -> String {
        let ca = self.authority.file().display();
        format!("postgres://{user}@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={ca}")
    }
}

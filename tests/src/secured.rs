//! Servers that ask who calls, beside their open doors, which are the harness' own: Kafka with logins, tokens, client
//! certificates and ACLs; PostgreSQL with TLS and client certificates, and a transaction pooler before it; a registry that wants
//! a password or a token; an OAuth server. All of it listens on `localhost` with certificates of one [`Authority`].
//!
//! Started at the first use, gone with the process. What a test changes for others (a password, a certificate) it changes
//! for a user and files of its own.

mod broker_admin;
mod certificates;
mod https;
mod kafka_login;
mod tls_proxy;
mod token_server;
mod tokens;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use headwater_connectors::kafka::{KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism};
use headwater_dev::{ServerSecurity, ServerUser, StackConfig, TokenValidation};

use crate::stack::{self, SharedStack};

pub use broker_admin::{Acl, BrokerAdmin};
pub use certificates::{Authority, Certificate};
pub use https::Https;
pub use kafka_login::KafkaLogin;
pub use tls_proxy::{Inner, TlsProxy};
pub use token_server::TokenServer;
pub use tokens::{AUDIENCE, ISSUER, TokenSigner, basic};

/// Who may do everything everywhere; the OAuth client has this name too, and the password is its secret.
pub const USER: &str = "app";
/// The password of [`USER`]: long and odd, so that a search finds it wherever it leaks.
pub const PASSWORD: &str = "planted-7c1f-password";
/// The user that the client certificate names; it may do everything too.
pub const CERTIFICATE_USER: &str = "app_cert";
/// Who may log in at Kafka, and do nothing there; its password is [`PASSWORD`] too.
pub const STRANGER: &str = "stranger";

/// What the registry takes as a bearer token.
pub const REGISTRY_TOKEN: &str = "planted-9e42-token";

/// The running servers, and what one needs to be let in.
pub struct SecuredStack {
    /// The same servers by their open doors.
    pub stack: SharedStack,
    /// Who has signed the servers' certificates, and whose clients they let in.
    pub authority: Authority,
    /// The servers' certificate, for `localhost` and 127.0.0.1.
    pub server: Certificate,
    /// The client certificate of [`CERTIFICATE_USER`].
    pub client: Certificate,
    /// A file with [`PASSWORD`].
    pub password_file: PathBuf,
    /// What signs the tokens that Kafka takes, for a test that starts a [`TokenServer`] of its own.
    pub signer: Arc<TokenSigner>,
    /// Gives tokens to [`USER`].
    pub tokens: TokenServer,
    /// The registry, for [`USER`] by password, or by [`REGISTRY_TOKEN`].
    pub registry: Https,
    kafka: KafkaListeners,
    postgres: PostgresPorts,
}

/// Ports on `localhost`.
struct PostgresPorts {
    server: u16,
    pooler: u16,
}

/// Kafka's listeners that ask who calls.
struct KafkaListeners {
    sasl: String,
    scram: String,
    tls: String,
}

/// The servers of this run, on a fresh folder under `target_tmp` (`env!("CARGO_TARGET_TMPDIR")` of the test).
///
/// # Panics
/// When they do not start; the message says what is missing.
pub fn secured_stack(target_tmp: &str) -> &'static SecuredStack {
    static STACK: OnceLock<SecuredStack> = OnceLock::new();
    STACK.get_or_init(|| {
        let data = stack::free_folder(Path::new(target_tmp), "secured");
        stack::serve(async move { SecuredStack::start(&data).await })
    })
}

impl SecuredStack {
    async fn start(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join("secrets");
        let authority = Authority::new(&folder, "authority");
        let server = authority.server("server", &["localhost", "127.0.0.1"]);
        let client = authority.client("client", CERTIFICATE_USER);
        let signer = Arc::new(TokenSigner::new());
        let keys = folder.join("keys.json");
        std::fs::write(&keys, signer.keys())?;
        let password_file = folder.join("password");
        std::fs::write(&password_file, PASSWORD)?;
        let user = |name: &str| ServerUser { name: name.to_owned(), password: PASSWORD.to_owned() };
        let security = ServerSecurity {
            ca: authority.file().to_owned(),
            cert: server.cert.clone(),
            key: server.key.clone(),
            users: vec![user(USER), user(STRANGER)],
            certificate_users: vec![CERTIFICATE_USER.to_owned()],
            super_users: vec![USER.to_owned(), CERTIFICATE_USER.to_owned()],
            tokens: TokenValidation { keys, issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() },
        };
        let config = StackConfig { for_tests: true, security: Some(security), ..StackConfig::new(data) };
        let mut stack = stack::start(config).await?;
        let kafka = stack.kafka().expect("its own broker");
        let kafka = KafkaListeners {
            sasl: kafka.sasl_bootstrap().expect("a secured broker"),
            scram: kafka.scram_bootstrap().expect("a secured broker"),
            tls: kafka.tls_bootstrap().expect("a secured broker"),
        };
        let server_port = stack.endpoints().database_url.parse::<reqwest::Url>()?.port().unwrap_or(5432);
        let pooler = stack.pooler().expect("a pooler before a secured server").port();
        let postgres = PostgresPorts { server: server_port, pooler };
        let taken = [basic(USER, PASSWORD), format!("Bearer {REGISTRY_TOKEN}")];
        let url = &stack.endpoints().schema_registry_url;
        let registry = Https::before(url, &server, None, &taken.each_ref().map(String::as_str)).await;
        let tokens = TokenServer::start(signer.clone(), USER, PASSWORD).await;
        let stack = SharedStack::of(stack, data);
        Ok(Self { stack, authority, server, client, password_file, signer, tokens, registry, kafka, postgres })
    }

    /// An administrator of the broker: passwords and ACLs.
    pub fn broker_admin(&self) -> BrokerAdmin {
        BrokerAdmin::new(&self.stack.endpoints.kafka_bootstrap)
    }

    /// `host:port` of Kafka's listener for this way.
    pub fn kafka_bootstrap(&self, login: KafkaLogin) -> &str {
        if login == KafkaLogin::Certificate { &self.kafka.tls } else { &self.kafka.sasl }
    }

    /// `host:port` of Kafka's listener that takes SCRAM-SHA-512 alone.
    pub fn scram_bootstrap(&self) -> &str {
        &self.kafka.scram
    }

    /// How connectors reach Kafka that way, with rights to do everything; a member is given up after a few seconds. What a
    /// test changes in it is its own.
    pub fn kafka(&self, login: KafkaLogin) -> KafkaConfig {
        let certificate = (login == KafkaLogin::Certificate).then(|| self.client.clone());
        let tls = KafkaTls {
            ca: Some(self.authority.file().to_owned()),
            cert: certificate.as_ref().map(|one| one.cert.clone()),
            key: certificate.map(|one| one.key),
            ..KafkaTls::default()
        };
        let mut config = KafkaConfig {
            bootstrap: self.kafka_bootstrap(login).to_owned(),
            tls: Some(tls),
            sasl: login.mechanism().map(|(mechanism, _)| self.sasl(mechanism)),
            ..KafkaConfig::default()
        };
        config.consumer.session_timeout = Duration::from_secs(3);
        config
    }

    fn sasl(&self, mechanism: SaslMechanism) -> KafkaSasl {
        let by_token = mechanism == SaslMechanism::OauthBearer;
        let file = self.password_file.clone();
        KafkaSasl {
            mechanism,
            username: (!by_token).then(|| USER.to_owned()),
            password: None,
            password_file: (!by_token).then(|| file.clone()),
            token_url: by_token.then(|| self.tokens.url().to_owned()),
            client_id: by_token.then(|| USER.to_owned()),
            client_secret_file: by_token.then_some(file),
            scope: None,
            extensions: Default::default(),
        }
    }

    /// The variables that have a process reach Kafka that way, to be set after those of a [`Space`](crate::Space).
    pub fn kafka_env(&self, login: KafkaLogin) -> Vec<(String, String)> {
        let mut set =
            vec![("BOOTSTRAP", self.kafka_bootstrap(login).to_owned()), ("TLS__CA", path(self.authority.file()))];
        match (login, login.mechanism()) {
            (KafkaLogin::OauthBearer, Some((_, name))) => set.extend([
                ("SASL__MECHANISM", name.to_owned()),
                ("SASL__TOKEN_URL", self.tokens.url().to_owned()),
                ("SASL__CLIENT_ID", USER.to_owned()),
                ("SASL__CLIENT_SECRET_FILE", path(&self.password_file)),
            ]),
            (_, Some((_, name))) => set.extend([
                ("SASL__MECHANISM", name.to_owned()),
                ("SASL__USERNAME", USER.to_owned()),
                ("SASL__PASSWORD_FILE", path(&self.password_file)),
            ]),
            (_, None) => {
                set.extend([("TLS__CERT", path(&self.client.cert)), ("TLS__KEY", path(&self.client.key))]);
            }
        }
        set.into_iter().map(|(name, value)| (format!("HEADWATER__KAFKA__{name}"), value)).collect()
    }

    /// The variables that have a process reach the registry by password, to be set after those of a
    /// [`Space`](crate::Space).
    pub fn registry_env(&self) -> Vec<(String, String)> {
        let set = [
            ("URL", self.registry.url()),
            ("TLS__CA", self.authority.file().display().to_string()),
            ("USER", USER.to_owned()),
            ("PASSWORD_FILE", self.password_file.display().to_string()),
        ];
        set.map(|(name, value)| (format!("HEADWATER__REGISTRY__{name}"), value)).into()
    }

    /// A database by password over TLS that verifies the server.
    pub fn postgres_url(&self, database: &str) -> String {
        self.url(&format!("{USER}:{PASSWORD}"), self.postgres.server, database)
    }

    /// A database by client certificate; as [`CERTIFICATE_USER`].
    pub fn postgres_url_by_certificate(&self, database: &str) -> String {
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

    /// `host:port` of the server itself, for a [`TlsProxy`] before it.
    pub fn postgres_address(&self) -> String {
        format!("127.0.0.1:{}", self.postgres.server)
    }

    fn url(&self, user: &str, port: u16, database: &str) -> String {
        let ca = self.authority.file().display();
        format!("postgres://{user}@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={ca}")
    }
}

fn path(file: &Path) -> String {
    file.display().to_string()
}

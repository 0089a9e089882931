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
mod postgres_urls;
mod tls_proxy;
mod token_server;
mod tokens;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

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
    tls: String,
}

/// The servers of this run, on a fresh folder under `target_tmp` (`env!("CARGO_TARGET_TMPDIR")` of the test).
///
/// # Panics
/// When they do not start; the message says what is missing.
pub fn secured_stack(target_tmp: &str) -> &'static SecuredStack {
    static STACK: OnceLock<SecuredStack> = OnceLock::new();
    STACK.get_or_init(|| {
        let data = stack::free_folder(Path::new(target_tmp));
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
}

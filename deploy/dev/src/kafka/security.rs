//! The listeners that ask who calls: two for logins over TLS, of which one takes a single mechanism, and one for client certificates.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use crate::ports::Ports;
use crate::security::ServerSecurity;

use super::config::escape;

/// The names under which the ports of these listeners are remembered.
pub(super) const SERVICES: [&str; 3] = ["kafka-sasl", "kafka-scram", "kafka-tls"];

/// How long a login by token may last at most: it ends with the token, but never where nothing is set.
const LOGIN_LIMIT_MS: u32 = 3_600_000;
/// How long a login by SCRAM-SHA-256 lasts: then the password is asked for again.
const SHORT_LOGIN_MS: u32 = 4_000;

/// The listeners and what they ask for.
#[derive(Debug)]
pub(super) struct SecuredListeners {
    security: ServerSecurity,
    /// SASL_SSL: SCRAM, PLAIN, OAUTHBEARER.
    pub(super) sasl: u16,
    /// SASL_SSL: SCRAM-SHA-512 alone.
    pub(super) scram: u16,
    /// SSL with a client certificate.
    pub(super) tls: u16,
}

impl SecuredListeners {
    pub(super) fn new(security: ServerSecurity) -> Self {
        Self { security, sasl: 0, scram: 0, tls: 0 }
    }

    pub(super) fn choose(&mut self, ports: &mut Ports) -> Result<()> {
        let [sasl, scram, tls] = SERVICES;
        self.sasl = ports.choose(sasl)?;
        self.scram = ports.choose(scram)?;
        self.tls = ports.choose(tls)?;
        Ok(())
    }

    /// Name, protocol and port of each.
    pub(super) fn all(&self) -> [(&'static str, &'static str, u16); 3] {
        [("SASL", "SASL_SSL", self.sasl), ("SCRAM", "SASL_SSL", self.scram), ("TLS", "SSL", self.tls)]
    }

    /// Everything about them in `server.properties` but the ports. Certificates are copied into `home`, as one file for
    /// the broker.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn properties(&self, home: &Path) -> Result<String> {
        let security = &self.security;
        let read =
            |file: &Path| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        let keystore = home.join("server.pem");
        std::fs::write(&keystore, [read(&security.key)?, read(&security.cert)?].join("\n"))
            .with_context(|| format!("cannot write {}", keystore.display()))?;
        let super_users: Vec<String> = security.super_users.iter().map(|name| format!(";User:{name}")).collect();
        let passwords: Vec<String> =
            security.users.iter().map(|user| format!(" user_{}=\"{}\"", user.name, user.password)).collect();
        Ok(format!(
            "ssl.keystore.type=PEM\n\
             ssl.keystore.location={keystore}\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={truststore}\n\
             ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT\n\
             listener.name.tls.ssl.client.auth=required\n\
             listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER\n\
             listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl.scram-sha-256.connections.max.reauth.ms={SHORT_LOGIN_MS}\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required{passwords};\n\
             listener.name.sasl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;\n\
             listener.name.sasl.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler\n\
             listener.name.sasl.oauthbearer.connections.max.reauth.ms={LOGIN_LIMIT_MS}\n\
             sasl.oauthbearer.jwks.endpoint.url={keys}\n\
             sasl.oauthbearer.expected.issuer={issuer}\n\
             sasl.oauthbearer.expected.audience={audience}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             allow.everyone.if.no.acl.found=false\n\
             super.users=User:ANONYMOUS{super_users}\n",
            keystore = escape(&keystore),
            truststore = escape(&security.ca),
            passwords = passwords.concat(),
            keys = self.keys_url(),
            issuer = security.tokens.issuer,
            audience = security.tokens.audience,
            super_users = super_users.concat(),
        ))
    }

    /// What the storage tool is told of the users: their SCRAM credentials.
    pub(super) fn format_arguments(&self) -> Vec<OsString> {
        let of = |mechanism: &str| -> Vec<OsString> {
            let users = self.security.users.iter();
            let credential = |name: &str, password: &str| format!("{mechanism}=[name={name},password={password}]");
            users.flat_map(|user| ["--add-scram".into(), credential(&user.name, &user.password).into()]).collect()
        };
        [of("SCRAM-SHA-512"), of("SCRAM-SHA-256")].concat()
    }

    /// Kafka reads keys only from where the JVM allows it.
    pub(super) fn jvm_options(&self) -> Vec<String> {
        let allowed = "-Dorg.apache.kafka.sasl.oauthbearer.allowed";
        vec![
            format!("{allowed}.urls={}", self.keys_url()),
            format!("{allowed}.files={}", self.security.tokens.keys.display()),
        ]
    }

    fn keys_url(&self) -> String {
        format!("file://{}", self.security.tokens.keys.display())
    }
}

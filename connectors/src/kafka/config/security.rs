//! How brokers are reached: encrypted or not, and as whom.
//!
//! It never knows what is said to them, nor when a file changes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rdkafka::ClientConfig;
use serde::Deserialize;

use crate::units::{Secret, SecretSource};

/// TLS to brokers. An empty section asks for it with the system's trust store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTls {
    /// Certificates, in PEM, of those who sign brokers' certificates; the system's trust store without.
    pub ca: Option<PathBuf>,
    /// Our own certificate, in PEM, with `key`: mutual TLS.
    pub cert: Option<PathBuf>,
    /// The certificate's key, in PEM.
    pub key: Option<PathBuf>,
    /// What the key is encrypted with, if it is.
    pub key_password_file: Option<PathBuf>,
    /// Whether a broker's certificate has to be for the name that the broker is reached by.
    pub verify_host: bool,
}

impl Default for KafkaTls {
    fn default() -> Self {
        Self { ca: None, cert: None, key: None, key_password_file: None, verify_host: true }
    }
}

/// How we prove who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// A salted challenge by SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// The same by SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The password as it is.
    #[serde(rename = "PLAIN")]
    Plain,
    /// A token of an OAuth server.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl SaslMechanism {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// A login at the brokers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// How.
    pub mechanism: SaslMechanism,
    /// As whom.
    pub username: Option<String>,
    /// The password, or
    pub password: Option<Secret>,
    /// the file that holds it, read anew for each connection.
    pub password_file: Option<PathBuf>,
    /// Where tokens are given out, to these credentials.
    pub token_url: Option<String>,
    /// The client's name there.
    pub client_id: Option<String>,
    /// The file with its secret.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for.
    pub scope: Option<String>,
    /// Extensions that brokers are sent beside the token.
    #[serde(default)]
    pub extensions: BTreeMap<String, String>,
}

impl KafkaSasl {
    /// The password, and where it stands.
    pub(crate) fn password(&self) -> Result<Option<SecretSource>, String> {
        SecretSource::of("kafka.sasl.password", self.password.as_ref(), self.password_file.as_deref())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.password().err().into_iter().collect();
        let mut require = |is_there: bool, text: &str| {
            if !is_there {
                problems.push(format!("kafka.sasl: {} wants {text}", self.mechanism.name()));
            }
        };
        if self.mechanism == SaslMechanism::OauthBearer {
            require(self.token_url.is_some(), "token_url, where tokens are given out");
            require(self.client_id.is_some(), "client_id");
            require(self.client_secret_file.is_some(), "client_secret_file");
        } else {
            require(self.username.is_some(), "username");
            require(self.password.is_some() || self.password_file.is_some(), "password or password_file");
        }
        problems
    }
}

/// The two together, as the sections say it.
#[derive(Clone, Copy)]
pub(crate) struct Security<'a> {
    pub(crate) tls: Option<&'a KafkaTls>,
    pub(crate) sasl: Option<&'a KafkaSasl>,
}

impl Security<'_> {
    /// Every problem with them, files that cannot be read among them.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.sasl.map(KafkaSasl::problems).unwrap_or_default();
        if let Some(tls) = self.tls {
            if tls.cert.is_some() != tls.key.is_some() {
                problems.push("kafka.tls: cert and key go together".to_owned());
            }
            let files = [
                ("ca", &tls.ca),
                ("cert", &tls.cert),
                ("key", &tls.key),
                ("key_password_file", &tls.key_password_file),
            ];
            problems
                .extend(files.into_iter().filter_map(|(name, file)| unreadable("kafka.tls", name, file.as_deref()?)));
        }
        if let Some(sasl) = self.sasl {
            let files = [("password_file", &sasl.password_file), ("client_secret_file", &sasl.client_secret_file)];
            problems
                .extend(files.into_iter().filter_map(|(name, file)| unreadable("kafka.sasl", name, file.as_deref()?)));
        }
        problems
    }

    /// Gives a client these settings, with what its files hold now.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(crate) fn apply(&self, client: &mut ClientConfig) -> Result<(), String> {
        let protocol = match (self.tls, self.sasl) {
            (Some(_), Some(_)) => "sasl_ssl",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (None, None) => return Ok(()),
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = self.tls {
            // OpenSSL, as it is built in, looks for trusted certificates in a folder of its own.
            client.set("ssl.ca.location", tls.ca.as_deref().map_or("probe".into(), Path::to_string_lossy));
            client.set("ssl.endpoint.identification.algorithm", if tls.verify_host { "https" } else { "none" });
            if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
                client.set("ssl.certificate.location", cert.to_string_lossy());
                client.set("ssl.key.location", key.to_string_lossy());
            }
            if let Some(file) = &tls.key_password_file {
                client.set("ssl.key.password", SecretSource::File(file.clone()).read()?.expose());
            }
        }
        if let Some(sasl) = self.sasl {
            client.set("sasl.mechanism", sasl.mechanism.name());
            if let (Some(user), Some(password)) = (&sasl.username, sasl.password()?) {
                client.set("sasl.username", user).set("sasl.password", password.read()?.expose());
            }
        }
        Ok(())
    }
}

fn unreadable(section: &str, name: &str, file: &Path) -> Option<String> {
    let error = std::fs::File::open(file).err()?;
    Some(format!("{section}.{name}: cannot read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl(text: &str) -> KafkaSasl {
        serde_json::from_str(text).unwrap()
    }

    fn applied(tls: Option<&KafkaTls>, sasl: Option<&KafkaSasl>) -> ClientConfig {
        let mut client = ClientConfig::new();
        Security { tls, sasl }.apply(&mut client).unwrap();
        client
    }

    /// Red when one of the two sections does not count for the protocol, a host's name is not verified unless that was asked for,
    /// or the system's trust store is not looked for.
    #[test]
    fn the_sections_say_the_protocol() {
        let plain = sasl(r#"{"mechanism":"PLAIN","username":"u","password":"p"}"#);
        let tls = KafkaTls::default();
        let protocol = |tls, sasl| applied(tls, sasl).get("security.protocol").map(str::to_owned);
        assert_eq!(protocol(None, None), None);
        assert_eq!(protocol(Some(&tls), None).as_deref(), Some("ssl"));
        assert_eq!(protocol(None, Some(&plain)).as_deref(), Some("sasl_plaintext"));
        let both = applied(Some(&tls), Some(&plain));
        assert_eq!(both.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(both.get("ssl.ca.location"), Some("probe"));
        assert_eq!(both.get("ssl.endpoint.identification.algorithm"), Some("https"));
        assert_eq!((both.get("sasl.username"), both.get("sasl.password")), (Some("u"), Some("p")));
        let trusting = KafkaTls { verify_host: false, ..tls };
        assert_eq!(applied(Some(&trusting), None).get("ssl.endpoint.identification.algorithm"), Some("none"));
    }

    /// Red when a password is read once for ever, or with its line's end.
    #[test]
    fn a_password_file_is_read_for_each_client() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let sasl = sasl(&format!(r#"{{"mechanism":"SCRAM-SHA-512","username":"u","password_file":{file:?}}}"#));
        for password in ["one", "two"] {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            assert_eq!(applied(None, Some(&sasl)).get("sasl.password"), Some(password));
        }
    }

    /// Red when a setting that a mechanism cannot do without is not named, two that exclude each other are taken, or a file that
    /// cannot be read passes.
    #[test]
    fn what_is_missing_is_named() {
        let problems = |sasl: &str| Security { tls: None, sasl: Some(&self::sasl(sasl)) }.problems().join("; ");
        assert!(
            problems(r#"{"mechanism":"PLAIN"}"#).contains("PLAIN wants username; kafka.sasl: PLAIN wants password")
        );
        assert!(problems(r#"{"mechanism":"OAUTHBEARER"}"#).contains("token_url"));
        let two = problems(r#"{"mechanism":"PLAIN","username":"u","password":"p","password_file":"/nowhere/p"}"#);
        assert!(two.contains("kafka.sasl.password and kafka.sasl.password_file"), "{two}");
        assert!(two.contains("cannot read /nowhere/p"), "{two}");
        let half = KafkaTls { cert: Some("/nowhere/c".into()), ..KafkaTls::default() };
        let half = Security { tls: Some(&half), sasl: None }.problems().join("; ");
        assert!(
            half.contains("cert and key go together") && half.contains("kafka.tls.cert: cannot read /nowhere/c"),
            "{half}"
        );
    }
}

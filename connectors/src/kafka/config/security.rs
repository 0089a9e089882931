//! How brokers are reached: encrypted or not, and as whom.
//!
//! It never knows what is said to them, nor when a file changes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rdkafka::ClientConfig;
use reqwest::Url;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// A salted challenge by SHA-512.
    #[default]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    pub extensions: BTreeMap<String, String>,
}

impl KafkaSasl {
    /// The password, and where it stands.
    pub(crate) fn password(&self) -> Result<Option<SecretSource>, String> {
        SecretSource::of("kafka.sasl.password", self.password.as_ref(), self.password_file.as_deref())
    }

    /// The password that is set, or stands in the file now; `None` where there is neither.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(crate) fn present_password(&self) -> Result<Option<Secret>, String> {
        self.password()?.map(|password| password.read()).transpose()
    }

    /// Whether what clients log in with may change while they live.
    pub(crate) fn changes(&self) -> bool {
        self.mechanism == SaslMechanism::OauthBearer || self.password_file.is_some()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.password().err().into_iter().collect();
        problems.extend(self.token_url.as_deref().and_then(token_url_problem));
        problems.extend(self.extensions.iter().filter_map(|(name, value)| extension_problem(name, value)));
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
            if let (Some(user), Some(password)) = (&sasl.username, sasl.present_password()?) {
                client.set("sasl.username", user).set("sasl.password", password.expose());
            }
        }
        Ok(())
    }

    /// What is allowed and dangerous, where brokers are looked for at these addresses.
    pub(crate) fn warnings(&self, bootstrap: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.tls.is_some_and(|tls| !tls.verify_host) {
            warnings.push(
                "kafka.tls.verify_host is false: whoever has any certificate of these authorities may pose as a broker"
                    .to_owned(),
            );
        }
        if self.tls.is_none() && self.sasl.is_some() && !bootstrap.split(',').all(is_loopback) {
            warnings.push(format!(
                "kafka.sasl without kafka.tls: the login goes to {} unencrypted: add [kafka.tls]",
                bootstrap.trim()
            ));
        }
        let url = self.sasl.and_then(|sasl| Url::parse(sasl.token_url.as_deref()?).ok());
        if url.is_some_and(|url| url.scheme() == "http" && !url.host_str().is_some_and(is_loopback)) {
            warnings.push("kafka.sasl.token_url is no https: the client's secret goes there unencrypted".to_owned());
        }
        warnings
    }
}

/// Whether a broker's address is of this machine.
fn is_loopback(address: &str) -> bool {
    let address = address.rsplit("://").next().unwrap_or_default().trim();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn token_url_problem(url: &str) -> Option<String> {
    let problem = match Url::parse(url) {
        Ok(url) if !matches!(url.scheme(), "https" | "http") => "it must begin with https://",
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "it has a user in it: set client_id and client_secret_file"
        }
        Ok(_) => return None,
        Err(_) => "it is no address such as https://login.example/token",
    };
    Some(format!("kafka.sasl.token_url: {problem}"))
}

/// As RFC 7628, section 3.1, has it.
fn extension_problem(name: &str, value: &str) -> Option<String> {
    let is_name = !name.is_empty() && name != "auth" && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_value = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    let problem = match (is_name, is_value) {
        (true, true) => return None,
        (false, _) => "its name must be of the letters a to z and A to Z, and not `auth`",
        (true, false) => "its value must be of printable ASCII characters",
    };
    Some(format!("kafka.sasl.extensions.{name}: {problem}"))
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

    /// Red when TLS that does not look at names, or a login in the clear over a network, is passed over, or one of this machine is
    /// not.
    #[test]
    fn what_is_dangerous_is_said() {
        let plain = sasl(r#"{"mechanism":"PLAIN","username":"u","password":"p"}"#);
        let warnings = |tls: Option<&KafkaTls>, sasl: Option<&KafkaSasl>, bootstrap: &str| {
            Security { tls, sasl }.warnings(bootstrap).join("; ")
        };
        for here in ["127.0.0.1:9092", "localhost:1, 127.1.2.3:2", "[::1]:9092"] {
            assert_eq!(warnings(None, Some(&plain), here), "");
        }
        let said = warnings(None, Some(&plain), "127.0.0.1:9092,b1.example:9092");
        assert!(said.contains("b1.example:9092 unencrypted: add [kafka.tls]"), "{said}");
        let (tls, trusting) = (KafkaTls::default(), KafkaTls { verify_host: false, ..KafkaTls::default() });
        assert_eq!(warnings(Some(&tls), Some(&plain), "b1:9092"), "");
        assert!(warnings(Some(&trusting), None, "b1:9092").starts_with("kafka.tls.verify_host is false"));
        let by_token = |url: &str| sasl(&format!(r#"{{"mechanism":"OAUTHBEARER","token_url":"{url}"}}"#));
        for here in ["https://login.example/token", "http://127.0.0.1:8080/token"] {
            assert_eq!(warnings(Some(&tls), Some(&by_token(here)), "b1:9092"), "");
        }
        let said = warnings(Some(&tls), Some(&by_token("http://login.example/token")), "b1:9092");
        assert!(said.starts_with("kafka.sasl.token_url is no https"), "{said}");
    }

    /// Red when what no token server or broker takes is not named, or what they do is.
    #[test]
    fn an_address_and_extensions_that_cannot_be_are_named() {
        let with = |url: &str, name: &str, value: &str| {
            let sasl = KafkaSasl {
                mechanism: SaslMechanism::OauthBearer,
                token_url: Some(url.to_owned()),
                client_id: Some("app".to_owned()),
                client_secret_file: Some("/dev/null".into()),
                extensions: BTreeMap::from([(name.to_owned(), value.to_owned())]),
                ..KafkaSasl::default()
            };
            sasl.problems().join("; ")
        };
        assert_eq!(with("https://login.example/token", "logicalCluster", "lkc 1"), "");
        for (url, name, value, said) in [
            ("login.example", "a", "b", "kafka.sasl.token_url: it is no address"),
            ("ftp://login.example", "a", "b", "must begin with https://"),
            ("https://app:hunter2@login.example", "a", "b", "it has a user in it"),
            ("https://login.example", "trace-id", "b", "kafka.sasl.extensions.trace-id: its name"),
            ("https://login.example", "auth", "b", "kafka.sasl.extensions.auth: its name"),
            ("https://login.example", "a", "\u{1}", "kafka.sasl.extensions.a: its value"),
        ] {
            let problems = with(url, name, value);
            assert!(problems.contains(said) && !problems.contains("hunter2"), "{problems}");
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

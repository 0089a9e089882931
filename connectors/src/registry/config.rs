//! Where the registry is, and how we prove who we are.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;
use serde::Deserialize;

use crate::{
    security::tls::TlsConfig,
    units::{Secret, SecretSource, duration},
};

/// Where the registry is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Its base addresses.
    pub url: RegistryUrls,
    /// The user, where it wants one.
    pub user: Option<String>,
    /// The user's password, or
    pub password: Option<Secret>,
    /// the file that holds it; read anew when it changes.
    pub password_file: Option<PathBuf>,
    /// The file that holds a bearer token, instead of a user; read anew when it changes.
    pub token_file: Option<PathBuf>,
    /// Whom we trust, and the certificate that we show.
    pub tls: TlsConfig,
    /// How long one answer may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            url: RegistryUrls::from(Secret::new("http://127.0.0.1:8081")),
            user: None,
            password: None,
            password_file: None,
            token_file: None,
            tls: TlsConfig::default(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// One base address or several, tried in order; each with a path where it has one. User and password may stand in them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMore")]
pub struct RegistryUrls(Vec<Secret>);

/// As it is written: a text, which holds several with commas between them, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Secret),
    More(Vec<Secret>),
}

impl From<OneOrMore> for RegistryUrls {
    fn from(written: OneOrMore) -> Self {
        match written {
            OneOrMore::One(text) => Self::from(text),
            OneOrMore::More(urls) => Self(urls),
        }
    }
}

impl From<Secret> for RegistryUrls {
    fn from(text: Secret) -> Self {
        Self(addresses_in(text.expose()).into_iter().map(Secret::new).collect())
    }
}

/// Addresses with commas between them. A comma that no address follows is a part of one, of a password for instance.
pub fn addresses_in(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        let begins = ["http://", "https://"].iter().any(|scheme| part.trim_start().starts_with(scheme));
        match urls.last_mut() {
            Some(last) if !begins => *last = format!("{last},{part}"),
            _ => urls.push(part.to_owned()),
        }
    }
    urls.into_iter().map(|url| url.trim().to_owned()).collect()
}

/// One of its addresses, and who we are there.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Without user and password.
    pub(super) url: Url,
    pub(super) login: RegistryLogin,
}

impl Address {
    /// Without the slash at its end.
    pub(super) fn base(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RegistryLogin {
    /// Nobody.
    None,
    /// A user, perhaps with a password.
    Basic(String, Option<Secret>),
    /// Whoever the token is for.
    Bearer(Secret),
}

const NO_ADDRESS: &str = "registry.url must be an address such as http://127.0.0.1:8081";

impl RegistryConfig {
    /// Every problem with these settings, files that cannot be read among them; empty when there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.tls.problems("registry.tls");
        let urls = self.urls();
        if self.token_file.is_some() && self.user.is_some() {
            problems.push("registry.user and registry.token_file are both set: keep one".to_owned());
        }
        if let Ok(urls) = &urls {
            let named = urls.iter().any(|url| !url.username().is_empty());
            if self.token_file.is_some() && named {
                problems.push("registry.url holds a user and registry.token_file is set: keep one".to_owned());
            }
            if self.password_file.is_some() && self.user.is_none() && !named {
                problems.push("registry.password_file is set and registry.user is not: set it".to_owned());
            }
        }
        problems.extend(urls.err());
        problems.extend(self.password().err());
        problems.extend(self.token().err());
        problems
    }

    /// The files that hold certificates and secrets.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.tls.files().chain([&self.password_file, &self.token_file].into_iter().flatten().cloned())
    }

    /// Its addresses, with what the files of secrets hold now.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn addresses(&self) -> Result<Vec<Address>, String> {
        let (token, password) = (self.token()?, self.password()?);
        Ok(self.urls()?.into_iter().map(|url| self.address(url, token.as_ref(), password.as_ref())).collect())
    }

    fn address(&self, mut url: Url, token: Option<&Secret>, password: Option<&Secret>) -> Address {
        let user = self.user.clone().or_else(|| (!url.username().is_empty()).then(|| decoded(url.username())));
        let password = password.cloned().or_else(|| url.password().map(|text| Secret::new(decoded(text))));
        let login = match (token, user) {
            (Some(token), _) => RegistryLogin::Bearer(token.clone()),
            (None, Some(user)) => RegistryLogin::Basic(user, password),
            (None, None) => RegistryLogin::None,
        };
        // Neither can fail: the URL has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        Address { url, login }
    }

    fn urls(&self) -> Result<Vec<Url>, String> {
        if self.url.0.is_empty() {
            return Err(NO_ADDRESS.to_owned());
        }
        let parsed = self.url.0.iter().map(|url| {
            let url = Url::parse(url.expose()).map_err(|error| format!("{NO_ADDRESS}: {error}"))?;
            let is_one = matches!(url.scheme(), "http" | "https") && url.host().is_some();
            if is_one { Ok(url) } else { Err(NO_ADDRESS.to_owned()) }
        });
        parsed.collect()
    }

    fn password(&self) -> Result<Option<Secret>, String> {
        let source = SecretSource::of("registry.password", self.password.as_ref(), self.password_file.as_deref())?;
        read("registry.password_file", source)
    }

    fn token(&self) -> Result<Option<Secret>, String> {
        read("registry.token_file", self.token_file.clone().map(SecretSource::File))
    }
}

fn read(setting: &str, source: Option<SecretSource>) -> Result<Option<Secret>, String> {
    source.map(|source| source.read().map_err(|why| format!("{setting}: {why}"))).transpose()
}

/// Undoes percent-encoding of a URL's user or password.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> RegistryConfig {
        RegistryConfig { url: Secret::new(url).into(), ..RegistryConfig::default() }
    }

    /// Red when commas do not part addresses, or part one whose password holds a comma.
    #[test]
    fn addresses_stand_in_a_list_or_between_commas() {
        let at = |url: &str| config(url).addresses().unwrap();
        let all = at("https://a:8081, https://u:p,q@b/base");
        assert_eq!(all.iter().map(|one| one.url.as_str()).collect::<Vec<_>>(), ["https://a:8081/", "https://b/base"]);
        assert_eq!(all[0].login, RegistryLogin::None);
        assert_eq!(all[1].login, RegistryLogin::Basic("u".to_owned(), Some(Secret::new("p,q"))));
        let list = RegistryUrls::from(OneOrMore::More(vec![Secret::new("http://a"), Secret::new("http://b")]));
        assert_eq!(RegistryConfig { url: list, ..RegistryConfig::default() }.addresses().unwrap().len(), 2);
    }

    /// Red when a problem hides another one, a missing file passes, or a problem holds a password.
    #[test]
    fn every_problem_is_named() {
        let problems = RegistryConfig {
            user: Some("me".to_owned()),
            password: Some(Secret::new("hunter2")),
            password_file: Some("/nowhere/password".into()),
            token_file: Some("/nowhere/token".into()),
            tls: TlsConfig { ca: Some("/nowhere/ca".into()), ..TlsConfig::default() },
            ..config("ftp://me:hunter3@r")
        };
        let problems = problems.problems().join("\n");
        for named in [
            "registry.tls: cannot read /nowhere/ca",
            "registry.user and registry.token_file are both set",
            "registry.url must be an address",
            "registry.password and registry.password_file are both set",
            "registry.token_file: cannot read the secret in /nowhere/token",
        ] {
            assert!(problems.contains(named), "{named} in\n{problems}");
        }
        assert!(!problems.contains("hunter"), "{problems}");
        let lonely = RegistryConfig { password_file: Some("/nowhere/p".into()), ..config("https://r") };
        assert!(lonely.problems().join("\n").contains("registry.user is not"), "{:?}", lonely.problems());
        assert_eq!(config("https://r,http://s").problems(), Vec::<String>::new());
    }
}

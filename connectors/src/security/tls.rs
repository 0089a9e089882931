//! TLS as every part of a program speaks it, but for librdkafka, which has its own.
//!
//! It never knows whom it is spoken with, nor when a file changes.

pub(crate) mod handshake;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use headwater::http::HttpError;
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use rustls::{
    Error as TlsError,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::Deserialize;

/// Whom an HTTP client trusts, and how it proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Certificates, in PEM, of those who sign servers' certificates; the system's trust store without.
    pub ca: Option<PathBuf>,
    /// Our own certificate, in PEM, with `key`: mutual TLS.
    pub cert: Option<PathBuf>,
    /// The certificate's key, in PEM and not encrypted.
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// Every problem with these settings, which stand in this section; empty when there is none.
    pub fn problems(&self, section: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.cert.is_some() != self.key.is_some() {
            problems.push("cert and key go together".to_owned());
        }
        problems.extend(self.authorities().err());
        problems.extend(self.identity().err());
        problems.into_iter().map(|problem| format!("{section}: {problem}")).collect()
    }

    /// The files that are set.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().cloned()
    }

    /// A client that trusts and proves by these, as the files are now. Where there is no trust store either, it trusts nobody, and
    /// is good for plain HTTP.
    ///
    /// # Errors
    /// Which file cannot be read or holds nothing of the kind.
    pub(crate) fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, HttpError> {
        match self.authorities().map_err(HttpError)? {
            Some(authorities) => builder = builder.tls_certs_only(authorities),
            None if !has_trust_store() => builder = builder.tls_certs_only([]),
            None => {}
        }
        if let Some(identity) = self.identity().map_err(HttpError)? {
            builder = builder.identity(identity);
        }
        Ok(builder)
    }

    fn authorities(&self) -> Result<Option<Vec<Certificate>>, String> {
        let Some(file) = &self.ca else { return Ok(None) };
        let all = Certificate::from_pem_bundle(&read(file)?).map_err(|_| no_certificate(file))?;
        if all.is_empty() { Err(no_certificate(file)) } else { Ok(Some(all)) }
    }

    fn identity(&self) -> Result<Option<Identity>, String> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(None) };
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert_pem).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| no_certificate(cert))?;
        let no_key = || format!("{} holds no key in PEM, or an encrypted one", key.display());
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| no_key())?;
        CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|error| match error {
            TlsError::InconsistentKeys(_) => format!("{} is not the key of {}", key.display(), cert.display()),
            _ => no_key(),
        })?;
        let both = [cert_pem, key_pem].join(&b'\n');
        let wrong = |_| format!("{} and {} are no certificate and key in PEM", cert.display(), key.display());
        Identity::from_pem(&both).map(Some).map_err(wrong)
    }
}

/// Whether this machine has authorities that it trusts; looked for once.
fn has_trust_store() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        install_provider();
        Client::builder().no_proxy().build().is_ok()
    })
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn no_certificate(file: &Path) -> String {
    format!("{} holds no certificate in PEM", file.display())
}

/// Makes ring the one library of ciphers of this process; does nothing the second time.
pub fn install_provider() {
    // An error says that there is one already.
    let _ = ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Red when a file that is missing, or holds something else, passes, or is not named; or a key of another certificate passes
    /// (`CertifiedKey::from_der` left out).
    #[test]
    fn files_that_are_of_no_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.pem");
        std::fs::write(&text, "no certificate").unwrap();
        let named = |tls: TlsConfig| tls.problems("client.tls").join("; ");
        let problems = named(TlsConfig { ca: Some(text.clone()), ..TlsConfig::default() });
        assert!(problems.contains("text.pem holds no certificate"), "{problems}");
        let problems = named(TlsConfig { ca: Some("/nowhere/ca".into()), ..TlsConfig::default() });
        assert!(problems.starts_with("client.tls: cannot read /nowhere/ca"), "{problems}");
        let problems = named(TlsConfig { cert: Some(text.clone()), ..TlsConfig::default() });
        assert!(problems.contains("cert and key go together"), "{problems}");
        let problems = named(TlsConfig { cert: Some(text.clone()), key: Some(text.clone()), ..TlsConfig::default() });
        assert!(problems.contains("text.pem holds no certificate"), "{problems}");
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        let params = CertificateParams::new(["me".to_owned()]).unwrap();
        std::fs::write(&cert, params.self_signed(&one).unwrap().pem()).unwrap();
        let pair = TlsConfig { cert: Some(cert), key: Some(key.clone()), ..TlsConfig::default() };
        for (pem, wrong) in
            [("text".to_owned(), "key.pem holds no key"), (other.serialize_pem(), "key.pem is not the key of")]
        {
            std::fs::write(&key, pem).unwrap();
            let problems = named(pair.clone());
            assert!(problems.contains(wrong), "{problems}");
        }
        std::fs::write(&key, one.serialize_pem()).unwrap();
        assert_eq!(named(pair), "");
    }
}

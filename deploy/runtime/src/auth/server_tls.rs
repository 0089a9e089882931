//! The certificate that this process shows whoever asks it, and whose certificates it takes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde::Deserialize;

use super::reloaded::Reloaded;

/// TLS of the process's own HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerTlsConfig {
    /// The certificate, in PEM, with those that lead to its authority behind it.
    pub(crate) cert: Option<PathBuf>,
    /// Its key, in PEM and not encrypted.
    pub(crate) key: Option<PathBuf>,
    /// Certificates, in PEM, of those who sign clients' certificates: whoever shows one may ask.
    pub(crate) client_ca: Option<PathBuf>,
}

impl ServerTlsConfig {
    /// Every problem with these settings; empty when there is none.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.load().err().unwrap_or_default()
    }

    /// What connections are taken with, read anew when a file changes.
    ///
    /// # Errors
    /// As [`problems`](Self::problems).
    pub(crate) fn open(&self) -> Result<Reloaded<rustls::ServerConfig>, Vec<String>> {
        let files = [&self.cert, &self.key, &self.client_ca].into_iter().flatten().cloned();
        let of = self.clone();
        Reloaded::open("http.tls", files, move || of.load())
    }

    fn load(&self) -> Result<rustls::ServerConfig, Vec<String>> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Err(vec!["http.tls wants cert and key, which go together".to_owned()]);
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = self.client_ca.as_deref().map(|file| verifier(file, &provider)).transpose();
        match (certificates(cert), private_key(key), verifier) {
            (Ok(chain), Ok(secret), Ok(verifier)) => {
                let wrong = |_| vec![format!("http.tls: {} is not the key of {}", key.display(), cert.display())];
                let no_version = |error: rustls::Error| vec![format!("http.tls: {error}")];
                let builder = rustls::ServerConfig::builder_with_provider(provider);
                let builder = builder.with_safe_default_protocol_versions().map_err(no_version)?;
                let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
                let builder = builder.with_client_cert_verifier(verifier);
                let mut config = builder.with_single_cert(chain, secret).map_err(wrong)?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Ok(config)
            }
            (chain, secret, verifier) => {
                let problems = [chain.err(), secret.err(), verifier.err()].into_iter().flatten();
                Err(problems.map(|problem| format!("http.tls: {problem}")).collect())
            }
        }
    }
}

/// Takes whoever shows no certificate, too: a probe has none, and somebody else may have a token.
fn verifier(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    builder.allow_unauthenticated().build().map_err(|error| format!("{}: {error}", file.display()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let all = all.map_err(|error| format!("{} is no PEM: {error}", file.display()))?;
    if all.is_empty() { Err(format!("{} holds no certificate in PEM", file.display())) } else { Ok(all) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The reason may quote what is there.
    let wrong = |_| format!("{} holds no key in PEM that is not encrypted", file.display());
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(wrong)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Red when a file of no use passes, the first problem hides the others, or a key of another certificate is taken.
    #[test]
    fn files_of_no_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            Some(dir.path().join(name))
        };
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["shop.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert, own) = (file("cert.pem", &certificate.pem()), file("key.pem", &key.serialize_pem()));
        let other = file("other.pem", &KeyPair::generate().unwrap().serialize_pem());
        let text = file("text.pem", "text");
        let problems = |cert: &Option<PathBuf>, key: &Option<PathBuf>, client_ca: &Option<PathBuf>| {
            ServerTlsConfig { cert: cert.clone(), key: key.clone(), client_ca: client_ca.clone() }.problems()
        };
        assert_eq!(problems(&cert, &own, &cert), Vec::<String>::new());
        let missing = Some("/nowhere/ca.pem".into());
        let all = problems(&text, &text, &missing).join("\n");
        for part in [
            "text.pem holds no certificate",
            "text.pem holds no key in PEM",
            "cannot read /nowhere/ca.pem",
            "http.tls: ",
        ] {
            assert!(all.contains(part), "{part} is missing in:\n{all}");
        }
        assert!(problems(&cert, &other, &None)[0].ends_with("cert.pem"), "{:?}", problems(&cert, &other, &None));
        assert!(problems(&cert, &None, &None)[0].contains("go together"));
        assert!(problems(&None, &None, &cert)[0].contains("wants cert and key"));
    }
}

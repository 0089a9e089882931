//! Whom an address trusts, and how it proves who we are: what its files hold.
//!
//! They are read and tried before anybody connects with them: what is half written does not take the place of what works.

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sqlx::postgres::PgConnectOptions;

use super::address::CertificateFiles;

/// What the files hold, in PEM.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Certificates {
    ca: Option<Vec<u8>>,
    /// Our certificate and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// Which cannot be read or hold nothing of the kind, a sentence each.
    pub(super) fn read(files: &CertificateFiles) -> Result<Self, Vec<String>> {
        let ca = files.ca.as_deref().map(authorities).transpose();
        let identity = files.cert.as_deref().zip(files.key.as_deref());
        let identity = identity.map(|(cert, key)| self::identity(cert, key)).transpose();
        match (ca, identity) {
            (Ok(ca), Ok(identity)) => Ok(Self { ca, identity }),
            (ca, identity) => Err(ca.err().into_iter().chain(identity.err()).collect()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Has a connection trust and prove by these.
    pub(super) fn apply(&self, mut options: PgConnectOptions) -> PgConnectOptions {
        if let Some(ca) = &self.ca {
            options = options.ssl_root_cert_from_pem(ca.clone());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
        }
        options
    }
}

fn authorities(file: &str) -> Result<Vec<u8>, String> {
    let pem = content("sslrootcert", file)?;
    let mut store = RootCertStore::empty();
    let all: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let trusted = all.is_ok_and(|all| !all.is_empty() && all.into_iter().all(|one| store.add(one).is_ok()));
    if trusted { Ok(pem) } else { Err(format!("sslrootcert: {} holds no certificate in PEM", shown(file))) }
}

fn identity(cert: &str, key: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let pem = (content("sslcert", cert)?, content("sslkey", key)?);
    let chain: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem.0).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| format!("sslcert: {} holds no certificate in PEM", shown(cert)))?;
    let chain = chain.into_iter().map(CertificateDer::into_owned).collect();
    let private = PrivateKeyDer::from_pem_slice(&pem.1);
    let private = private.map_err(|_| format!("sslkey: {} holds no key in PEM that is not encrypted", shown(key)))?;
    let pair = CertifiedKey::from_der(chain, private, &ring::default_provider());
    pair.map_err(|error| format!("sslcert and sslkey, {} and {}, are no pair: {error}", shown(cert), shown(key)))?;
    Ok(pem)
}

/// What a file holds; sqlx takes its content in its place, too.
fn content(name: &str, file: &str) -> Result<Vec<u8>, String> {
    if is_pem(file) {
        return Ok(file.as_bytes().to_vec());
    }
    std::fs::read(file).map_err(|error| format!("{name}: cannot read {file}: {error}"))
}

fn is_pem(file: &str) -> bool {
    file.trim_start().starts_with("-----BEGIN")
}

fn shown(file: &str) -> &str {
    if is_pem(file) { "what the address has there" } else { file }
}

//! Whom a handshake trusts and what it shows: as `[kafka.tls]` has it, or nobody.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme, WantsVerifier,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::kafka::config::security::KafkaTls;

/// Where librdkafka looks for the system's trust store, with `ssl.ca.location=probe`; files only.
const SYSTEM: [&str; 10] = [
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/cacert.pem",
    "/etc/certs/ca-certificates.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// How to begin a handshake.
pub(super) struct TrustConfig {
    pub(super) client: Arc<ClientConfig>,
    /// Whether a server that wants a certificate is shown one.
    pub(super) shows_certificate: bool,
    /// Whether that one has expired: some servers say only that they do not take it.
    pub(super) has_expired: bool,
}

/// As this section has it, with what its files hold now; `None` where it is not known whom to trust.
pub(super) fn of(tls: &KafkaTls) -> Result<Option<TrustConfig>, String> {
    let roots = match &tls.ca {
        Some(file) => authorities(file)?,
        None => match SYSTEM.iter().find_map(|file| authorities(Path::new(file)).ok()) {
            Some(roots) => roots,
            None => return Ok(None),
        },
    };
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let builder = builder(Arc::clone(&provider))?.dangerous();
    let builder = if tls.verify_host {
        builder.with_custom_certificate_verifier(verifier)
    } else {
        builder.with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
    };
    // One that is encrypted only librdkafka can read.
    let (client, shows_certificate, has_expired) = match (&tls.cert, &tls.key, &tls.key_password_file) {
        (Some(cert), Some(key), None) => {
            let chain = certificates(cert)?;
            let key =
                PrivateKeyDer::from_pem_file(key).map_err(|error| format!("no key in {}: {error}", key.display()))?;
            let has_expired = has_expired(&chain, roots, provider);
            (builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?, true, has_expired)
        }
        _ => (builder.with_no_client_auth(), false, false),
    };
    Ok(Some(TrustConfig { client: Arc::new(client), shows_certificate, has_expired }))
}

/// One that trusts nobody and shows nothing: it finds out whether TLS is spoken.
pub(super) fn of_nobody() -> Result<Arc<ClientConfig>, String> {
    let builder = builder(Arc::new(ring::default_provider()))?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

fn builder(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| error.to_string())
}

/// Whether a client's certificate has expired, whoever has signed it: its time is looked at first.
fn has_expired(chain: &[CertificateDer<'_>], roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
    let (Some((own, others)), Ok(verifier)) = (chain.split_first(), verifier) else { return false };
    matches!(
        verifier.verify_client_cert(own, others, UnixTime::now()),
        Err(TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }))
    )
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(file)?);
    if added == 0 { Err(format!("no certificate in {} can be used", file.display())) } else { Ok(roots) }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| format!("no certificate in {}: {error}", file.display()))
}

/// Takes a certificate that an authority has signed, whatever its name: `verify_host = false`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        // The name is looked at last.
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

//! A server that answers the first request of a login as a broker does, with certificates of its own authority.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

use crate::kafka::config::security::KafkaTls;

/// What a broker says when it is asked for a login.
#[derive(Clone, Copy)]
pub(super) enum Answers {
    /// That there is none on this listener.
    NoLogin,
    /// Which ones it takes.
    Logins(&'static [&'static str]),
    /// Nothing: it closes the connection.
    Nothing,
}

/// A certificate and its key, in PEM.
pub(super) struct TestIdentity {
    cert: String,
    key: String,
}

/// Who signs certificates, and a folder for the files.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn sign(&self, params: CertificateParams) -> TestIdentity {
        let key = KeyPair::generate().unwrap();
        TestIdentity { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    pub(super) fn server(&self, name: &str) -> TestIdentity {
        self.sign(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    pub(super) fn expired(&self, name: &str) -> TestIdentity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign(params)
    }

    /// Settings that trust this authority.
    pub(super) fn trusted(&self) -> KafkaTls {
        KafkaTls { ca: Some(self.file("ca.pem")), ..KafkaTls::default() }
    }

    /// Settings with a certificate of this authority that trust another one.
    pub(super) fn client(&self, trusted: &Self) -> KafkaTls {
        self.shown(self.server("app"), trusted)
    }

    /// Settings with a certificate of this authority that has expired.
    pub(super) fn expired_client(&self) -> KafkaTls {
        self.shown(self.expired("app"), self)
    }

    fn shown(&self, identity: TestIdentity, trusted: &Self) -> KafkaTls {
        std::fs::write(self.file("client.pem"), identity.cert).unwrap();
        std::fs::write(self.file("client.key"), identity.key).unwrap();
        KafkaTls { cert: Some(self.file("client.pem")), key: Some(self.file("client.key")), ..trusted.trusted() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// It serves one connection after another, until the process ends.
pub(super) struct TestServer {
    address: String,
    connections: Arc<AtomicUsize>,
}

impl TestServer {
    pub(super) fn plain(answers: Answers) -> Self {
        Self::start(move |mut stream| answer(&mut stream, answers))
    }

    /// One with TLS that wants a certificate of `clients`, where that is given.
    pub(super) fn tls(identity: TestIdentity, clients: Option<&Authority>, answers: Answers) -> Self {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = Arc::new(builder.with_single_cert(vec![cert], key).unwrap());
        Self::start(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // A client that does not go on is what the tests look at.
            answer(&mut StreamOwned::new(connection, stream), answers);
        })
    }

    fn start(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                serve(stream);
            }
        });
        Self { address, connections }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// How many there were.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Reads one request, if it is one, and answers.
fn answer(stream: &mut (impl Read + Write), answers: Answers) {
    let mut size = [0; 4];
    if stream.read_exact(&mut size).is_err() {
        return;
    }
    let Some(size) = usize::try_from(u32::from_be_bytes(size)).ok().filter(|size| *size < 1_000) else { return };
    let mut request = vec![0; size];
    if stream.read_exact(&mut request).is_err() || matches!(answers, Answers::Nothing) {
        return;
    }
    let wanted = request.rsplit(|byte| *byte < b' ').next().unwrap_or_default();
    let (code, taken) = match answers {
        Answers::Logins(taken) if taken.iter().any(|taken| taken.as_bytes() == wanted) => (0, taken),
        Answers::Logins(taken) => (33, taken),
        Answers::NoLogin | Answers::Nothing => (34, [].as_slice()),
    };
    let mut body = request[4..8].to_vec();
    body.extend(u16::to_be_bytes(code));
    body.extend(u32::try_from(taken.len()).unwrap().to_be_bytes());
    for name in taken {
        body.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        body.extend(name.as_bytes());
    }
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&size[..], &body].concat()).and_then(|()| stream.flush());
}

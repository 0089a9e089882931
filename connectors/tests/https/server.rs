//! A server that speaks TLS, and the certificates for it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use headwater_connectors::tls::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

/// Somebody who signs certificates, and the folder of the files.
pub(crate) struct Authority {
    pub(crate) dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for these names.
    pub(crate) fn sign(&self, file: &str, names: &[&str]) -> Pair {
        self.write(
            file,
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap(),
        )
    }

    pub(crate) fn sign_expired(&self, file: &str, names: &[&str]) -> Pair {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.write(file, params)
    }

    fn write(&self, file: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let [cert, key_file] = ["pem", "key"].map(|kind| self.dir.path().join(format!("{file}.{kind}")));
        std::fs::write(&cert, signed.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Pair { cert, key: key_file }
    }

    /// Trusts this authority, and shows nothing.
    pub(crate) fn trusted(&self) -> TlsConfig {
        TlsConfig { ca: Some(self.ca()), ..TlsConfig::default() }
    }
}

impl Pair {
    /// Trusts this authority, and shows this.
    pub(crate) fn shown(&self, trusted: &Authority) -> TlsConfig {
        TlsConfig { cert: Some(self.cert.clone()), key: Some(self.key.clone()), ..trusted.trusted() }
    }
}

/// What a request brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) authorization: String,
    /// The client's certificate.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Answers each request on a connection of its own, with what `answer` makes of it; until the test ends.
pub(crate) struct TlsServer {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl TlsServer {
    /// Shows this certificate, and wants one that `clients` has signed.
    pub(crate) fn start(shown: &Pair, clients: Option<&Authority>, answer: fn(&Received) -> String) -> Self {
        let config = config(shown, clients);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, received) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<Received>>>::default());
        let log = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap()), &log, answer);
            }
        });
        Self { port, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    log: &Mutex<Vec<Received>>,
    answer: fn(&Received) -> String,
) {
    while stream.conn.is_handshaking() {
        if stream.conn.complete_io(&mut stream.sock).is_err() {
            // The alert has to arrive: what the client still sends is read, so that the connection is not reset.
            let _ = stream.conn.write_tls(&mut stream.sock);
            let _ = stream.sock.shutdown(Shutdown::Write);
            let _ = stream.sock.read_to_end(&mut Vec::new());
            return;
        }
    }
    let certificate = stream.conn.peer_certificates().map(|all| all[0].to_vec());
    let mut reader = BufReader::new(&mut stream);
    let (mut received, mut length) = (Received { certificate, ..Received::default() }, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        let line = line.trim();
        match line.split_once(": ") {
            None => received.line = line.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                received.authorization = value.to_owned()
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
        }
    }
    let _ = reader.read_exact(&mut vec![0; length]);
    let text = answer(&received);
    log.lock().unwrap().push(received);
    let _ = stream.write_all(text.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn config(shown: &Pair, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&authority.ca()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
    Arc::new(builder.with_single_cert(certificates(&shown.cert), key).unwrap())
}

pub(crate) fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().collect::<Result<_, _>>().unwrap()
}

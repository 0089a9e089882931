//! TLS before a server that has none, with whatever certificate a test wants it to show.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use super::certificates::Certificate;

/// What is spoken behind TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Anything that begins with TLS: Kafka, HTTP/1.
    Bytes,
    /// HTTP/2, as gRPC wants it.
    Http2,
    /// PostgreSQL, whose clients ask for TLS first.
    Postgres,
}

/// A proxy on a free port of this machine; it closes when it is dropped.
pub struct TlsProxy {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    inner: Inner,
    server: String,
    config: Mutex<Arc<ServerConfig>>,
    clients: Mutex<Vec<Option<Vec<u8>>>>,
}

impl TlsProxy {
    /// Before the server at this `host:port`, showing this certificate; with a file of authorities it wants a certificate
    /// that one of them has signed of every client.
    ///
    /// # Panics
    /// When a file is of no use, or no port can be had.
    pub async fn before(inner: Inner, server: &str, shown: &Certificate, client_ca: Option<&Path>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let config = Mutex::new(config(inner, shown, client_ca));
        let shared = Arc::new(Shared { inner, server: server.to_owned(), config, clients: Mutex::default() });
        let (state, mut tasks) = (shared.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let state = state.clone();
                // A client that gives up, or whom we refuse, is no concern of others.
                connections.spawn(async move { _ = serve(client, &state).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, shared, _tasks: tasks }
    }

    /// Where it listens: `localhost:<port>`.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// From now on new connections are shown this certificate, and asked for one of these authorities'.
    ///
    /// # Panics
    /// When a file is of no use.
    pub fn show(&self, shown: &Certificate, client_ca: Option<&Path>) {
        *lock(&self.shared.config) = config(self.shared.inner, shown, client_ca);
    }

    /// Of each client that was let in, in their order, the certificate that it has shown, in DER, if any.
    pub fn clients(&self) -> Vec<Option<Vec<u8>>> {
        lock(&self.shared.clients).clone()
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    if shared.inner == Inner::Postgres {
        // Eight bytes: their length and the number that asks for TLS.
        client.read_exact(&mut [0; 8]).await?;
        client.write_all(b"S").await?;
    }
    let config = lock(&shared.config).clone();
    let mut client = TlsAcceptor::from(config).accept(client).await?;
    let shown = client.get_ref().1.peer_certificates().and_then(|all| all.first()).map(|one| one.to_vec());
    lock(&shared.clients).push(shown);
    let mut server = TcpStream::connect(&shared.server).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

fn config(inner: Inner, shown: &Certificate, client_ca: Option<&Path>) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("ring has them");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(file));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("authorities"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(&shown.key).expect("a key");
    let mut config = builder.with_single_cert(certificates(&shown.cert), key).expect("a certificate and its key");
    if inner == Inner::Http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Arc::new(config)
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).expect("a file").collect::<Result<_, _>>().expect("certificates")
}

/// No code panics while it holds the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

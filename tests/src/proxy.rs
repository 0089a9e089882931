//! A proxy before a server that holds what is asked of it: a crash can then strike on either side of that.
//!
//! It reads what the client says as far as it must. What is held reaches the other side when the test says so. A connection
//! whose request is let go unsaid is cut, as that of a client which was killed.

mod gate;
mod kafka;
mod postgres;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use self::{kafka::Kafka, postgres::Postgres};
pub use gate::Gate;

const CHUNK: usize = 64 * 1024;

/// On which side of the server a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server has not heard of it.
    Before,
    /// The server has answered, and the client does not know.
    After,
}

/// A proxy on a free port of the loopback; it ends with this value.
pub struct Proxy {
    address: String,
    watch: Arc<Mutex<Option<WatchedRequests>>>,
    held: mpsc::Receiver<HeldRequest>,
    brokerless: Arc<AtomicBool>,
    cut: watch::Sender<()>,
    _serving: JoinSet<()>,
}

/// A request that waits; dropping it cuts its connection.
pub struct HeldRequest {
    pass: oneshot::Sender<()>,
}

impl HeldRequest {
    /// Lets it go on.
    pub fn pass(self) {
        // Whoever asked may be gone.
        let _ = self.pass.send(());
    }
}

#[derive(Clone, Debug)]
struct WatchedRequests {
    side: Side,
    texts: Vec<String>,
}

/// What both sides of one connection say.
trait Protocol: Send + Sync + 'static {
    /// The client's next whole message, taken from what is unread, and what it asks for where that can be watched.
    fn ask(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, Option<String>)>;
    /// The answer to what was asked last is to be withheld.
    fn withhold(&mut self);
    /// What of the server's answers can be passed on next, and whether that is what is withheld.
    fn answer(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, bool)>;
}

impl Proxy {
    /// A proxy to the server and the database of this URL; it holds statements.
    ///
    /// # Panics
    /// When no port is free, or the URL names no server.
    pub async fn postgres(database_url: &str) -> Self {
        let mut url = Url::parse(database_url).expect("a valid url");
        let server = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5432));
        let (listener, port) = listen().await;
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(port)).expect("a port");
        // What is encrypted cannot be read.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        Self::serving(url.into(), listener, server, |_| Postgres::default())
    }

    /// A proxy to the one broker of a cluster, at this `host:port` of the loopback; it holds what is produced, commits of
    /// offsets and transactions, and requests for offsets of logs, which are known by their names.
    ///
    /// # Panics
    /// When no port is free, or this is no address.
    pub async fn kafka(bootstrap: &str) -> Self {
        let (host, broker) = bootstrap.split_once(':').expect("host:port");
        let (host, broker) = (host.to_owned(), broker.parse().expect("a port"));
        let (listener, port) = listen().await;
        let address = format!("{host}:{port}");
        let protocol = move |brokerless| Kafka::new(&host, broker, port, brokerless);
        Self::serving(address, listener, bootstrap.to_owned(), protocol)
    }

    fn serving<P: Protocol>(
        address: String,
        listener: TcpListener,
        server: String,
        protocol: impl Fn(Arc<AtomicBool>) -> P + Send + Sync + 'static,
    ) -> Self {
        let (watch, (hold, held), (cut, is_cut)) = (Arc::default(), mpsc::channel(16), watch::channel(()));
        let (brokerless, mut serving) = (Arc::<AtomicBool>::default(), JoinSet::new());
        let told = Arc::clone(&brokerless);
        let protocol = move || protocol(Arc::clone(&told));
        serving.spawn(serve(listener, server, protocol, (Arc::clone(&watch), hold, is_cut)));
        Self { address, watch, held, brokerless, cut, _serving: serving }
    }

    /// Where clients reach the server, as the server's own address was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on every request with all these texts in it is held here.
    pub fn watch(&self, side: Side, texts: &[&str]) {
        let texts = texts.iter().copied().map(str::to_owned).collect();
        *lock(&self.watch) = Some(WatchedRequests { side, texts });
    }

    /// Cuts every connection, and from now on says that the cluster has no brokers, as one does that has lost touch with its
    /// controller; or does so no longer.
    pub fn hide_brokers(&self, hidden: bool) {
        self.brokerless.store(hidden, Ordering::Relaxed);
        // Nobody may be connected.
        self.cut.send_replace(());
    }

    /// Nothing is held any more, and what is held and was not asked for is cut.
    pub fn unwatch(&mut self) {
        *lock(&self.watch) = None;
        while self.held.try_recv().is_ok() {}
    }

    /// The next request that is held; none after `limit`.
    pub async fn next(&mut self, limit: Duration) -> Option<HeldRequest> {
        tokio::time::timeout(limit, self.held.recv()).await.ok().flatten()
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// What the test is told and says: what it watches, what is held, and when connections are cut.
type Test = (Arc<Mutex<Option<WatchedRequests>>>, mpsc::Sender<HeldRequest>, watch::Receiver<()>);

async fn serve<P: Protocol>(listener: TcpListener, server: String, protocol: impl Fn() -> P, test: Test) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (server, protocol, (watch, hold, mut cut)) = (server.clone(), protocol(), test.clone());
                cut.mark_unchanged();
                relays.spawn(async move {
                    let server = TcpStream::connect(server).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    let relay = Relay::new(client, server, protocol, watch, hold);
                    tokio::select! { end = relay.run() => end, _ = cut.changed() => Ok(()) }
                });
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// One connection.
struct Relay<P> {
    from_client: OwnedReadHalf,
    to_client: OwnedWriteHalf,
    from_server: OwnedReadHalf,
    to_server: OwnedWriteHalf,
    protocol: P,
    /// What the client, and what the server, has said of a message that is not whole.
    unread: (Vec<u8>, Vec<u8>),
    watch: Arc<Mutex<Option<WatchedRequests>>>,
    hold: mpsc::Sender<HeldRequest>,
}

impl<P: Protocol> Relay<P> {
    fn new(
        client: TcpStream,
        server: TcpStream,
        protocol: P,
        watch: Arc<Mutex<Option<WatchedRequests>>>,
        hold: mpsc::Sender<HeldRequest>,
    ) -> Self {
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let unread = (Vec::new(), Vec::new());
        Self { from_client, to_client, from_server, to_server, protocol, unread, watch, hold }
    }

    /// Passes on what each side says, until one of them ends or is cut.
    async fn run(mut self) -> io::Result<()> {
        let (mut asked, mut answered) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            tokio::select! {
                count = self.from_client.read(&mut asked) => match count? {
                    0 => return Ok(()),
                    count => self.ask(&asked[..count]).await?,
                },
                count = self.from_server.read(&mut answered) => match count? {
                    0 => return Ok(()),
                    count => self.answer(&answered[..count]).await?,
                },
            }
        }
    }

    async fn ask(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unread.0.extend_from_slice(bytes);
        while let Some((message, request)) = self.protocol.ask(&mut self.unread.0) {
            if let Some(request) = request {
                if self.watched(&request) == Some(Side::Before) {
                    self.held().await?;
                }
                // The test may have asked for its answer meanwhile.
                if self.watched(&request) == Some(Side::After) {
                    self.protocol.withhold();
                }
            }
            self.to_server.write_all(&message).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unread.1.extend_from_slice(bytes);
        while let Some((answer, withheld)) = self.protocol.answer(&mut self.unread.1) {
            if withheld {
                self.held().await?;
            }
            self.to_client.write_all(&answer).await?;
        }
        Ok(())
    }

    fn watched(&self, request: &str) -> Option<Side> {
        let all = |watch: &&WatchedRequests| watch.texts.iter().all(|text| request.contains(text));
        lock(&self.watch).as_ref().filter(all).map(|watch| watch.side)
    }

    /// Waits for the test's word.
    async fn held(&self) -> io::Result<()> {
        let (pass, passed) = oneshot::channel();
        let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.hold.send(HeldRequest { pass }).await.map_err(|_| cut())?;
        passed.await.map_err(|_| cut())
    }
}

/// Nothing panics while it holds the lock.
fn lock(watch: &Mutex<Option<WatchedRequests>>) -> MutexGuard<'_, Option<WatchedRequests>> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What living clients log in with, seen by a listener that notes what each shows and hangs up: every login is of a new connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headwater::spi::{Source as _, SourceEvent};
use headwater_connectors::kafka::{
    CallbackProducer, ChangelogReader, Cluster, KafkaConfig, KafkaError, KafkaSasl, KafkaSource, Producer,
    SaslMechanism, SourceConfig, Start, Subscription, TransactionalProducer,
};
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, partition, record};

/// Every kind of client there is, by the name that it has here.
const KINDS: [&str; 6] = ["admin", "callback", "changelog", "idempotent", "member", "transactional"];

/// A broker as far as logins go: what each client has shown.
struct LoginListener {
    bootstrap: String,
    shown: Arc<Mutex<Vec<(String, String)>>>,
}

impl LoginListener {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bootstrap = listener.local_addr().unwrap().to_string();
        let shown: Arc<Mutex<Vec<_>>> = Arc::default();
        let notes = shown.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let notes = notes.clone();
                std::thread::spawn(move || {
                    if let Some(login) = login(stream) {
                        notes.lock().unwrap().push(login);
                    }
                });
            }
        });
        Self { bootstrap, shown }
    }

    /// Clients that log in here, by this name.
    fn config(&self, name: &str, sasl: &KafkaSasl) -> KafkaConfig {
        let properties = BTreeMap::from([("client.id".to_owned(), name.to_owned())]);
        let sasl = Some(sasl.clone());
        KafkaConfig { bootstrap: self.bootstrap.clone(), sasl, properties, ..KafkaConfig::default() }
    }

    /// What a client has shown so far.
    fn shown(&self, name: &str) -> BTreeSet<String> {
        let shown = self.shown.lock().unwrap();
        shown.iter().filter(|(client, _)| client == name).map(|(_, shown)| shown.clone()).collect()
    }

    /// Waits until each of these clients has shown something that is like this.
    async fn sees(&self, names: &[&str], is: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        for name in names {
            while !self.shown(name).iter().any(|shown| is(shown)) {
                assert!(Instant::now() < deadline, "{name} has shown {:?}", self.shown(name));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut size = [0; 4];
    stream.read_exact(&mut size).ok()?;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn send(stream: &mut TcpStream, parts: &[&[u8]]) -> Option<()> {
    let body = parts.concat();
    stream.write_all(&[&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()).ok()
}

/// One client's name and what it shows.
fn login(mut stream: TcpStream) -> Option<(String, String)> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Each request begins with its key and version, a number that comes back, and the client's name.
    let versions = frame(&mut stream)?;
    assert_eq!(versions[..4], [0, 18, 0, 3], "it asks which requests are known, in version 3");
    // A handshake in its first version, after which the login is shown as it is, without Kafka's protocol around it.
    let known = [0, 17, 0, 0, 0, 0, 0];
    send(&mut stream, &[&versions[4..8], &[0, 0], &[2], &known, &[0, 0, 0, 0], &[0]])?;
    let handshake = frame(&mut stream)?;
    assert_eq!(handshake[..4], [0, 17, 0, 0], "a handshake of version 0");
    let (name, mechanism) = handshake[10..].split_at(usize::from(u16::from_be_bytes([handshake[8], handshake[9]])));
    send(&mut stream, &[&handshake[4..8], &[0, 0], &[0, 0, 0, 1], mechanism])?;
    let shown = frame(&mut stream)?;
    Some((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(&shown).into_owned()))
}

/// One client of each kind, alive until this is dropped.
struct Clients {
    _alive: (Cluster, CallbackProducer<()>, KafkaSource),
    _tasks: JoinSet<()>,
    cancelled: Arc<AtomicBool>,
}

impl Clients {
    /// Within a runtime.
    fn start(listener: &LoginListener, sasl: &KafkaSasl) -> Self {
        let config = |name| listener.config(name, sasl);
        let alive = (
            Cluster::new(&config("admin")).unwrap(),
            CallbackProducer::new(&config("callback"), |(), _| {}).unwrap(),
            KafkaSource::join(&config("member"), member()).unwrap(),
        );
        let (mut tasks, cancelled) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let idempotent = Producer::new(&config("idempotent")).unwrap();
        // It has a client once it has a record.
        tasks.spawn(async move { _ = idempotent.send(&[record("t", None, "")]).await });
        let (reader, flag) = (ChangelogReader::new(&config("changelog"), "g").unwrap(), cancelled.clone());
        tasks.spawn_blocking(move || {
            let _ = reader.read(&[(partition("log", 0), None)], &flag, |_, _, _, _| {}, |_| {});
        });
        let mut transactional = TransactionalProducer::new(&config("transactional"), "t").unwrap();
        tasks.spawn(async move { while transactional.begin().await.is_err() {} });
        Self { _alive: alive, _tasks: tasks, cancelled }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

fn member() -> SourceConfig {
    SourceConfig {
        group: "g".to_owned(),
        instance: None,
        subscription: Subscription { topics: vec!["t".to_owned()], patterns: Vec::new() },
        start: Start::Earliest,
        commits: true,
        assignor: None,
        client_id: None,
    }
}

/// Each kind of client shows the password of the file, and another one once the file holds it; one that is gone is told nothing.
/// Red when a kind of client is not made where logins are kept (`credentials::create`), or a change of the file is not told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_client_logs_in_with_the_password_that_its_file_holds_now() {
    let (listener, dir) = (LoginListener::start(), tempfile::tempdir().unwrap());
    let file = dir.path().join("password");
    std::fs::write(&file, "first-planted\n").unwrap();
    let sasl = KafkaSasl {
        mechanism: SaslMechanism::Plain,
        username: Some("app".to_owned()),
        password_file: Some(file.clone()),
        ..KafkaSasl::default()
    };
    let clients = Clients::start(&listener, &sasl);
    drop(CallbackProducer::new(&listener.config("gone", &sasl), |(), _| {}).unwrap());
    listener.sees(&KINDS, |shown| shown == "\0app\0first-planted").await;
    std::fs::write(&file, "second-planted\n").unwrap();
    listener.sees(&KINDS, |shown| shown == "\0app\0second-planted").await;
    drop(clients);
    std::fs::write(&file, "third-planted\n").unwrap();
    let _late = CallbackProducer::new(&listener.config("late", &sasl), |(), _| {}).unwrap();
    listener.sees(&["late"], |shown| shown == "\0app\0third-planted").await;
    assert_eq!(listener.shown("late").len(), 1, "{:?}", listener.shown("late"));
}

/// An OAuth server as far as one client goes: gives `token-1`, `token-2`, … to who knows the secret.
struct TokenServer {
    url: String,
    shared: Arc<Mutex<TokenServerState>>,
}

struct TokenServerState {
    /// Tokens are valid for so many seconds.
    lifetime: u32,
    /// What is answered instead.
    failure: Option<&'static str>,
    requests: Vec<String>,
}

impl TokenServer {
    fn start(lifetime: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(TokenServerState { lifetime, failure: None, requests: Vec::new() }));
        let state = shared.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if let Some(request) = request(&mut stream) {
                    let answer = state.lock().unwrap().answer(request);
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Self { url, shared }
    }

    fn requests(&self) -> Vec<String> {
        self.shared.lock().unwrap().requests.clone()
    }

    fn fail(&self, failure: Option<&'static str>) {
        self.shared.lock().unwrap().failure = failure;
    }

    fn sasl(&self, secret: PathBuf) -> KafkaSasl {
        KafkaSasl {
            mechanism: SaslMechanism::OauthBearer,
            token_url: Some(self.url.clone()),
            client_id: Some("app".to_owned()),
            client_secret_file: Some(secret),
            scope: Some("kafka all".to_owned()),
            extensions: BTreeMap::from([("logicalCluster".to_owned(), "lkc-1".to_owned())]),
            ..KafkaSasl::default()
        }
    }
}

impl TokenServerState {
    fn answer(&mut self, request: String) -> String {
        self.requests.push(request);
        let token = format!(r#"{{"access_token":"token-{}","expires_in":{}}}"#, self.requests.len(), self.lifetime);
        let (status, body) = self.failure.map_or(("200 OK", token), |failure| {
            (failure, r#"{"error":"invalid_client","error_description":"planted"}"#.to_owned())
        });
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    }
}

/// A whole request as text.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4_096];
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
        if body.len() >= length {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

fn secret() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "hunter 2\n").unwrap();
    (dir, file)
}

/// All clients of a process show one token, with the extensions; it is asked for as RFC 6749 has it.
/// Red when each client asks for its own, a kind of client is told none, or the secret goes elsewhere than into the header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_of_a_process_show_one_token() {
    let (listener, server, (_dir, secret)) = (LoginListener::start(), TokenServer::start(3_600), secret());
    let _clients = Clients::start(&listener, &server.sasl(secret));
    listener.sees(&KINDS, |shown| shown == "n,,\u{1}auth=Bearer token-1\u{1}logicalCluster=lkc-1\u{1}\u{1}").await;
    let requests = server.requests();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert!(request.starts_with("POST /token "), "{request}");
    // base64 of `app:hunter+2`.
    assert!(request.contains("authorization: Basic YXBwOmh1bnRlcisy\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=kafka+all"), "{request}");
}

/// A token is renewed before it expires, and clients of every kind show the new one.
/// Red when a token is fetched once, or is not told to clients that live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_client_shows_the_token_of_now() {
    let (listener, server, (_dir, secret)) = (LoginListener::start(), TokenServer::start(2), secret());
    let _clients = Clients::start(&listener, &server.sasl(secret));
    for number in [1, 3, 5] {
        let is_late = |shown: &str| {
            let token = shown.split("Bearer token-").nth(1).and_then(|rest| rest.split('\u{1}').next());
            token.and_then(|token| token.parse::<u32>().ok()).is_some_and(|token| token >= number)
        };
        listener.sees(&KINDS, is_late).await;
    }
}

/// Red when a token server that refuses or is away leaves its reason out, waits for a broker's time-out, or is not asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_there_is_no_token_is_said_and_ends_by_itself() {
    let (listener, server, (_dir, secret)) = (LoginListener::start(), TokenServer::start(3_600), secret());
    server.fail(Some("401 Unauthorized"));
    let sasl = server.sasl(secret);
    let cluster = Cluster::new(&listener.config("admin", &sasl)).unwrap();
    let begin = Instant::now();
    let refused = cluster.topics().await.unwrap_err();
    let said = format!(
        "kafka login: token server {}: it does not accept client \"app\": check kafka.sasl.client_id and client_secret_file",
        server.url
    );
    assert_eq!(refused, KafkaError::Credentials(said.clone()));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let mut member = KafkaSource::join(&listener.config("member", &sasl), member()).unwrap();
    let reason = loop {
        if let SourceEvent::Connected(Err(reason)) = tokio::time::timeout(PATIENCE, member.next(true)).await.unwrap() {
            break reason;
        }
    };
    assert_eq!(reason, said);
    server.fail(Some("503 Service Unavailable"));
    let deadline = Instant::now() + PATIENCE;
    while cluster.topics().await
        != Err(KafkaError::Outage(format!("kafka login: token server {}: it answers 503", server.url)))
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.fail(None);
    listener.sees(&["admin", "member"], |shown| shown.contains("auth=Bearer token-")).await;
}

//! Who may ask what, and how much is taken at once, over real connections.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    access::{Access, UserId},
    behind,
    connection::Peer,
    listener::{BoundedListener, Bounds},
    openness,
};
use crate::{
    auth::{Reloaded, ServerTlsConfig, Tokens},
    config::ServerConfig,
};

/// How long what should happen may take.
const SOON: Duration = Duration::from_secs(20);

fn config(delegates: &[&str]) -> ServerConfig {
    ServerConfig {
        addr: ([127, 0, 0, 1], 0).into(),
        advertise: String::new(),
        tls: None,
        probe_addr: None,
        token_file: None,
        peers: Vec::new(),
        delegates: delegates.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn tokens(text: &str) -> Option<Arc<Reloaded<Tokens>>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Some(Arc::new(Tokens::open(file.path()).unwrap()))
}

/// A server with a route of each kind, on which nothing of ours is special.
struct Running {
    addr: std::net::SocketAddr,
    _task: JoinSet<std::io::Result<()>>,
}

async fn start(access: Access, tls: Option<Reloaded<rustls::ServerConfig>>, bounds: Bounds) -> Running {
    let user = async |UserId(user): UserId| user.unwrap_or_else(|| "nobody".to_owned());
    let routes = Router::new()
        .route("/livez", get(async || "alive"))
        .route("/v1/later", get(user).post(async || "changed"))
        .route("/later", get(async || "read"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let routes = behind(access, routes).into_make_service_with_connect_info::<Peer>();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(BoundedListener::new(listener, tls, bounds), routes).await });
    Running { addr, _task: task }
}

impl Running {
    /// Status line, headers and body of the answer.
    async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn status(&self, method: &str, path: &str, headers: &[&str]) -> u16 {
        self.ask(method, path, headers).await.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default()
    }
}

/// What comes until the other end closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is cut may be reset.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Red when a route that comes later is open by itself, under `/v1` or not, a probe wants a token, a scheme or a part of a token
/// is enough, or the refusal does not say what to show.
#[tokio::test]
async fn every_route_but_the_probes_wants_a_token() {
    let access = Access::new(&config(&[]), tokens("shop new-7f3a\nshop old-11c0"));
    let server = start(access, None, Bounds::default()).await;
    assert_eq!(server.status("GET", "/livez", &[]).await, 200);
    for path in ["/v1/later", "/later", "/v1/nothing", "/livez/"] {
        let answer = server.ask("GET", path, &[]).await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
        assert!(answer.contains(r#"{"error":"send `Authorization: Bearer TOKEN`"#), "{answer}");
    }
    for right in ["authorization: Bearer new-7f3a", "authorization: bearer old-11c0"] {
        assert_eq!(server.status("GET", "/v1/later", &[right]).await, 200, "{right}");
        assert_eq!(server.status("POST", "/v1/later", &[right]).await, 200, "{right}");
    }
    for wrong in ["Bearer new-7f3", "Basic new-7f3a", "new-7f3a", "Bearer", "Bearer shop"] {
        assert_eq!(server.status("GET", "/v1/later", &[&format!("authorization: {wrong}")]).await, 401, "{wrong}");
    }
    let answer = server.ask("GET", "/v1/later", &["authorization: Bearer hunter2"]).await;
    assert!(answer.contains("this token is not known here") && !answer.contains("hunter2"), "{answer}");
}

/// Red when the user whom somebody names is believed of all, of nobody, or where nobody shows who they are, or when more than one
/// is named.
#[tokio::test]
async fn a_user_is_believed_of_delegates_alone() {
    let access = Access::new(&config(&["desk"]), tokens("desk desk-token\nshop shop-token"));
    let server = start(access, None, Bounds::default()).await;
    let desk = "authorization: Bearer desk-token";
    let answer = server.ask("GET", "/v1/later", &[desk, "x-user-id: u-7"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("u-7"), "{answer}");
    assert!(server.ask("GET", "/v1/later", &[desk]).await.ends_with("nobody"));
    let answer = server.ask("GET", "/later", &["authorization: Bearer shop-token", "x-user-id: u-7"]).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("does not name shop"), "{answer}");
    for wrong in [&[desk, "x-user-id: u-7", "x-user-id: u-8"][..], &[desk, "x-user-id: "], &[desk, "x-user-id: ü"]] {
        assert_eq!(server.status("GET", "/v1/later", wrong).await, 403, "{wrong:?}");
    }
    let open = start(Access::new(&config(&[]), None), None, Bounds::default()).await;
    assert_eq!(open.status("GET", "/v1/later", &["x-user-id: u-7"]).await, 403);
    assert_eq!(open.status("GET", "/v1/later", &[]).await, 200);
    assert_eq!(open.status("GET", "/livez", &["x-user-id: u-7"]).await, 200);
}

/// Red when nothing is said of an address that everybody may ask, or that is told tokens in plain text, or when something is said
/// where only this host reaches it.
#[test]
fn an_address_that_others_reach_is_warned_of() {
    let said = |addr: &str, has_tls, access: &Access| openness(addr.parse().unwrap(), has_tls, access).unwrap_or("");
    let (open, guarded) = (Access::new(&config(&[]), None), Access::new(&config(&[]), tokens("shop new-7f3a")));
    for here in ["127.0.0.1:80", "[::1]:80"] {
        assert_eq!((said(here, false, &open), said(here, false, &guarded)), ("", ""), "{here}");
    }
    for there in ["0.0.0.0:80", "10.0.0.7:80", "[::]:80"] {
        assert!(said(there, true, &open).starts_with("whoever reaches this address"), "{there}");
        assert!(said(there, false, &guarded).starts_with("tokens come in plain text"), "{there}");
        assert_eq!(said(there, true, &guarded), "", "{there}");
    }
}

/// Red when a connection that asks for nothing, byte by byte for no end, or that does not take its answer stays for ever.
#[tokio::test]
async fn a_connection_without_an_answer_ends() {
    let bounds = Bounds { quiet: Duration::from_millis(200), ..Bounds::default() };
    let server = start(Access::new(&config(&[]), None), None, bounds).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(read_all(&mut silent).await, "");
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nx: ").await.unwrap();
    let since = std::time::Instant::now();
    while slow.write_all(b"y").await.is_ok() {
        assert!(since.elapsed() < SOON, "it is read for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut kept = TcpStream::connect(server.addr).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    assert!(read_all(&mut kept).await.ends_with("alive"), "answered, and closed when nothing follows");
}

/// Red when more connections are taken than there are places for, or a place is not given back.
#[tokio::test]
async fn connections_wait_for_a_place() {
    let bounds = Bounds { connections: 1, ..Bounds::default() };
    let server = start(Access::new(&config(&[]), None), None, bounds).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let mut begin = [0; 12];
    first.read_exact(&mut begin).await.unwrap();
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(b"GET /livez HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), second.read_u8()).await;
    assert!(early.is_err(), "answered while the only place is taken");
    drop(first);
    assert!(read_all(&mut second).await.ends_with("alive"));
}

/// A certificate and its key, as files.
fn certificate(dir: &std::path::Path) -> ServerTlsConfig {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    ServerTlsConfig { cert: Some(cert_file), key: Some(key_file), client_ca: None }
}

/// Handshakes that never end leave others alone, and are ended.
/// Red when a handshake is waited for before the next connection is taken, or has no limit.
#[tokio::test]
async fn a_handshake_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { handshake: Duration::from_secs(2), ..Bounds::default() };
    let tls = certificate(dir.path()).open().unwrap();
    let server = start(Access::new(&config(&[]), None), Some(tls), bounds).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    // An alert of TLS: whoever speaks none is told so while the first one is still silent.
    assert!(!read_all(&mut plain).await.contains("alive"));
    let still = tokio::time::timeout(Duration::from_millis(1), silent.read_u8()).await;
    assert!(still.is_err(), "the silent one was answered first");
    assert_eq!(read_all(&mut silent).await, "");
}

//! A gate in front of an HTTP server: it lets requests through, or answers them itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The longest request that is read.
const REQUEST: usize = 1 << 20;
/// The most requests that are remembered.
const REQUESTS: usize = 100_000;

/// A gate that listens on a free port; it closes when it is dropped.
pub struct Gate {
    url: String,
    shared: Arc<Mutex<Shared>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    answer: Option<String>,
    /// The values of the header `Authorization` that are let through; all are without.
    authorizations: Option<Vec<String>>,
    requests: Vec<(Instant, String)>,
}

impl Gate {
    /// An open gate in front of the server at this base URL, `http://host:port`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let shared = Arc::<Mutex<Shared>>::default();
        let (state, mut tasks) = (shared.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                calls.spawn(serve(client, server.clone(), state.clone()));
                while calls.try_join_next().is_some() {}
            }
        });
        Self { url: format!("http://{address}"), shared, _tasks: tasks }
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on every request is answered so, status line and headers such as `503 Service Unavailable\r\nretry-after: 3`;
    /// `None` opens the gate.
    pub fn answer(&self, answer: Option<&str>) {
        lock(&self.shared).answer = answer.map(str::to_owned);
    }

    /// From now on only requests with one of these values in their header `Authorization` are let through; any other is
    /// answered with 401.
    pub fn require(&self, authorizations: &[&str]) {
        let authorizations = authorizations.iter().map(|one| (*one).to_owned()).collect();
        lock(&self.shared).authorizations = Some(authorizations);
    }

    /// When requests have come that contain this text, since the gate was made.
    pub fn requests(&self, text: &str) -> Vec<Instant> {
        lock(&self.shared).requests.iter().filter(|(_, request)| request.contains(text)).map(|(at, _)| *at).collect()
    }
}

/// Each connection takes one request, so that none stays open beyond a change.
async fn serve(mut client: TcpStream, server: String, shared: Arc<Mutex<Shared>>) {
    let Some(request) = read(&mut client).await else { return };
    let answer = {
        let mut shared = lock(&shared);
        let text = String::from_utf8_lossy(&request).into_owned();
        let shown = authorization(&text);
        let known = shared.authorizations.as_ref().is_none_or(|all| all.iter().any(|one| Some(one.as_str()) == shown));
        let unknown = (!known).then(|| "401 Unauthorized".to_owned());
        if shared.requests.len() < REQUESTS {
            shared.requests.push((Instant::now(), text));
        }
        unknown.or_else(|| shared.answer.clone())
    };
    let answer = match answer {
        Some(answer) => format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes(),
        None => pass(&server, &request).await.unwrap_or_default(),
    };
    // A caller who has given up hears nothing.
    let _ = client.write_all(&answer).await;
    let _ = client.shutdown().await;
}

/// The value of a request's header `Authorization`.
fn authorization(request: &str) -> Option<&str> {
    let head = request.lines().skip(1).take_while(|line| !line.is_empty());
    let mut headers = head.filter_map(|line| line.split_once(':'));
    headers.find_map(|(name, value)| name.eq_ignore_ascii_case("authorization").then(|| value.trim()))
}

/// A request with its body, made to be the last of its connection.
async fn read(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await.ok()? == 0 || bytes.len() > REQUEST {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    while bytes.len() < head + length.unwrap_or(0) {
        if client.read_buf(&mut bytes).await.ok()? == 0 || bytes.len() > REQUEST {
            return None;
        }
    }
    bytes.splice(head - 2..head - 2, b"connection: close\r\n".iter().copied());
    Some(bytes)
}

async fn pass(server: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(request).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// No code panics while it holds the lock.
fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A proxy before Postgres that holds a statement: a crash can then strike on either side of it.
//!
//! It reads what the client says as far as it must: which statement is run, also where that was prepared before and is run
//! by its name. What is held reaches the other side when the test says so. A connection whose statement is let go unsaid
//! is cut, as that of a client which was killed.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinSet,
};

const CHUNK: usize = 64 * 1024;
/// What a server says last in every answer, but for the state of the transaction that follows.
const READY: [u8; 5] = [b'Z', 0, 0, 0, 5];

/// On which side of the server a statement is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server has not heard of it.
    Before,
    /// The server has answered, and the client does not know.
    After,
}

/// A proxy on a free port of the loopback; it ends with this value.
pub struct PostgresProxy {
    url: String,
    watch: Arc<Mutex<Option<Watch>>>,
    held: mpsc::Receiver<Held>,
    _serving: JoinSet<()>,
}

/// A statement that waits; dropping it cuts its connection.
pub struct Held {
    pass: oneshot::Sender<()>,
}

impl Held {
    /// Lets it go on.
    pub fn pass(self) {
        // Whoever ran it may be gone.
        let _ = self.pass.send(());
    }
}

#[derive(Clone, Debug)]
struct Watch {
    side: Side,
    text: String,
}

impl PostgresProxy {
    /// A proxy to the server and the database of this URL.
    ///
    /// # Panics
    /// When no port is free, or the URL names no server.
    pub async fn start(database_url: &str) -> Self {
        let mut url = Url::parse(database_url).expect("a valid url");
        let server = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(port)).expect("a port");
        // What is encrypted cannot be read.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let (watch, (hold, held)) = (Arc::default(), mpsc::channel(16));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, server, Arc::clone(&watch), hold));
        Self { url: url.into(), watch, held, _serving: serving }
    }

    /// Where clients reach the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on every statement with this text in it is held here.
    pub fn watch(&self, side: Side, text: &str) {
        *lock(&self.watch) = Some(Watch { side, text: text.to_owned() });
    }

    /// Nothing is held any more, and what is held and was not asked for is cut.
    pub fn unwatch(&mut self) {
        *lock(&self.watch) = None;
        while self.held.try_recv().is_ok() {}
    }

    /// The next statement that is held; none after `limit`.
    pub async fn next(&mut self, limit: Duration) -> Option<Held> {
        tokio::time::timeout(limit, self.held.recv()).await.ok().flatten()
    }
}

async fn serve(listener: TcpListener, server: String, watch: Arc<Mutex<Option<Watch>>>, hold: mpsc::Sender<Held>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (server, watch, hold) = (server.clone(), Arc::clone(&watch), hold.clone());
                relays.spawn(async move {
                    let server = TcpStream::connect(server).await?;
                    Relay::new(client, server, watch, hold).run().await
                });
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// One connection.
struct Relay {
    from_client: OwnedReadHalf,
    to_client: OwnedWriteHalf,
    from_server: OwnedReadHalf,
    to_server: OwnedWriteHalf,
    frames: Frames,
    /// The server's answer to a statement that is held after it, as far as it has come.
    withheld: Option<Vec<u8>>,
    watch: Arc<Mutex<Option<Watch>>>,
    hold: mpsc::Sender<Held>,
}

impl Relay {
    fn new(client: TcpStream, server: TcpStream, watch: Arc<Mutex<Option<Watch>>>, hold: mpsc::Sender<Held>) -> Self {
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (frames, withheld) = (Frames::default(), None);
        Self { from_client, to_client, from_server, to_server, frames, withheld, watch, hold }
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
        self.frames.unread.extend_from_slice(bytes);
        while let Some((frame, statement)) = self.frames.next() {
            if let Some(statement) = statement {
                if self.watched(&statement) == Some(Side::Before) {
                    self.held().await?;
                }
                // The test may have asked for its answer meanwhile.
                if self.watched(&statement) == Some(Side::After) {
                    self.withheld = Some(Vec::new());
                }
            }
            self.to_server.write_all(&frame).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut answer) = self.withheld.take() else { return self.to_client.write_all(bytes).await };
        answer.extend_from_slice(bytes);
        if answer.len() < 6 || !answer[..answer.len() - 1].ends_with(&READY) {
            self.withheld = Some(answer);
            return Ok(());
        }
        self.held().await?;
        self.to_client.write_all(&answer).await
    }

    fn watched(&self, statement: &str) -> Option<Side> {
        lock(&self.watch).as_ref().filter(|watch| statement.contains(&watch.text)).map(|watch| watch.side)
    }

    /// Waits for the test's word.
    async fn held(&self) -> io::Result<()> {
        let (pass, passed) = oneshot::channel();
        let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.hold.send(Held { pass }).await.map_err(|_| cut())?;
        passed.await.map_err(|_| cut())
    }
}

/// What a client has said, a message at a time.
#[derive(Default)]
struct Frames {
    unread: Vec<u8>,
    /// The first message has no type.
    begun: bool,
    prepared: HashMap<String, String>,
}

impl Frames {
    /// The next whole message, and the statement that it runs, if it runs one.
    fn next(&mut self) -> Option<(Vec<u8>, Option<String>)> {
        let head = usize::from(self.begun);
        let length: [u8; 4] = self.unread.get(head..head + 4)?.try_into().ok()?;
        let end = head + usize::try_from(u32::from_be_bytes(length)).ok()?;
        if self.unread.len() < end {
            return None;
        }
        let frame: Vec<u8> = self.unread.drain(..end).collect();
        if !std::mem::replace(&mut self.begun, true) {
            return Some((frame, None));
        }
        let mut texts = frame[5..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut text = || texts.next().unwrap_or_default();
        let statement = match frame[0] {
            b'Q' => Some(text()),
            b'P' => {
                let (name, statement) = (text(), text());
                self.prepared.insert(name, statement);
                None
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.prepared.get(&name).cloned()
            }
            _ => None,
        };
        Some((frame, statement))
    }
}

/// Nothing panics while it holds the lock.
fn lock(watch: &Mutex<Option<Watch>>) -> MutexGuard<'_, Option<Watch>> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    /// Red when a statement that was prepared is not known by its name, or a message in two pieces is read as two.
    #[test]
    fn a_statement_is_known_when_it_is_run_not_when_it_is_prepared() {
        let mut said = frame(b'x', b"startup")[1..].to_vec();
        said.extend(frame(b'P', b"s1\0insert into t\0\0\0"));
        said.extend(frame(b'B', b"\0s1\0\0\0\0\0\0\0"));
        said.extend(frame(b'Q', b"COMMIT\0"));
        let mut frames = Frames::default();
        let (mut passed, mut run) = (Vec::new(), Vec::new());
        for piece in said.chunks(3) {
            frames.unread.extend_from_slice(piece);
            while let Some((frame, statement)) = frames.next() {
                passed.extend(frame);
                run.extend(statement);
            }
        }
        assert_eq!(run, ["insert into t", "COMMIT"]);
        assert!(passed == said, "every byte is passed on, in order");
    }
}

//! The first words with a broker: a connection, TLS where it is configured, and which logins it takes.
//!
//! No password is sent. Which logins a listener takes it says to who asks for one by its name (`SaslHandshake`), and whether it
//! takes any at all.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, Error as TlsError, StreamOwned, pki_types::ServerName};

use super::{
    Diagnosis,
    trust::{self, TrustConfig},
};
use crate::{
    kafka::config::{
        KafkaConfig,
        security::{KafkaSasl, KafkaTls},
    },
    security::tls::handshake,
};

/// How long a connection, and each word after it, may take.
const STEP: Duration = Duration::from_secs(2);
/// So long a server has for saying that it does not like our certificate: in TLS 1.3 it does so after the handshake.
const OBJECTION: Duration = Duration::from_millis(500);
/// Bytes of an answer at most.
const ANSWER: usize = 64 << 10;

/// Talks to a broker, `host:port`, as far as no password is needed.
pub(super) fn open(config: &KafkaConfig, broker: &str) -> Result<(), Diagnosis> {
    let broker = BrokerAddress::new(broker);
    // What is set past the sections nobody here understands.
    let is_foreign =
        |name: &String| name == "security.protocol" || name.starts_with("ssl.") || name.starts_with("sasl.");
    if config.properties.keys().any(is_foreign) {
        return broker.connect().map(drop).map_err(|error| broker.outage(&error));
    }
    let wanted = config.sasl.as_ref().map_or("", |sasl| sasl.mechanism.name());
    let logins = match &config.tls {
        Some(tls) => broker.encrypted(tls, wanted)?,
        None => broker.plain(wanted)?,
    };
    broker.judge(&logins, config.sasl.as_ref())
}

/// Which logins a listener takes.
#[derive(Debug, PartialEq, Eq)]
enum Logins {
    /// None: whoever comes is let in.
    Needless,
    /// The one that was asked for.
    Taken,
    /// Others only.
    Only(Vec<String>),
    /// That could not be asked.
    Unknown,
}

struct BrokerAddress<'a> {
    /// `host:port`.
    address: &'a str,
    host: &'a str,
}

impl<'a> BrokerAddress<'a> {
    fn new(address: &'a str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Self { address, host: host.trim_start_matches('[').trim_end_matches(']') }
    }

    fn judge(&self, logins: &Logins, sasl: Option<&KafkaSasl>) -> Result<(), Diagnosis> {
        match (logins, sasl) {
            (Logins::Only(taken), None) => {
                self.denied(format_args!(" wants a login: add [kafka.sasl] with {}", taken.join(" or ")))
            }
            (Logins::Only(taken), Some(sasl)) => {
                self.denied(format_args!(": it does not take {}, only {}", sasl.mechanism.name(), taken.join(", ")))
            }
            (Logins::Needless, Some(_)) => {
                self.denied(format_args!(" takes no login: remove [kafka.sasl], or name the port of its SASL listener"))
            }
            _ => Ok(()),
        }
    }

    fn plain(&self, wanted: &str) -> Result<Logins, Diagnosis> {
        let mut stream = self.connect().map_err(|error| self.outage(&error))?;
        match logins(&mut stream, wanted) {
            Ok(logins) => Ok(logins),
            Err(_) if self.speaks_tls() => self.denied(format_args!(" speaks TLS: add [kafka.tls]")),
            Err(error) => Err(self.outage(&error)),
        }
    }

    fn encrypted(&self, tls: &KafkaTls, wanted: &str) -> Result<Logins, Diagnosis> {
        let trust = trust::of(tls).map_err(|why| Diagnosis::outage(format!("kafka.tls: {why}")))?;
        // Without authorities of its own OpenSSL may know some that are not found here.
        let Some(TrustConfig { client, shows_certificate, has_expired }) = trust else { return Ok(Logins::Unknown) };
        let stream = self.connect().map_err(|error| self.outage(&error))?;
        let asked = self.handshake(stream, client).and_then(|mut stream| {
            await_objection(&mut stream)?;
            logins(&mut stream, wanted)
        });
        let error = match asked {
            Ok(logins) => return Ok(logins),
            Err(error) => error,
        };
        match handshake::tls_error(&error) {
            None if self.speaks_plainly() => self.without_tls(),
            None => Err(self.outage(&error)),
            Some(TlsError::InvalidMessage(_)) => self.without_tls(),
            // With a key that only librdkafka can decrypt none was shown.
            Some(TlsError::AlertReceived(_)) if !shows_certificate && tls.key.is_some() => Ok(Logins::Unknown),
            Some(TlsError::AlertReceived(alert))
                if !shows_certificate && handshake::is_about_our_certificate(*alert) =>
            {
                self.denied(format_args!(": it wants a client certificate: set cert and key"))
            }
            Some(TlsError::AlertReceived(alert)) if has_expired && handshake::is_about_our_certificate(*alert) => {
                self.denied(format_args!(": our client certificate has expired: renew cert and key"))
            }
            Some(problem) => {
                let text = format!("kafka broker {}: {}", self.address, handshake::problem(problem, self.host));
                Err(Diagnosis { text, is_denial: handshake::is_denial(problem) })
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::other("it has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, STEP) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(STEP))?;
                    stream.set_write_timeout(Some(STEP))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn handshake(&self, stream: TcpStream, client: Arc<ClientConfig>) -> io::Result<TlsStream> {
        let name = ServerName::try_from(self.host.to_owned()).map_err(io::Error::other)?;
        let client = ClientConnection::new(client, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(client, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// Whether somebody answers there in TLS, be it that nobody here trusts it.
    fn speaks_tls(&self) -> bool {
        let (Ok(stream), Ok(client)) = (self.connect(), trust::of_nobody()) else { return false };
        match self.handshake(stream, client) {
            Ok(_) => true,
            Err(error) => {
                handshake::tls_error(&error).is_some_and(|problem| !matches!(problem, TlsError::InvalidMessage(_)))
            }
        }
    }

    /// Whether a broker answers there without TLS.
    fn speaks_plainly(&self) -> bool {
        self.connect().and_then(|mut stream| logins(&mut stream, "")).is_ok()
    }

    fn without_tls<T>(&self) -> Result<T, Diagnosis> {
        self.denied(format_args!(" does not speak TLS: remove [kafka.tls], or name the port of its TLS listener"))
    }

    fn denied<T>(&self, why: std::fmt::Arguments<'_>) -> Result<T, Diagnosis> {
        Err(Diagnosis::denial(format!("kafka broker {}{why}", self.address)))
    }

    fn outage(&self, error: &io::Error) -> Diagnosis {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "it closes the connection".to_owned()
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer in time".to_owned(),
            _ => error.to_string(),
        };
        Diagnosis::outage(format!("kafka broker {}: {why}", self.address))
    }
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Waits for what a server has against our certificate. Were we to write first, it would close the connection upon that, and what it
/// has said could be lost.
fn await_objection(stream: &mut TlsStream) -> io::Result<()> {
    stream.sock.set_read_timeout(Some(OBJECTION))?;
    loop {
        match stream.conn.read_tls(&mut stream.sock) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Tickets for later connections.
            Ok(_) => drop(stream.conn.process_new_packets().map_err(io::Error::other)?),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            Err(error) => return Err(error),
        }
    }
    stream.sock.set_read_timeout(Some(STEP))
}

/// Asks for a login by `SaslHandshake` (key 17, version 1), and gives back what the listener says to that.
/// See <https://kafka.apache.org/protocol#The_Messages_SaslHandshake>.
fn logins(stream: &mut (impl Read + Write), wanted: &str) -> io::Result<Logins> {
    let mut request = vec![0, 17, 0, 1, 0, 0, 0, 1];
    for text in ["headwater", wanted] {
        request.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        request.extend(text.as_bytes());
    }
    let size = u32::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[&size.to_be_bytes()[..], &request].concat())?;
    stream.flush()?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(u32::from_be_bytes(size)).map_err(io::Error::other)?;
    if !(10..=ANSWER).contains(&size) {
        return Err(stranger());
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    understood(&answer).ok_or_else(stranger)
}

fn stranger() -> io::Error {
    io::Error::other("who answers there is no kafka broker")
}

/// The answer's correlation id, error code and list of mechanisms.
fn understood(answer: &[u8]) -> Option<Logins> {
    let (correlation, answer) = answer.split_at_checked(4)?;
    let (code, mut answer) = answer.split_first_chunk::<2>()?;
    if correlation != [0, 0, 0, 1] {
        return None;
    }
    match u16::from_be_bytes(*code) {
        0 => return Some(Logins::Taken),
        // A login has no place on such a listener.
        34 => return Some(Logins::Needless),
        // It is not one of those that are taken.
        33 => {}
        _ => return Some(Logins::Unknown),
    }
    let mut taken = Vec::new();
    (_, answer) = answer.split_first_chunk::<4>()?;
    while let Some((length, rest)) = answer.split_first_chunk::<2>() {
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        taken.push(String::from_utf8_lossy(name).into_owned());
        answer = rest;
    }
    Some(Logins::Only(taken))
}

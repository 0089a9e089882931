//! Takes connections, in plain text or behind TLS; no more at once than there are places for.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Peer, Transport};
use crate::auth::{Reloaded, common_name};

/// What is taken at once, and how long it may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections, with those that are not through their handshake.
    pub(super) connections: usize,
    /// Handshakes.
    pub(super) handshakes: usize,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
    /// How long a connection may carry no part of an answer.
    pub(super) quiet: Duration,
}

impl Default for Bounds {
    /// A minute between two scrapes of one connection is usual.
    fn default() -> Self {
        Self { connections: 256, handshakes: 64, handshake: Duration::from_secs(10), quiet: Duration::from_secs(90) }
    }
}

/// Takes connections. Handshakes go on beside each other and hold nobody up.
pub(super) struct BoundedListener {
    tcp: TcpListener,
    tls: Option<Reloaded<rustls::ServerConfig>>,
    bounds: Bounds,
    places: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, tls: Option<Reloaded<rustls::ServerConfig>>, bounds: Bounds) -> Self {
        let places = Arc::new(Semaphore::new(bounds.connections));
        Self { tcp, tls, bounds, places, handshakes: JoinSet::new() }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let Self { tcp, tls, bounds, places, handshakes } = self;
        loop {
            let connection = tokio::select! {
                Some(ended) = handshakes.join_next() => ended.ok().flatten(),
                (place, stream, addr) = next(tcp, places), if handshakes.len() < bounds.handshakes => match tls {
                    Some(tls) => {
                        handshakes.spawn(handshake(tls.current().into(), stream, addr, *bounds, place));
                        None
                    }
                    None => {
                        let peer = Peer { addr, certificate: None };
                        Some(Connection::new(Transport::Plain(stream), peer, bounds.quiet, place))
                    }
                },
            };
            if let Some(connection) = connection {
                let addr = connection.peer.addr;
                return (connection, addr);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        stream.io().peer.clone()
    }
}

/// The next connection, once there is a place for it.
async fn next(tcp: &mut TcpListener, places: &Arc<Semaphore>) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let Ok(place) = places.clone().acquire_owned().await else {
        // Nobody closes it.
        return std::future::pending().await;
    };
    let (stream, addr) = Listener::accept(tcp).await;
    (place, stream, addr)
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    addr: SocketAddr,
    bounds: Bounds,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    match tokio::time::timeout(bounds.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.map(|certificate| common_name(certificate).unwrap_or_default().into());
            let transport = Transport::Tls(Box::new(stream));
            Some(Connection::new(transport, Peer { addr, certificate }, bounds.quiet, place))
        }
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "the TLS handshake with a client failed");
            None
        }
        Err(_) => {
            tracing::debug!(%addr, "the TLS handshake with a client was not over within {:?}", bounds.handshake);
            None
        }
    }
}

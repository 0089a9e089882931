//! A way to the server that can be cut: then nobody listens, and what was connected is not any more.

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(super) struct Link {
    /// The server's own address, host and port.
    server: String,
    /// Ours.
    address: String,
    url: String,
    serving: JoinSet<()>,
}

impl Link {
    /// A way to the database of this address.
    pub(super) async fn to(url: &str) -> Self {
        let (before, database) = url.rsplit_once('/').unwrap();
        let (user, server) = before.rsplit_once('@').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let url = format!("{user}@{address}/{database}");
        let mut link = Self { server: server.to_owned(), address, url, serving: JoinSet::new() };
        link.serve(listener);
        link
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn cut(&mut self) {
        self.serving.shutdown().await;
    }

    pub(super) async fn mend(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let server = self.server.clone();
        self.serving.spawn(async move {
            // They end with this one.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    // Whichever side has ended.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
    }
}

//! Ctrl-C and SIGTERM: the first asks to stop, the second no longer waits.

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Listens for both signals as long as it lives.
pub(crate) struct Signals {
    stop: watch::Receiver<bool>,
    second: watch::Receiver<bool>,
    _listener: JoinSet<()>,
}

impl Signals {
    /// # Errors
    /// When the system takes no handler.
    pub(crate) fn listen() -> Result<Self> {
        let handler = |kind| signal(kind).context("cannot listen for signals");
        let (interrupt, terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
        let ((stop_in, stop), (second_in, second)) = (watch::channel(false), watch::channel(false));
        let mut listener = JoinSet::new();
        listener.spawn(listen(interrupt, terminate, stop_in, second_in));
        Ok(Self { stop, second, _listener: listener })
    }

    /// What a command looks at to know that it is to stop.
    pub(crate) fn stop(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Resolves at the second signal.
    pub(crate) async fn second(&mut self) {
        // Its sender lives as long as we do.
        let _ = self.second.wait_for(|seen| *seen).await;
    }
}

async fn listen(mut interrupt: Signal, mut terminate: Signal, stop: watch::Sender<bool>, second: watch::Sender<bool>) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    tracing::info!("stopping; a second signal does not wait for what is under way");
    stop.send_replace(true);
    next().await;
    second.send_replace(true);
    // The senders live on: their end would look like a signal.
    std::future::pending::<()>().await;
}

/// Whether the process was asked to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Resolves when it was.
    pub async fn requested(&mut self) {
        let _ = self.0.wait_for(|seen| *seen).await;
    }

    /// Whether it was.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// The channel itself, true once it was.
    pub(crate) fn channel(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}

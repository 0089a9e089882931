//! The client of a transactional producer, and the thread on which its calls block.

use std::{
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::kafka::producer::core::{ProducerClient, reports::Reports};

/// The producer; a thread of its own takes the reports.
pub(crate) type Client = ProducerClient<Reports>;

type Job = Box<dyn FnOnce(&Client) + Send>;

/// Jobs that wait at most: the one that is under way, and the end.
const JOBS: usize = 4;

/// A producer with its thread. Dropping it ends both without waiting, whatever the thread is stuck in: the last reference
/// to the client goes on that thread, because closing a client blocks too.
pub(crate) struct ProducerThread {
    client: Option<Arc<Client>>,
    jobs: SyncSender<Job>,
}

impl ProducerThread {
    /// Of a new producer. `threads` is held as long as the thread lives.
    pub(crate) fn begin(client: Client, threads: Arc<()>) -> Result<Self, String> {
        let client = Arc::new(client);
        let (jobs, todo) = mpsc::sync_channel::<Job>(JOBS);
        let own = Arc::clone(&client);
        std::thread::Builder::new()
            .name("kafka-transact".to_owned())
            .spawn(move || {
                todo.iter().for_each(|job| job(&own));
                drop((todo, own, threads));
            })
            .map_err(|error| format!("no thread for kafka transactions: {error}"))?;
        Ok(Self { client: Some(client), jobs })
    }

    /// The producer, for calls that do not block.
    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// Does this on the thread; `None` when it is not done by then. It may be done later.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Client) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |client| {
            // Nobody may wait any more.
            let _ = answer.send(work(client));
        });
        self.jobs.try_send(job).ok()?;
        tokio::time::timeout(within, wait).await.ok()?.ok()
    }
}

impl Drop for ProducerThread {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // A full queue is one that nobody empties; then the client goes here.
            let _ = self.jobs.try_send(Box::new(move |_| drop(client)));
        }
    }
}

//! A small schema registry in this process that speaks Confluent's API for Avro.
//!
//! What it promises: a global id means the same schema for ever, also across starts (it is on disk, in
//! `registry.json`, before it is answered), the same schema has the same id under every subject, and a schema that is
//! not compatible with its subject's earlier ones is refused with the field that is to blame.
//! What it leaves out: deletion, JSON and Protobuf schemas, modes, contexts.

mod api;
mod apicurio;
mod compat;
mod schema;
mod store;
mod validation;

pub use apicurio::Apicurio;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;

use crate::http_server::Server;
use crate::ports::Ports;
use store::Store;

/// The stack's registry, with the faults that a test may ask for.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    faults: Arc<RwLock<Faults>>,
}

/// What answers 503 until it is healed.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    all: bool,
    ids: BTreeSet<u32>,
}

impl Registry {
    /// Starts it with what `<data>/registry.json` holds.
    ///
    /// # Errors
    /// When that file is damaged, or no port can be bound.
    pub(crate) async fn launch(data: &Path, ports: &mut Ports) -> Result<Self> {
        let store = Arc::new(Store::open(&data.join("registry.json"))?);
        let faults = Arc::new(RwLock::new(Faults::default()));
        let routes = api::routes(store, Arc::clone(&faults));
        Ok(Self { server: Server::launch("registry", routes, ports).await?, faults })
    }

    /// Its base address, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// From now on every request is answered with 503, until [`heal`](Self::heal).
    pub fn fail_all(&self) {
        self.change(|faults| faults.all = true);
    }

    /// From now on requests for these schema ids are answered with 503, until [`heal`](Self::heal).
    pub fn fail_ids(&self, ids: impl IntoIterator<Item = u32>) {
        self.change(|faults| faults.ids.extend(ids));
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.change(|faults| *faults = Faults::default());
    }

    /// Stops it.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests;

//! Schemas that are asked for before the record that needs them is the next of its key: a row of unknown ids under one key
//! costs one wait, not one each.

use std::{collections::HashSet, sync::Arc};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use crate::{codec, pipeline::schema_cache::SchemaCache, ports::BoxFuture, wire::record::Record};

/// Questions under way at most; a record whose schema is not asked for ahead asks when it is its turn.
const MOST: usize = 1_000;

/// The questions that are under way for records which wait for their key.
pub(crate) struct SchemaPrefetch {
    schemas: Arc<SchemaCache>,
    asked: HashSet<u32>,
    answers: FuturesUnordered<BoxFuture<'static, u32>>,
}

impl SchemaPrefetch {
    pub(crate) fn new(schemas: Arc<SchemaCache>) -> Self {
        Self { schemas, asked: HashSet::new(), answers: FuturesUnordered::new() }
    }

    /// Asks for the schema with this id, unless it is known, or known to be missing.
    pub(crate) fn ask(&mut self, id: u32) {
        if self.asked.len() < MOST && !self.schemas.has_answer(id) && self.asked.insert(id) {
            let schemas = self.schemas.clone();
            // What comes of it is in the cache; an outage is asked again by the record itself.
            self.answers.push(async move { schemas.get(id).await.map_or(id, |_| id) }.boxed());
        }
    }

    /// Waits for one answer; for ever where nothing was asked.
    pub(crate) async fn answered(&mut self) {
        match self.answers.next().await {
            Some(id) => _ = self.asked.remove(&id),
            None => std::future::pending().await,
        }
    }
}

/// The id of the schema that a record was written with, if it says one.
pub(crate) fn schema_of(record: &Record) -> Option<u32> {
    codec::split(record.value.as_deref()?).ok().map(|(id, _)| id)
}

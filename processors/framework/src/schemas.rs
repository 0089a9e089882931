//! Schemas by id: fetched once, kept for the life of the process, and never mistaken about an outage.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use crate::{
    catalogue::topic_of,
    codec::{CodecError, Encoder, WriterSchema},
    emit::Encoders,
    payload::EventType,
    ports::{Clock, SchemaError, Schemas},
    topology::subject_of,
};

/// An id that the registry says it does not have is asked for twice, this far apart: a producer's registration may be
/// on its way to the registry's other nodes.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// For this long the answer that there is none stands.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// After an outage nobody asks again for this long, so that waiting records do not queue up behind time-outs.
const OUTAGE_FOR: Duration = Duration::from_millis(500);
/// A producer of random ids must not fill the memory.
const UNKNOWN_LIMIT: usize = 1_000;

/// The cache in front of the registry. Only definite answers are kept, and "unknown" only for a while.
pub struct SchemaCache {
    port: Arc<dyn Schemas>,
    clock: Arc<dyn Clock>,
    known: RwLock<HashMap<u32, Arc<WriterSchema>>>,
    negative: Mutex<Negative>,
    /// One fetch at a time: many records wait for the same new schema.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Negative {
    unknown: HashMap<u32, (Duration, String)>,
    outage: Option<(Duration, String)>,
}

/// Why there is no schema for an id.
#[derive(Debug)]
pub(crate) enum NoSchema {
    /// The registry has none, or what it has is not Avro: the record cannot be read by anybody.
    Poison(String),
    /// The registry does not answer.
    Outage(String),
}

impl SchemaCache {
    /// A cache in front of `port`.
    pub fn new(port: Arc<dyn Schemas>, clock: Arc<dyn Clock>) -> Self {
        Self {
            port,
            clock,
            known: RwLock::default(),
            negative: Mutex::default(),
            fetching: tokio::sync::Mutex::new(()),
        }
    }

    /// The schema, if it has been fetched before.
    pub(crate) fn cached(&self, id: u32) -> Option<Arc<WriterSchema>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The schema with this id.
    pub(crate) async fn get(&self, id: u32) -> Result<Arc<WriterSchema>, NoSchema> {
        if let Some(schema) = self.cached(id) {
            return Ok(schema);
        }
        let _one = self.fetching.lock().await;
        if let Some(schema) = self.cached(id) {
            return Ok(schema);
        }
        self.remembered(id)?;
        match self.fetch(id).await {
            Ok(schema) => {
                self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, schema.clone());
                Ok(schema)
            }
            Err(no) => {
                self.remember(id, &no);
                Err(no)
            }
        }
    }

    async fn fetch(&self, id: u32) -> Result<Arc<WriterSchema>, NoSchema> {
        let mut answer = self.port.by_id(id).await;
        if matches!(answer, Err(SchemaError::Unknown(_))) {
            self.clock.sleep(SECOND_LOOK).await;
            answer = self.port.by_id(id).await;
        }
        match answer {
            Ok(text) => WriterSchema::parse(id, &text.schema, &text.references)
                .map_err(|e| NoSchema::Poison(format!("schema {id} is not valid Avro: {e}"))),
            Err(SchemaError::Unknown(why)) => Err(NoSchema::Poison(format!("the registry has no schema {id}: {why}"))),
            Err(SchemaError::Outage(why)) => Err(NoSchema::Outage(why)),
        }
    }

    fn remembered(&self, id: u32) -> Result<(), NoSchema> {
        let (now, negative) = (self.clock.elapsed(), self.negative.lock().unwrap_or_else(PoisonError::into_inner));
        match (&negative.outage, negative.unknown.get(&id)) {
            (Some((until, why)), _) if now < *until => Err(NoSchema::Outage(why.clone())),
            (_, Some((until, why))) if now < *until => Err(NoSchema::Poison(why.clone())),
            _ => Ok(()),
        }
    }

    fn remember(&self, id: u32, no: &NoSchema) {
        let (now, mut negative) = (self.clock.elapsed(), self.negative.lock().unwrap_or_else(PoisonError::into_inner));
        match no {
            NoSchema::Outage(why) => negative.outage = Some((now + OUTAGE_FOR, why.clone())),
            NoSchema::Poison(why) => {
                if negative.unknown.len() >= UNKNOWN_LIMIT {
                    negative.unknown.clear();
                }
                negative.unknown.insert(id, (now + UNKNOWN_FOR, why.clone()));
            }
        }
    }

    /// Encoders for what a group emits, each under the id that the registry holds it by.
    pub(crate) async fn encoders(&self, types: &[EventType], limit: usize) -> Result<Encoders, SchemaError> {
        let mut encoders = Encoders::new(limit);
        for facts in types {
            let id = self.port.id_of(&subject_of(facts), facts.schema).await?;
            let encoder =
                Encoder::new(id, facts.schema).map_err(|e: CodecError| SchemaError::Unknown(e.to_string()))?;
            encoders.add(*facts, &topic_of(facts.name), encoder);
        }
        Ok(encoders)
    }
}

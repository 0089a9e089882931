//! Where events of a type go and how they are written: what commands that send events share.

use std::sync::Arc;

use anyhow::Result;
use headwater::{
    EventType,
    spi::{
        SchemaError, Schemas as _, Tracing,
        codec::{Encoder, WriterSchema},
        topic_of,
    },
};
use headwater_connectors::kafka::Cluster;

use crate::{
    app::App,
    clients::Clients,
    config::{Problems, nearest},
};

/// Where events of a type go and how they are written.
pub struct ProduceTarget {
    /// The type's name.
    pub event_type: String,
    /// Where its events go.
    pub topic: Arc<str>,
    /// Writes values as Avro.
    pub encoder: Encoder,
    /// What they are written by.
    pub schema: Arc<WriterSchema>,
    /// Where their keys come from.
    pub key: KeySource,
    /// How they are traced.
    pub tracing: Tracing,
}

/// Where a record's key comes from.
pub enum KeySource {
    /// The value of this field.
    Field(String),
    /// What the type itself says.
    Of(EventType),
}

impl ProduceTarget {
    /// A type of the catalogue goes to its own topic under its own schema; one that only a binding names goes to the
    /// bound topic under the newest schema registered for that. `key` names the key's field, if not the type does.
    ///
    /// # Errors
    /// [`Problems`] for a type that is not known; whatever keeps the registry from giving the schema.
    pub async fn find(app: &App, clients: &Clients, event_type: String, key: Option<String>) -> Result<Self> {
        let (catalogue, tracing) = (app.pipeline.catalogue(), app.tracing.clone());
        let bound = catalogue.bindings().find(|(_, binding)| binding.event_type == event_type).map(|(topic, _)| topic);
        if let Some(facts) = catalogue.get(&event_type) {
            let topic = topic_of(facts.name);
            let subject =
                headwater::spi::Topology::of(&app.pipeline).subjects.into_iter().find(|s| s.schema == facts.schema);
            let subject = subject.map(|subject| subject.name).unwrap_or_default();
            let id = clients.registry.id_of(&subject, facts.schema).await.map_err(|error| match error {
                SchemaError::Unknown(why) => anyhow::anyhow!("{why}: run `headwater topology apply`"),
                error => error.into(),
            })?;
            let schema = WriterSchema::parse(id, facts.schema, &[])?;
            let key = key.map_or(KeySource::Of(*facts), KeySource::Field);
            return Ok(Self { encoder: Encoder::of(&schema)?, event_type, topic: topic.into(), schema, key, tracing });
        }
        let Some(topic) = bound else {
            let known: Vec<&str> = catalogue
                .types()
                .map(|t| t.name)
                .chain(catalogue.bindings().map(|(_, b)| b.event_type.as_str()))
                .collect();
            let hint = nearest(&event_type, &known)
                .map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(Problems::one(format!("there is no event type `{event_type}`; {hint}")).into());
        };
        let key = key.ok_or_else(|| {
            Problems::one(format!(
                "`{event_type}` is known by its bound topic alone: say with --key which field is the key"
            ))
        })?;
        let id = clients.registry.latest(&format!("{topic}-value")).await.map_err(|error| match error {
            SchemaError::Unknown(why) => anyhow::anyhow!("{why}: register a schema for the bound topic"),
            error => error.into(),
        })?;
        let text = clients.registry.by_id(id).await?;
        let schema = WriterSchema::parse(id, &text.schema, &text.references)?;
        let key = KeySource::Field(key);
        Ok(Self { encoder: Encoder::of(&schema)?, event_type, topic: topic.into(), schema, key, tracing })
    }

    /// Says so when the topic is not there, or no broker answers.
    ///
    /// # Errors
    /// That, as a sentence.
    pub async fn require_topic(&self, cluster: &Cluster) -> Result<()> {
        let topic = &*self.topic;
        anyhow::ensure!(
            cluster.topics().await?.iter().any(|known| known.name == topic),
            "topic {topic} does not exist: run `headwater topology apply`"
        );
        Ok(())
    }
}

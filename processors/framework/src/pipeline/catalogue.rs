//! Which event types there are, on which topics, and what an untyped record is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, WriterSchema},
    event::{
        Meta,
        event_type::EventType,
        pattern::{Pattern, is_event_type, is_foreign_type},
    },
    wire::{delivery_headers::Trust, group_topics::DLQ, headers::Attributes, record::Record},
};

/// The topics of Headwater's own events begin with this; the domain follows.
const EVENTS: &str = "events.";

/// The topic of an event type: `events.<domain>`.
pub fn topic_of(event_type: &str) -> String {
    format!("{EVENTS}{}", event_type.split('.').next().unwrap_or_default())
}

/// The event types that the pipeline knows, and the foreign topics bound to types.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    types: BTreeMap<&'static str, EventType>,
    by_record: HashMap<String, &'static str>,
    bindings: BTreeMap<String, Binding>,
}

/// An existing topic whose records are events of one type: `[topics."payments"] type = "payment.completed"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The event type of its records; it need not be in the catalogue.
    #[serde(rename = "type")]
    pub event_type: String,
    /// How to read the record's key.
    #[serde(default)]
    pub key: KeyFormat,
}

/// How the key of a bound topic's records is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// UTF-8 text: the aggregate's id.
    #[default]
    Text,
    /// Bytes that mean nothing to us: the event has no subject from its key.
    Opaque,
}

/// What a record's type says to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordType<'a> {
    /// The record's event type.
    Is(&'a str),
    /// Only the record's schema can tell.
    AskSchema,
}

impl Catalogue {
    /// Adds a type; the error says how it clashes with one of the same name.
    pub(crate) fn add(&mut self, facts: EventType) -> Result<(), String> {
        if !is_event_type(facts.name) {
            return Err(format!(
                "`{}` is not an event type: write at least two dotted segments of a-z, 0-9, `-`, `_`",
                facts.name
            ));
        }
        if topic_of(facts.name) == format!("{EVENTS}{DLQ}") {
            return Err(format!(
                "`{}` would stand on `{EVENTS}{DLQ}`, which reads as a topic of dead letters: choose another domain",
                facts.name
            ));
        }
        let schema = apache_avro::Schema::parse_str(facts.schema)
            .map_err(|e| format!("the schema of `{}` is not valid Avro: {}", facts.name, first_line(&e.to_string())))?;
        let Some(name) = schema.name().map(|n| n.fullname(None).to_string()) else {
            return Err(format!("the schema of `{}` is not an Avro record", facts.name));
        };
        if self.types.get(facts.name).is_some_and(|known| *known != facts) {
            return Err(format!("two Rust types name `{}` and differ in schema, category or priority", facts.name));
        }
        if self.by_record.get(&name).is_some_and(|known| *known != facts.name) {
            return Err(format!("the Avro record `{name}` stands for two event types, one of them `{}`", facts.name));
        }
        self.by_record.insert(name, facts.name);
        self.types.insert(facts.name, facts);
        Ok(())
    }

    /// Binds an existing topic to a type; the error says what is wrong with it.
    pub(crate) fn bind(&mut self, topic: &str, binding: Binding) -> Result<(), String> {
        if !is_foreign_type(&binding.event_type) {
            return Err(format!(
                "topic `{topic}` is bound to `{}`, which is not an event type: write 1 to 256 characters without blanks, `*` \
                 and `#`",
                binding.event_type
            ));
        }
        if topic.starts_with(EVENTS) {
            return Err(format!("topic `{topic}` is Headwater's own and cannot be bound"));
        }
        self.bindings.insert(topic.to_owned(), binding);
        Ok(())
    }

    /// The facts of a known type.
    pub fn get(&self, event_type: &str) -> Option<&EventType> {
        self.types.get(event_type)
    }

    /// Every known type, by name.
    pub fn types(&self) -> impl Iterator<Item = &EventType> {
        self.types.values()
    }

    /// The bound topics, by name.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &Binding)> {
        self.bindings.iter().map(|(topic, binding)| (topic.as_str(), binding))
    }

    /// The type known by this Avro record name.
    pub(crate) fn by_record(&self, full_name: &str) -> Option<&'static str> {
        self.by_record.get(full_name).copied()
    }

    /// The type that a topic is bound to.
    pub(crate) fn bound_type(&self, topic: &str) -> Option<&str> {
        self.bindings.get(topic).map(|binding| binding.event_type.as_str())
    }

    /// Why events of this type come from nowhere, where they do.
    pub(crate) fn unknown(&self, event: &str) -> Option<String> {
        (self.get(event).is_none() && !self.is_bound(event)).then(|| {
            let known: Vec<_> = self.types().map(|t| t.name).collect();
            format!("`{event}`, which no processor names and no topic is bound to; known are {}", known.join(", "))
        })
    }

    /// Whether any topic is bound to this type.
    pub(crate) fn is_bound(&self, event_type: &str) -> bool {
        self.bindings.values().any(|binding| binding.event_type == event_type)
    }

    /// The type of a record: its header's, or its topic's, or only its schema can tell.
    pub(crate) fn type_of<'a>(&'a self, topic: &str, header: Option<&'a str>) -> RecordType<'a> {
        match (header, self.bindings.get(topic)) {
            (Some(header), _) => RecordType::Is(header),
            (None, Some(binding)) => RecordType::Is(&binding.event_type),
            (None, None) => RecordType::AskSchema,
        }
    }

    /// A record's metadata, for who only looks: `schema` is what its value was written with, if it can be had.
    ///
    /// # Errors
    /// A broken contract, as a sentence: a malformed required attribute, or no event type.
    pub fn describe(&self, record: &Record, schema: Option<&Arc<WriterSchema>>) -> Result<Meta, String> {
        let attributes = Attributes::read(&record.headers, Trust::Nobody);
        if let Some(why) = attributes.broken {
            return Err(why);
        }
        let event_type = match self.type_of(&record.topic, attributes.event_type.as_deref()) {
            RecordType::Is(event_type) => event_type.to_owned(),
            RecordType::AskSchema => {
                let datum = record
                    .value
                    .as_deref()
                    .and_then(|value| codec::split(value).ok())
                    .map_or(&[][..], |(_, datum)| datum);
                let schema = schema.and_then(|schema| Some(schema.of_datum(datum).ok()?.0));
                let name = schema.and_then(|schema| schema.full_name()).unwrap_or_default();
                self.by_record(name).ok_or_else(|| unknown_record(name))?.to_owned()
            }
        };
        Ok(self.complete(record, attributes, event_type))
    }

    /// The metadata of a record whose type is known.
    pub(crate) fn complete(&self, record: &Record, attributes: Attributes, event_type: String) -> Meta {
        let (category, priority) =
            self.types.get(event_type.as_str()).map_or_else(Default::default, |t| (t.category, t.priority));
        let mut meta = attributes.complete(record, event_type, category, priority);
        if self.bindings.get(&*meta.origin.partition.topic).is_some_and(|binding| binding.key == KeyFormat::Opaque) {
            meta.subject = None;
        }
        meta
    }

    /// Whether this is a topic of our own events, so that the catalogue says what their schemas are.
    pub(crate) fn is_own(topic: &str) -> bool {
        topic.starts_with(EVENTS)
    }

    /// Whether an event type may stand on a topic: on `events.<domain>` only that domain's.
    pub(crate) fn belongs(topic: &str, event_type: &str) -> bool {
        let domain = topic.strip_prefix(EVENTS);
        domain.is_none_or(|domain| event_type.split('.').next() == Some(domain))
    }

    /// Where events of one type are read from.
    pub(crate) fn sources_of(&self, event_type: &str) -> SourceTopics {
        let known = self.types.contains_key(event_type);
        let bound: Vec<String> =
            self.bindings.iter().filter(|(_, b)| b.event_type == event_type).map(|(t, _)| t.clone()).collect();
        // A type that only a binding names has no topic of ours.
        let own = (known || bound.is_empty()).then(|| topic_of(event_type));
        SourceTopics { topics: own.into_iter().chain(bound).collect(), all_events: false }
    }

    /// Where events that match a pattern are read from.
    pub(crate) fn sources_matching(&self, pattern: &Pattern) -> SourceTopics {
        let bound = self.bindings.iter().filter(|(_, b)| pattern.matches(&b.event_type)).map(|(t, _)| t.clone());
        let own = pattern.domain().map(|domain| format!("{EVENTS}{domain}"));
        SourceTopics { topics: own.into_iter().chain(bound).collect(), all_events: pattern.domain().is_none() }
    }
}

/// The topics that a group reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTopics {
    /// Topics by name.
    pub topics: Vec<String>,
    /// Also every topic of events, `events.*`, those to come included.
    pub all_events: bool,
}

/// Why a record whose type only its schema can tell has none.
pub(crate) fn unknown_record(name: &str) -> String {
    format!("no ce_type, and the Avro record `{name}` is no known event type: send ce_type, or bind the topic")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::payload::{Category, Priority};

    const PAID: EventType = EventType {
        name: "payment.completed",
        schema: r#"{"type":"record","name":"PaymentCompleted","namespace":"headwater.payment","fields":[]}"#,
        category: Category::Domain,
        priority: Priority::Normal,
        single_type: false,
        key_of: |_, _| Ok(String::new()),
    };

    fn bound(event_type: &str) -> Binding {
        Binding { event_type: event_type.to_owned(), key: KeyFormat::Text }
    }

    /// Red when the header does not win over the binding, or a foreign domain passes on `events.*`.
    #[test]
    fn a_record_has_its_type_from_header_then_topic_then_schema() {
        let mut catalogue = Catalogue::default();
        catalogue.add(PAID).expect("valid");
        catalogue.bind("payments", bound("payment.completed")).expect("valid");
        assert_eq!(catalogue.type_of("payments", Some("a.b")), RecordType::Is("a.b"));
        assert_eq!(catalogue.type_of("payments", None), RecordType::Is("payment.completed"));
        assert_eq!(catalogue.type_of("events.payment", None), RecordType::AskSchema);
        assert_eq!(catalogue.by_record("headwater.payment.PaymentCompleted"), Some("payment.completed"));
        assert!(Catalogue::belongs("events.payment", "payment.completed"));
        assert!(!Catalogue::belongs("events.payment", "order.fulfilled"));
        assert!(Catalogue::belongs("payments", "order.fulfilled"));
    }

    /// Red when a bound topic is not read beside the type's own, or a type that only a binding names gets a topic.
    #[test]
    fn a_type_is_read_from_its_own_topic_and_every_bound_one() {
        let mut catalogue = Catalogue::default();
        catalogue.add(PAID).expect("valid");
        catalogue.bind("payments", bound("payment.completed")).expect("valid");
        catalogue.bind("shipments", bound("shipment.sent")).expect("valid");
        assert_eq!(catalogue.sources_of("payment.completed").topics, ["events.payment", "payments"]);
        assert_eq!(catalogue.sources_of("shipment.sent").topics, ["shipments"]);
        let everything = catalogue.sources_matching(&"*".parse().expect("valid"));
        assert!(everything.all_events && everything.topics == ["payments", "shipments"]);
        assert!(catalogue.bind("events.order", bound("order.x")).is_err());
    }

    /// Red when a type that CloudEvents producers write cannot be bound, or one that no header can hold, or that a pattern is.
    #[test]
    fn a_topic_is_bound_to_any_type_that_a_producer_may_write() {
        let mut catalogue = Catalogue::default();
        for fine in ["com.acme.OrderPlaced", "urn:acme:order", "Order", "größe.geändert", "https://acme.org/v1/Order"]
        {
            catalogue.bind("orders", bound(fine)).expect(fine);
            assert_eq!(catalogue.type_of("orders", None), RecordType::Is(fine));
            assert_eq!(catalogue.sources_of(fine).topics, ["orders"], "and no topic of ours");
            assert!(catalogue.sources_matching(&"*".parse().expect("valid")).topics == ["orders"]);
        }
        let long = "x".repeat(257);
        for wrong in ["", "a b", "a.*", "a.#", "a\n", &long] {
            assert!(catalogue.bind("orders", bound(wrong)).is_err(), "{wrong:?}");
        }
    }

    /// Red when two event types may share an Avro record, two schemas an event type, or one segment is an event type.
    #[test]
    fn a_name_stands_for_one_thing() {
        let mut catalogue = Catalogue::default();
        catalogue.add(PAID).expect("valid");
        catalogue.add(PAID).expect("the same again is no clash");
        assert!(catalogue.add(EventType { priority: Priority::Low, ..PAID }).is_err());
        assert!(catalogue.add(EventType { name: "payment.done", ..PAID }).is_err());
        let schema = r#"{"type":"record","name":"Other","fields":[]}"#;
        assert!(catalogue.add(EventType { name: "payment", schema, ..PAID }).is_err());
        assert!(catalogue.add(EventType { name: "payment.other", schema, ..PAID }).is_ok());
    }
}

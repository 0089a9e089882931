//! What a pipeline needs of the outside: topics and schemas, as values.

use std::collections::BTreeSet;

use apache_avro::Schema;

use super::{Pipeline, catalogue::topic_of};
use crate::event::event_type::EventType;

/// The topics and schemas that a pipeline needs. Bound topics are not among them: they are somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The event topics, by name.
    pub topics: BTreeSet<String>,
    /// The schemas, by event type.
    pub subjects: Vec<Subject>,
}

/// A schema under the name that the registry keeps it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The subject.
    pub name: String,
    /// The schema as JSON text.
    pub schema: &'static str,
}

impl Topology {
    /// What this pipeline needs.
    pub fn of(pipeline: &Pipeline) -> Self {
        let types = || pipeline.catalogue().types();
        Self { topics: types().map(|t| topic_of(t.name)).collect(), subjects: types().flat_map(subjects_of).collect() }
    }
}

/// `<topic>-<record>` (TopicRecordNameStrategy), under which every schema is registered and looked up.
pub(crate) fn subject_of(facts: &EventType) -> String {
    let record = Schema::parse_str(facts.schema).ok().and_then(|s| s.name().map(|n| n.fullname(None).to_string()));
    format!("{}-{}", topic_of(facts.name), record.unwrap_or_default())
}

fn subjects_of(facts: &EventType) -> impl Iterator<Item = Subject> {
    let single = facts.single_type.then(|| format!("{}-value", topic_of(facts.name)));
    let schema = facts.schema;
    std::iter::once(subject_of(facts)).chain(single).map(move |name| Subject { name, schema })
}

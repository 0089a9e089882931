//! Every kind of sink, in one list.
//!
//! A new kind is a folder with its configuration and its committer, and one line here. Whoever runs a sink goes through
//! [`SinkConnector`] and knows none of them.

pub(crate) mod connector;

use std::{collections::BTreeMap, fmt, sync::Arc};

use headwater::{Sink, spi::SinkConfig};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::Value as Json;

use crate::files::FileSink;

pub use connector::{SinkClients, SinkConnector};

/// The kinds.
const KINDS: [Kind; 2] =
    [Kind::new::<Sink>("table", "a table in postgres"), Kind::new::<FileSink>("file", "a file of JSON lines")];

/// The parts of one sink in a configuration.
type Parts = BTreeMap<String, Json>;

/// A kind of sink.
struct Kind {
    /// The setting that says where it writes, which no other kind has.
    setting: &'static str,
    /// What that is, for people.
    place: &'static str,
    read: fn(Parts) -> Result<Arc<dyn SinkConnector>, serde_json::Error>,
    cast: fn(&dyn SinkConfig) -> Option<&dyn SinkConnector>,
}

impl Kind {
    const fn new<T: SinkConnector + DeserializeOwned>(setting: &'static str, place: &'static str) -> Self {
        Self { setting, place, read: read::<T>, cast: cast::<T> }
    }

    fn has(&self, part: &str) -> bool {
        let alone = BTreeMap::from([(part.to_owned(), Json::Null)]);
        (self.read)(alone).err().is_none_or(|error| !error.to_string().starts_with("unknown field"))
    }
}

fn read<T: SinkConnector + DeserializeOwned>(parts: Parts) -> Result<Arc<dyn SinkConnector>, serde_json::Error> {
    let sink: T = serde_json::from_value(Json::Object(parts.into_iter().collect()))?;
    Ok(Arc::new(sink))
}

fn cast<T: SinkConnector>(sink: &dyn SinkConfig) -> Option<&dyn SinkConnector> {
    sink.downcast_ref::<T>().map(|sink| sink as &dyn SinkConnector)
}

/// What runs a sink; `None` where its kind is not in the list.
pub fn connector(sink: &dyn SinkConfig) -> Option<&dyn SinkConnector> {
    KINDS.iter().find_map(|kind| (kind.cast)(sink))
}

/// A sink as a configuration has it. It is of the kind whose setting says where it writes.
#[derive(Clone, Debug)]
pub struct ConfiguredSink(Arc<dyn SinkConnector>);

impl ConfiguredSink {
    /// The sink, to be registered in a pipeline.
    pub fn config(&self) -> Arc<dyn SinkConfig> {
        self.0.clone()
    }
}

impl<'de> Deserialize<'de> for ConfiguredSink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = Parts::deserialize(deserializer)?;
        let named: Vec<&Kind> = KINDS.iter().filter(|kind| parts.contains_key(kind.setting)).collect();
        match named[..] {
            [kind] => (kind.read)(parts).map(Self).map_err(D::Error::custom),
            [] => Err(D::Error::custom(without_kind(&parts))),
            _ => Err(D::Error::custom(format!(
                "a sink writes to one place, and {} are given: make it two sinks, each with its own",
                listed(&named, |kind| format!("`{}`", kind.setting), " and ")
            ))),
        }
    }
}

/// Why a sink that names no place is none: a setting is misspelt, or left out.
fn without_kind(parts: &Parts) -> String {
    let all: Vec<&Kind> = KINDS.iter().collect();
    match parts.keys().find(|part| !all.iter().any(|kind| kind.has(part))) {
        Some(wrong) => {
            let known = listed(&all, |kind| format!("`{}`", kind.setting), ", ");
            format!("unknown field `{wrong}`, expected one of `event`, {known}")
        }
        None => {
            let ways = listed(&all, |kind| format!("`{}`, {}", kind.setting, kind.place), ", or ");
            format!("it is not said where the sink writes: give {ways}")
        }
    }
}

fn listed(kinds: &[&Kind], text: impl Fn(&Kind) -> String, between: &str) -> String {
    kinds.iter().map(|kind| text(kind)).collect::<Vec<_>>().join(between)
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(text: &str) -> Result<ConfiguredSink, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Red when a kind is left out of the list, or a sink is read as one of another kind.
    #[test]
    fn a_sink_is_of_the_kind_whose_place_it_names() {
        let place = |text: &str| {
            let sink = sink(text).unwrap().config();
            connector(sink.as_ref()).expect("a kind in the list").place()
        };
        let table = place(r#"{"event":"a.b","table":"t","key":["k","l"],"mode":"upsert","delete":false}"#);
        assert_eq!(table, ("table", "t".to_owned()));
        assert_eq!(place(r#"{"event":"a.b","file":"lines/b"}"#), ("file", "lines/b".to_owned()));
    }

    /// Red when one of these is taken, or is refused without what to do.
    #[test]
    fn a_sink_of_no_kind_or_of_two_is_refused() {
        for (text, why) in [
            (r#"{"event":"a.b"}"#, "give `table`, a table in postgres, or `file`, a file of JSON lines"),
            (r#"{"event":"a.b","key":"k"}"#, "give `table`, a table in postgres, or `file`, a file of JSON lines"),
            (r#"{"event":"a.b","fil":"f"}"#, "unknown field `fil`, expected one of `event`, `table`, `file`"),
            (r#"{"event":"a.b","table":"t","file":"f"}"#, "`table` and `file` are given: make it two sinks"),
            (r#"{"event":"a.b","file":"f","key":"k"}"#, "unknown field `key`, expected `event` or `file`"),
            (r#"{"table":"t"}"#, "missing field `event`"),
            (r#"{"event":"a.b","table":5}"#, "invalid type: integer `5`, expected a string"),
        ] {
            let said = sink(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}

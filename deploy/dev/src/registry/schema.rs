//! A schema's text, parsed, with what it refers to.

use apache_avro::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A schema as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// The Avro schema's text, unchanged.
    pub(crate) schema: String,
    /// Named types of other subjects that the text uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) references: Vec<Reference>,
    /// What decides whether two schemas are the same: the parsed schema with sorted keys. It keeps defaults, docs and
    /// logical types, which the "parsing canonical form" drops.
    pub(crate) identity: String,
}

/// One named type of another subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) version: u32,
}

/// A schema that can be compared with another.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) root: Schema,
    /// The schemas it refers to.
    pub(crate) others: Vec<Schema>,
}

impl Parsed {
    /// Parses a schema together with the texts that it refers to.
    ///
    /// # Errors
    /// What is wrong with it, in at most 500 characters.
    pub(crate) fn parse(schema: &str, others: &[String]) -> Result<Self, String> {
        let parsed = if others.is_empty() {
            Schema::parse_str(schema).map(|root| (root, Vec::new()))
        } else {
            Schema::parse_str_with_list(schema, others)
        };
        let (root, others) = parsed.map_err(|error| error.to_string().chars().take(500).collect::<String>())?;
        Ok(Self { root, others })
    }

    /// See [`Source::identity`].
    ///
    /// # Errors
    /// When the schema cannot be written as JSON.
    pub(crate) fn identity(&self, references: &[Reference]) -> Result<String, String> {
        let value = serde_json::to_value((&self.root, references)).map_err(|error| error.to_string())?;
        Ok(sorted(&value))
    }
}

/// JSON with the keys of every object in order, whatever map type `serde_json` was built with.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), sorted(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(schema: &str) -> String {
        Parsed::parse(schema, &[]).unwrap().identity(&[]).unwrap()
    }

    /// Red when the keys are not sorted, or when the parsing canonical form is used (it drops defaults and docs).
    #[test]
    fn layout_does_not_make_another_schema_but_a_default_a_doc_or_a_logical_type_does() {
        let plain = identity(r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":"long"}]}"#);
        let same = [
            r#"{ "name":"R", "namespace":"a", "type":"record", "fields":[{"type":"long","name":"x"}] }"#,
            r#"{"fields":[{"name":"x","type":{"type":"long"}}],"type":"record","name":"a.R"}"#,
        ];
        for schema in same {
            assert_eq!(identity(schema), plain, "{schema}");
        }
        let others = [
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":"long","default":1}]}"#,
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":"long","default":2}]}"#,
            r#"{"type":"record","name":"a.R","doc":"d","fields":[{"name":"x","type":"long"}]}"#,
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#,
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":"long","aliases":["y"]}]}"#,
        ];
        let mut seen = vec![plain];
        for schema in others {
            assert!(!seen.contains(&identity(schema)), "{schema}");
            seen.push(identity(schema));
        }
    }
}

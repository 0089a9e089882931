//! A schema's text, parsed, with what it refers to.

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

/// A schema as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// The Avro schema's text, unchanged.
    pub(crate) schema: String,
    /// Named types of other subjects that the text uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) references: Vec<Reference>,
    /// What decides whether two schemas are the same: the parsed schema, written in one way. It keeps defaults, docs
    /// and logical types, which the "parsing canonical form" drops. Made anew at each start.
    #[serde(skip)]
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
pub(crate) struct ParsedSchema {
    pub(crate) root: Schema,
    /// The schemas it refers to.
    pub(crate) others: Vec<Schema>,
}

impl ParsedSchema {
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
        serde_json::to_string(&(&self.root, references)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(schema: &str) -> String {
        ParsedSchema::parse(schema, &[]).unwrap().identity(&[]).unwrap()
    }

    /// Red when the text itself is compared, or when the parsing canonical form is used (it drops defaults and docs).
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

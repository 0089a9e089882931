//! What is wrong with a value, in one short line: never a schema, never the data.

use apache_avro::error::Details;

use crate::failure::DeadLetterKind;

/// Longest text that is taken over from elsewhere, in bytes.
const TEXT_LIMIT: usize = 160;

/// Why a value was not decoded or encoded.
///
/// Every message is one short line, `field: cause` where a field is to blame.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// There are no bytes.
    #[error("the value is empty: expected the magic byte 0, a schema id and an Avro datum")]
    Empty,
    /// The first byte is not the wire format's.
    #[error("the value does not begin with the magic byte 0: it was not written in the Confluent wire format")]
    Magic,
    /// The value ends within its schema id.
    #[error("the value ends after {0} bytes, within its schema id")]
    NoSchemaId(usize),
    /// The bytes are not what their schema says.
    #[error(transparent)]
    Malformed(FieldError),
    /// The datum is whole and the value goes on.
    #[error("{0} bytes follow the datum: it was written with another schema than its id says")]
    Trailing(usize),
    /// The datum is what its schema says, and cannot be read as the type that is asked for.
    #[error(transparent)]
    Mismatch(FieldError),
    /// What is to be written does not fit the schema it is written with.
    #[error(transparent)]
    Unfit(FieldError),
    /// The schema itself cannot be used.
    #[error("schema {id}: {cause}")]
    Schema {
        /// The registry's id.
        id: u32,
        /// What is wrong.
        cause: String,
    },
}

impl CodecError {
    /// How a dead letter names it: bytes that are not what their schema says are [`DeadLetterKind::Decode`], sound bytes that break
    /// the contract (a missing field, another type) are [`DeadLetterKind::Contract`].
    pub fn kind(&self) -> DeadLetterKind {
        match self {
            Self::Empty | Self::Magic | Self::NoSchemaId(_) | Self::Malformed(_) | Self::Trailing(_) => {
                DeadLetterKind::Decode
            }
            Self::Mismatch(_) | Self::Unfit(_) | Self::Schema { .. } => DeadLetterKind::Contract,
        }
    }
}

/// A cause and the path of the field that it lies in.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Innermost first: an error climbs out of the fields it lies in.
    path: Vec<Box<str>>,
    cause: String,
}

impl FieldError {
    /// A fault in no field yet. Boxed, so that the paths without a fault stay cheap.
    pub(crate) fn new(cause: impl Into<String>) -> Box<Self> {
        Box::new(Self { path: Vec::new(), cause: cause.into() })
    }

    /// The same fault, seen from the record that holds it in this field.
    pub(crate) fn within(mut self: Box<Self>, field: &str) -> Box<Self> {
        // Deep nesting would otherwise make a long line; the inner names say most.
        if self.path.len() < 8 {
            self.path.push(field.into());
        }
        self
    }

    /// The field to blame, dotted from the outermost record; empty when it is the whole value.
    pub fn field(&self) -> String {
        self.path.iter().rev().map(AsRef::as_ref).collect::<Vec<_>>().join(".")
    }

    /// What is wrong with it.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.cause),
            false => write!(f, "{}: {}", self.field(), self.cause),
        }
    }
}

impl std::error::Error for FieldError {}

/// Cuts a text to what a message may hold.
pub(crate) fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LIMIT)]
}

/// What apache-avro says of a schema, without the parts that print a whole one.
pub(crate) fn schema_cause(error: &apache_avro::Error) -> String {
    match error.details() {
        Details::ParseSchemaJson(cause) => format!("not JSON: {cause}"),
        Details::GetUnionDuplicateMap(..) | Details::GetUnionDuplicateArray(..) => {
            "a union holds two maps or two arrays".to_owned()
        }
        Details::SchemaResolutionError(name) => format!("no type is called `{name}`: is a reference missing?"),
        other => clip(&other.to_string()).to_owned(),
    }
}

/// What serde says when a value does not become `T`, without the value, which may be a person's.
pub(crate) fn shape_fault<T>(error: &apache_avro::Error) -> Box<FieldError> {
    let Details::DeserializeValue(text) = error.details() else {
        return FieldError::new(format!("does not fit {}", std::any::type_name::<T>()));
    };
    if let Some(field) = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return FieldError::new("missing").within(clip(field));
    }
    let expected = text.rsplit_once(", expected ").map(|(_, expected)| clip(expected));
    FieldError::new(match expected {
        Some(expected) => format!("does not fit {}: expected {expected}", std::any::type_name::<T>()),
        None => format!("does not fit {}", std::any::type_name::<T>()),
    })
}

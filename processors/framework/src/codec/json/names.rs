//! What Avro's JSON encoding calls things.

use apache_avro::{Schema, schema::UuidSchema};

use crate::codec::schema::type_name;

/// What Avro's JSON encoding calls a union's branch.
pub(super) fn branch_name(schema: &Schema) -> String {
    match schema.name() {
        Some(name) => name.fullname(None),
        None => wire_type(schema).to_owned(),
    }
}

/// The type below a logical type.
pub(super) fn wire_type(schema: &Schema) -> &'static str {
    match schema {
        Schema::Date | Schema::TimeMillis => "int",
        Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => "long",
        Schema::Decimal(_) | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => "bytes",
        Schema::Uuid(UuidSchema::String) => "string",
        other => type_name(other),
    }
}

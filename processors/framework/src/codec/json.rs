//! Avro values and JSON.

use apache_avro::{Schema, schema::NamesRef, types::Value};
use serde_json::Value as Json;

use super::error::Fault;

/// A field's default, as its schema states it.
pub(crate) fn default(json: &Json, schema: &Schema, names: &NamesRef<'_>) -> Result<Value, Box<Fault>> {
    let fault = |_| Fault::new("the default in the reader's schema does not fit its type");
    let schema = super::schema::follow(schema, names);
    let value = match schema {
        Schema::Union(union) => {
            Value::Union(0, Box::new(default(json, union.variants().first().unwrap_or(&Schema::Null), names)?))
        }
        _ => Value::try_from(json.clone()).map_err(fault)?,
    };
    value.resolve_with_names(schema, names).map_err(fault)
}

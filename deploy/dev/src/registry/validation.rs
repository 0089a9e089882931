//! What every implementation of Avro refuses in a schema and apache-avro passes over.
//!
//! Java's parser is the measure: whoever registers such a schema here would be refused by every other registry.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Whether a schema's text has none of it.
///
/// # Errors
/// What is wrong, with the place. Text that is not JSON is left to the parser.
pub(crate) fn check(schema: &str) -> Result<(), String> {
    let Ok(schema) = serde_json::from_str(schema) else { return Ok(()) };
    Check { defined: HashMap::new() }.schema(&schema, "")
}

struct Check {
    /// Every named type so far, as it is defined.
    defined: HashMap<String, Value>,
}

impl Check {
    fn schema(&mut self, schema: &Value, namespace: &str) -> Result<(), String> {
        match schema {
            Value::Array(branches) => branches.iter().try_for_each(|branch| self.schema(branch, namespace)),
            Value::Object(object) => self.complex(object, schema, namespace),
            _ => Ok(()),
        }
    }

    fn complex(&mut self, object: &Map<String, Value>, whole: &Value, namespace: &str) -> Result<(), String> {
        let part = |part: &str| object.get(part).unwrap_or(&Value::Null);
        match part("type").as_str() {
            Some("record" | "error" | "enum" | "fixed") => self.named(object, whole, namespace),
            Some("array") => self.schema(part("items"), namespace),
            Some("map") => self.schema(part("values"), namespace),
            _ => self.schema(part("type"), namespace),
        }
    }

    fn named(&mut self, object: &Map<String, Value>, whole: &Value, namespace: &str) -> Result<(), String> {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let (name, space) = (text("name").unwrap_or_default(), text("namespace").unwrap_or(namespace));
        let full = if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") };
        if self.defined.insert(full.clone(), whole.clone()).is_some_and(|known| known != *whole) {
            return Err(format!("type {full} is defined twice, and differently"));
        }
        aliases(object, &full)?;
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
            let Some(field) = field.as_object() else { return Err(format!("a field of {full} is no object: {field}")) };
            let place = format!("{full}.{}", field.get("name").and_then(Value::as_str).unwrap_or_default());
            aliases(field, &place)?;
            match field.get("order") {
                None => {}
                Some(Value::String(order)) if ["ascending", "descending", "ignore"].contains(&order.as_str()) => {}
                Some(other) => {
                    return Err(format!("field {place}: order {other} is none of ascending, descending, ignore"));
                }
            }
            self.schema(field.get("type").unwrap_or(&Value::Null), &namespace)?;
        }
        Ok(())
    }
}

fn aliases(object: &Map<String, Value>, place: &str) -> Result<(), String> {
    match object.get("aliases") {
        None => Ok(()),
        Some(Value::Array(aliases)) if aliases.iter().all(Value::is_string) => Ok(()),
        Some(other) => Err(format!("{place}: aliases {other} is no list of names")),
    }
}

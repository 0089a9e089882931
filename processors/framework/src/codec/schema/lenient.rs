//! Schemas that other implementations of Avro take and apache-avro does not, for reading what was written with them.
//!
//! A registry that runs on Java takes defaults that do not fit their fields, names that only Java can read (`$` in a
//! namespace, letters beyond ASCII), a type that is defined twice alike, a reference into no namespace, `error` for
//! `record`, and logical types that are no text. Nothing of that changes what bytes mean. So such a schema is rewritten to
//! one that apache-avro takes; field names and enum symbols are what they were once it is parsed.

use std::collections::{BTreeSet, HashMap};

use apache_avro::Schema;
use serde_json::{Map, Value as Json};

/// The namespace of types that have none.
const NOWHERE: &str = "_none";

/// A schema and what it refers to, rewritten.
pub(crate) struct RewrittenSchema {
    pub(crate) text: String,
    pub(crate) references: Vec<String>,
    /// What was renamed, by its new name.
    pub(crate) names: HashMap<String, String>,
    /// How many defaults there were.
    defaults: usize,
}

/// Rewrites a schema and what it refers to, dependencies first, until it is taken: without the defaults that do not fit, and
/// with all others.
pub(crate) fn rewrite(
    text: &str,
    references: &[String],
    is_taken: impl Fn(&RewrittenSchema) -> bool,
) -> Option<RewrittenSchema> {
    let without = |unfit: &BTreeSet<usize>| rewritten(text, references, unfit);
    let whole = without(&BTreeSet::new())?;
    if is_taken(&whole) {
        return Some(whole);
    }
    // Which ones do not fit is found out by taking them in again, in halves: only of some the error says where they are.
    let mut unfit: BTreeSet<usize> = (0..whole.defaults).collect();
    let mut parts = Vec::from_iter(std::iter::once(0..whole.defaults));
    while let Some(part) = parts.pop() {
        let fewer = unfit.iter().copied().filter(|default| !part.contains(default)).collect();
        if without(&fewer).is_some_and(|rewritten| is_taken(&rewritten)) {
            unfit = fewer;
        } else if part.len() > 1 {
            let middle = part.start + part.len() / 2;
            parts.extend([part.start..middle, middle..part.end]);
        }
    }
    without(&unfit)
}

/// The same once, without the defaults of these numbers.
fn rewritten(text: &str, references: &[String], unfit: &BTreeSet<usize>) -> Option<RewrittenSchema> {
    let mut rewrite = Rewrite { defined: HashMap::new(), names: HashMap::new(), unfit, defaults: 0 };
    let mut one = |text: &str| {
        let mut schema: Json = serde_json::from_str(text).ok()?;
        rewrite.schema(&mut schema, "");
        Some(schema.to_string())
    };
    let references = references.iter().map(|text| one(text)).collect::<Option<Vec<_>>>()?;
    let text = one(text)?;
    Some(RewrittenSchema { text, references, names: rewrite.names, defaults: rewrite.defaults })
}

/// Gives fields and symbols the names back that they had.
pub(crate) fn restore(schema: &mut Schema, names: &HashMap<String, String>) {
    let old = |name: &mut String| {
        if let Some(old) = names.get(name) {
            name.clone_from(old);
        }
    };
    match schema {
        Schema::Record(record) => record.fields.iter_mut().for_each(|field| old(&mut field.name)),
        Schema::Enum(symbols) => symbols.symbols.iter_mut().chain(&mut symbols.default).for_each(old),
        _ => {}
    }
}

struct Rewrite<'a> {
    /// Every named type so far, as it was written.
    defined: HashMap<String, Json>,
    names: HashMap<String, String>,
    /// The defaults that are left out, in the order in which they come.
    unfit: &'a BTreeSet<usize>,
    /// How many have come.
    defaults: usize,
}

impl Rewrite<'_> {
    fn schema(&mut self, schema: &mut Json, namespace: &str) {
        match schema {
            Json::String(name) if !is_primitive(name) => *name = self.reference(name, namespace),
            Json::Array(branches) => branches.iter_mut().for_each(|branch| self.schema(branch, namespace)),
            Json::Object(_) => self.complex(schema, namespace),
            _ => {}
        }
    }

    fn complex(&mut self, schema: &mut Json, namespace: &str) {
        let whole = schema.clone();
        let Json::Object(object) = schema else { return };
        if object.get("logicalType").is_some_and(|logical| !logical.is_string()) {
            object.remove("logicalType");
        }
        match object.get("type").and_then(Json::as_str) {
            Some("record" | "error" | "enum" | "fixed") => {
                let full = full_name(object, namespace);
                if self.defined.get(&full).is_some_and(|known| *known == whole) {
                    *schema = Json::String(self.type_name(&full));
                    return;
                }
                self.defined.insert(full.clone(), whole);
                self.named(object, &full);
            }
            Some("array") => self.part(object, "items", namespace),
            Some("map") => self.part(object, "values", namespace),
            _ => self.part(object, "type", namespace),
        }
    }

    fn part(&mut self, object: &mut Map<String, Json>, part: &str, namespace: &str) {
        if let Some(schema) = object.get_mut(part) {
            self.schema(schema, namespace);
        }
    }

    fn named(&mut self, object: &mut Map<String, Json>, full: &str) {
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let name = self.type_name(full);
        object.insert("name".to_owned(), Json::String(name));
        object.remove("namespace");
        match object.get_mut("aliases") {
            Some(Json::Array(aliases)) => {
                for alias in aliases.iter_mut() {
                    if let Json::String(text) = alias {
                        *text = self.type_name(&qualified(text, namespace));
                    }
                }
            }
            _ => drop(object.remove("aliases")),
        }
        if object.get("type").is_some_and(|kind| kind == "error") {
            object.insert("type".to_owned(), Json::String("record".to_owned()));
        }
        if let Some(Json::Array(fields)) = object.get_mut("fields") {
            fields.iter_mut().filter_map(Json::as_object_mut).for_each(|field| self.field(field, namespace));
        }
        self.default(object);
        let symbols = object.get_mut("symbols").and_then(Json::as_array_mut).into_iter().flatten().collect::<Vec<_>>();
        for symbol in symbols {
            self.rename(symbol);
        }
        if let Some(default) = object.get_mut("default") {
            self.rename(default);
        }
    }

    fn field(&mut self, field: &mut Map<String, Json>, namespace: &str) {
        if let Some(name) = field.get_mut("name") {
            self.rename(name);
        }
        self.default(field);
        self.part(field, "type", namespace);
    }

    /// Leaves a default out that does not fit.
    fn default(&mut self, object: &mut Map<String, Json>) {
        if object.contains_key("default") {
            if self.unfit.contains(&self.defaults) {
                object.remove("default");
            }
            self.defaults += 1;
        }
    }

    fn rename(&mut self, name: &mut Json) {
        if let Json::String(text) = name {
            *text = self.renamed(text);
        }
    }

    /// What a name refers to: a type of the namespace around it, or one of none.
    fn reference(&mut self, name: &str, namespace: &str) -> String {
        let here = qualified(name, namespace);
        let is_nowhere = !self.defined.contains_key(&here) && self.defined.contains_key(name);
        self.type_name(if is_nowhere { name } else { &here })
    }

    /// The new full name of a type. Of one without a namespace apache-avro finds no reference from within another.
    fn type_name(&mut self, full: &str) -> String {
        let new = self.renamed(full);
        if new.contains('.') {
            return new;
        }
        let new = format!("{NOWHERE}.{new}");
        self.names.insert(new.clone(), full.to_owned());
        new
    }

    /// A name that apache-avro takes, always the same for the same.
    fn renamed(&mut self, name: &str) -> String {
        let new = name.split('.').map(legal).collect::<Vec<_>>().join(".");
        if new != name {
            self.names.insert(new.clone(), name.to_owned());
        }
        new
    }
}

fn is_primitive(name: &str) -> bool {
    matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string")
}

fn full_name(object: &Map<String, Json>, namespace: &str) -> String {
    let text = |key: &str| object.get(key).and_then(Json::as_str);
    qualified(text("name").unwrap_or_default(), text("namespace").unwrap_or(namespace))
}

fn qualified(name: &str, namespace: &str) -> String {
    match name.strip_prefix('.') {
        Some(name) => name.to_owned(),
        None if name.contains('.') || namespace.is_empty() => name.to_owned(),
        None => format!("{namespace}.{name}"),
    }
}

/// A part of a name with each character replaced that Avro's specification does not allow.
fn legal(part: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(part.len());
    for (at, c) in part.chars().enumerate() {
        match c {
            'a'..='z' | 'A'..='Z' | '_' => out.push(c),
            '0'..='9' if at > 0 => out.push(c),
            other => _ = write!(out, "_u{:04x}_", u32::from(other)),
        }
    }
    out
}

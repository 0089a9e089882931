//! What the registry knows, in memory and in one file that is replaced as a whole before a change is answered.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::compat::Level;
use super::schema::{ParsedSchema, Reference, Source};
use super::validation;

/// The file is written whole at each change, so there is an end to it.
const SCHEMAS: usize = 10_000;
const VERSIONS: usize = 1_000;
const REFERENCES: usize = 64;
const SUBJECT_BYTES: usize = 512;

/// Everything, as it stands in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalog {
    pub(crate) compatibility: Level,
    /// By global id, from 1 on without holes.
    pub(crate) schemas: BTreeMap<u32, Source>,
    pub(crate) subjects: BTreeMap<String, Subject>,
}

/// One subject.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// `None`: the registry's.
    pub(crate) compatibility: Option<Level>,
    /// Global ids; version n stands at n − 1.
    pub(crate) versions: Vec<u32>,
}

/// Why something is refused, in Confluent's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApiError {
    NoSubject(String),
    NoVersion(String),
    NoSchema,
    NoLevel(String),
    BadSchema(String),
    BadVersion(String),
    BadLevel(String),
    BadSubject,
    Incompatible(String),
    Full(&'static str),
    Disk(String),
}

impl Catalog {
    /// The ids of a subject that has versions.
    pub(crate) fn versions(&self, subject: &str) -> Result<&[u32], ApiError> {
        let found = self.subjects.get(subject).map(|found| found.versions.as_slice()).filter(|ids| !ids.is_empty());
        found.ok_or_else(|| ApiError::NoSubject(subject.to_owned()))
    }

    /// The number of a version and its global id; `latest` or `-1` is the last.
    pub(crate) fn version(&self, subject: &str, version: &str) -> Result<(u32, u32), ApiError> {
        let ids = self.versions(subject)?;
        let last = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let number = match version {
            "latest" | "-1" => last,
            text => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| ApiError::BadVersion(version.to_owned()))?,
        };
        let id = usize::try_from(number).ok().and_then(|n| ids.get(n - 1));
        id.map(|id| (number, *id)).ok_or_else(|| ApiError::NoVersion(version.to_owned()))
    }

    /// Parses a schema and whatever it refers to.
    pub(crate) fn parse(&self, schema: &str, references: &[Reference]) -> Result<ParsedSchema, ApiError> {
        let mut found: Vec<(u32, String)> = Vec::new();
        let mut open: Vec<Reference> = references.to_vec();
        while let Some(reference) = open.pop() {
            let bad = |_| {
                ApiError::BadSchema(format!(
                    "reference to {} version {} leads nowhere",
                    reference.subject, reference.version
                ))
            };
            let (_, id) = self.version(&reference.subject, &reference.version.to_string()).map_err(bad)?;
            if found.iter().any(|(other, _)| *other == id) {
                continue;
            }
            if found.len() >= REFERENCES {
                return Err(ApiError::BadSchema(format!("more than {REFERENCES} references")));
            }
            let source = self.schemas.get(&id).ok_or(ApiError::NoSchema)?;
            open.extend(source.references.iter().cloned());
            found.push((id, source.schema.clone()));
        }
        let others: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
        ParsedSchema::parse(schema, &others).map_err(ApiError::BadSchema)
    }

    /// The same of a schema that is offered: what no implementation of Avro takes is refused, also where ours would.
    pub(crate) fn parse_new(&self, schema: &str, references: &[Reference]) -> Result<ParsedSchema, ApiError> {
        validation::check(schema).map_err(ApiError::BadSchema)?;
        self.parse(schema, references)
    }

    /// The versions that the subject's level compares a new one with.
    pub(crate) fn compared(&self, subject: &str) -> &[u32] {
        let Some(own) = self.subjects.get(subject) else { return &[] };
        match own.versions.as_slice() {
            all if own.compatibility.unwrap_or(self.compatibility).is_transitive() => all,
            all => &all[all.len().saturating_sub(1)..],
        }
    }

    /// The version and id under which a subject has this very schema.
    pub(crate) fn lookup(&self, subject: &str, identity: &str) -> Result<(u32, u32), ApiError> {
        let ids = self.versions(subject)?;
        let same = |id: &u32| self.schemas.get(id).is_some_and(|source| source.identity == identity);
        let place = (1..).zip(ids).find(|(_, id)| same(id));
        place.map(|(version, id)| (version, *id)).ok_or(ApiError::NoSchema)
    }

    /// Why the subject's level refuses this schema, if it does. A subject without versions refuses nothing.
    pub(crate) fn incompatibility(
        &self,
        subject: &str,
        new: &ParsedSchema,
        against: &[u32],
    ) -> Result<Option<String>, ApiError> {
        let own = self.subjects.get(subject).and_then(|subject| subject.compatibility);
        let level = own.unwrap_or(self.compatibility);
        for id in against.iter().rev() {
            let old = self.schemas.get(id).ok_or(ApiError::NoSchema)?;
            let old = self.parse(&old.schema, &old.references)?;
            if let Err(why) = level.check(new, &old) {
                return Ok(Some(format!("{why} (schema id {id}, compatibility of {subject})")));
            }
        }
        Ok(None)
    }

    /// Fills in what the file does not hold.
    fn identify(&mut self) -> Result<(), ApiError> {
        for id in self.schemas.keys().copied().collect::<Vec<_>>() {
            let source = self.schemas.get(&id).ok_or(ApiError::NoSchema)?;
            let parsed = self.parse(&source.schema, &source.references)?;
            let identity = parsed.identity(&source.references).map_err(ApiError::BadSchema)?;
            if let Some(source) = self.schemas.get_mut(&id) {
                source.identity = identity;
            }
        }
        Ok(())
    }

    /// Registers a schema, or finds it: its global id.
    fn register(&mut self, subject: &str, schema: &str, references: &[Reference]) -> Result<u32, ApiError> {
        if subject.is_empty() || subject.len() > SUBJECT_BYTES || subject.chars().any(char::is_control) {
            return Err(ApiError::BadSubject);
        }
        let parsed = self.parse_new(schema, references)?;
        let identity = parsed.identity(references).map_err(ApiError::BadSchema)?;
        if let Ok((_, id)) = self.lookup(subject, &identity) {
            return Ok(id);
        }
        let own = self.subjects.get(subject).cloned().unwrap_or_default();
        if let Some(why) = self.incompatibility(subject, &parsed, self.compared(subject))? {
            return Err(ApiError::Incompatible(why));
        }
        let known = self.schemas.iter().find(|(_, source)| source.identity == identity).map(|(id, _)| *id);
        let next = self.schemas.last_key_value().map_or(1, |(id, _)| id + 1);
        if known.is_none() && self.schemas.len() >= SCHEMAS || own.versions.len() >= VERSIONS {
            return Err(ApiError::Full("the stack's registry holds 10,000 schemas, 1,000 a subject"));
        }
        let id = known.unwrap_or(next);
        self.schemas.entry(id).or_insert_with(|| Source {
            schema: schema.to_owned(),
            references: references.to_vec(),
            identity,
        });
        self.subjects.entry(subject.to_owned()).or_default().versions.push(id);
        Ok(id)
    }
}

/// The catalog and its file.
#[derive(Debug)]
pub(crate) struct Store {
    file: PathBuf,
    /// Readers take the whole at once and never wait for the disk.
    current: RwLock<Arc<Catalog>>,
    /// One change at a time.
    writing: Mutex<()>,
}

impl Store {
    /// Reads the file; without one it is empty.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged: its ids are in topics, so it is not begun anew silently.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let damaged = || format!("{} is damaged: restore it, or begin with another data folder", file.display());
        let mut catalog: Catalog = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(damaged)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Catalog::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        catalog.identify().map_err(|why| anyhow!("{why:?}")).with_context(damaged)?;
        Ok(Self { file: file.to_owned(), current: RwLock::new(Arc::new(catalog)), writing: Mutex::new(()) })
    }

    /// The catalog as it is now.
    pub(crate) fn read(&self) -> Arc<Catalog> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// See [`Catalog::register`]. Blocks on the disk.
    pub(crate) fn register(&self, subject: &str, schema: &str, references: &[Reference]) -> Result<u32, ApiError> {
        self.change(|catalog| catalog.register(subject, schema, references))
    }

    /// Sets a subject's level, or the registry's own. Blocks on the disk.
    pub(crate) fn set_level(&self, subject: Option<&str>, level: Level) -> Result<(), ApiError> {
        self.change(|catalog| match subject {
            None => {
                catalog.compatibility = level;
                Ok(())
            }
            Some(subject) if catalog.subjects.len() >= SCHEMAS && !catalog.subjects.contains_key(subject) => {
                Err(ApiError::Full("the stack's registry holds 10,000 subjects"))
            }
            Some(subject) => {
                catalog.subjects.entry(subject.to_owned()).or_default().compatibility = Some(level);
                Ok(())
            }
        })
    }

    /// Changes a copy, writes it to disk, then shows it: what was answered is never lost, what failed leaves no trace.
    fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut catalog = Catalog::clone(&self.read());
        let outcome = change(&mut catalog)?;
        let bytes = serde_json::to_vec_pretty(&catalog).map_err(|error| ApiError::Disk(error.to_string()))?;
        crate::endpoints::replace(&self.file, &bytes)
            .map_err(|error| ApiError::Disk(format!("cannot write {}: {error}", self.file.display())))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        Ok(outcome)
    }
}

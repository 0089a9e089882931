//! Sections of the configuration that a program has beside those of every program.

use headwater_dev::Endpoints;
use serde::de::DeserializeOwned;
use toml::{Table, Value, de::Error};

/// A section of the configuration that a program's pipeline reads by [`Deps::section`](crate::Deps::section). Deny unknown
/// fields to have them refused by their names.
pub trait Section: DeserializeOwned + 'static {
    /// Its name: `[NAME]` in the file, `HEADWATER__NAME__KEY` among the variables.
    const NAME: &'static str;
    /// What holds where nobody says otherwise, as TOML.
    const DEFAULTS: &'static str;

    /// What is wrong with it, a sentence each.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// What points it at the local stack of `dev`, by key.
    fn on_stack(_stack: &Endpoints) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A section, whatever its type.
#[derive(Clone, Copy)]
pub(crate) struct AddedSection {
    pub(super) name: &'static str,
    defaults: &'static str,
    problems: fn(Value) -> Result<Vec<String>, Error>,
    on_stack: fn(&Endpoints) -> Vec<(&'static str, String)>,
}

impl AddedSection {
    pub(crate) fn of<S: Section>() -> Self {
        let problems = |value: Value| value.try_into().map(|section: S| section.problems());
        Self { name: S::NAME, defaults: S::DEFAULTS, problems, on_stack: S::on_stack }
    }

    /// Settings that point it at a stack, by path.
    pub(crate) fn on_stack(&self, stack: &Endpoints) -> impl Iterator<Item = (String, String)> {
        let name = self.name;
        (self.on_stack)(stack).into_iter().map(move |(key, value)| (format!("{name}.{key}"), value))
    }

    /// Its defaults.
    ///
    /// # Errors
    /// When they are no TOML.
    pub(super) fn defaults(&self) -> Result<Table, String> {
        self.defaults.parse().map_err(|error: Error| format!("the defaults of [{}] are no TOML: {error}", self.name))
    }

    /// What is wrong with a value of it, a sentence each.
    ///
    /// # Errors
    /// When it is none at all.
    pub(super) fn problems(&self, value: Value) -> Result<Vec<String>, Error> {
        (self.problems)(value)
    }
}

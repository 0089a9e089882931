//! The groups of the pipeline that keep state and their stores: what can be read, and what is said of everything else.

use std::fmt;

use headwater::spi::GroupTopics;

use super::answer::{RefusalKind, StateError};
use crate::{app::ConfiguredGroup, config::nearest};

/// Every group that keeps state.
pub(crate) struct StoreCatalogue(Vec<StatefulGroup>);

struct StatefulGroup {
    name: String,
    id: String,
    stores: Vec<Store>,
}

/// A store of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    /// The group's id.
    pub(crate) group: String,
    pub(crate) name: &'static str,
    /// The topic that has as many partitions as the store.
    pub(super) changelog: String,
    /// The topics whose partition of a number brings that number's state: who reads it has the state.
    pub(super) feeds: Vec<String>,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.group, self.name)
    }
}

impl StoreCatalogue {
    pub(super) fn of(groups: &[ConfiguredGroup]) -> Self {
        let keeping = |configured: &ConfiguredGroup| StatefulGroup {
            name: configured.group.name.clone(),
            id: configured.group.id.clone(),
            stores: stores(configured),
        };
        Self(groups.iter().map(keeping).filter(|group| !group.stores.is_empty()).collect())
    }

    /// The ids of the groups.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().map(|group| group.id.clone()).collect()
    }

    /// The stores of a group, by its id.
    pub(super) fn stores(&self, id: &str) -> &[Store] {
        self.0.iter().find(|group| group.id == id).map_or(&[], |group| &group.stores)
    }

    /// The id of the group of this name, with or without the prefix.
    ///
    /// # Errors
    /// That there is none, with those there are.
    pub(crate) fn group(&self, name: &str) -> Result<&str, StateError> {
        self.find(name).map(|group| group.id.as_str())
    }

    /// The store of this name of the group of this name.
    ///
    /// # Errors
    /// That there is none, with those there are.
    pub(crate) fn store(&self, group: &str, name: &str) -> Result<&Store, StateError> {
        let group = self.find(group)?;
        group.stores.iter().find(|store| store.name == name).ok_or_else(|| {
            let names = group.stores.iter().map(|store| store.name).collect();
            missing(&format!("group {} has no store `{name}`", group.id), name, names)
        })
    }

    fn find(&self, name: &str) -> Result<&StatefulGroup, StateError> {
        self.0.iter().find(|group| group.name == name || group.id == name).ok_or_else(|| {
            let names = self.0.iter().map(|group| group.name.as_str()).collect();
            missing(&format!("there is no group `{name}` that keeps state"), name, names)
        })
    }
}

fn missing(what: &str, name: &str, names: Vec<&str>) -> StateError {
    let hint = match nearest(name, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "the pipeline has none".to_owned(),
        None => format!("there are {}", names.join(", ")),
    };
    RefusalKind::Unknown.because(format!("{what}; {hint}"))
}

fn stores(configured: &ConfiguredGroup) -> Vec<Store> {
    let group = &configured.group;
    let store = |name: &'static str| Store {
        group: group.id.clone(),
        name,
        changelog: GroupTopics::of(&group.id).changelog(name),
        // Inputs may have other numbers of partitions, and so other owners.
        feeds: group.own_topics.clone(),
    };
    configured.stores().into_iter().map(store).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A store that topic `t` brings.
    pub(in crate::state) fn store() -> Store {
        Store { group: "shop.g".to_owned(), name: "spend", changelog: "c".to_owned(), feeds: vec!["t".to_owned()] }
    }

    /// Red when a group is found by its id alone or its name alone, or what there is instead is not said.
    #[test]
    fn groups_and_stores_are_found_or_named() {
        let group = StatefulGroup { name: "g".to_owned(), id: "shop.g".to_owned(), stores: vec![store()] };
        let known = StoreCatalogue(vec![group]);
        assert_eq!(known.store("g", "spend"), known.store("shop.g", "spend"));
        assert!(known.store("g", "spend").is_ok());
        let why = known.store("x.y", "spend").unwrap_err();
        assert!(why.status() == 404 && why.to_string().ends_with("there are g"), "{why}");
        let why = known.store("g", "spent").unwrap_err().to_string();
        assert_eq!(why, "group shop.g has no store `spent`; did you mean `spend`?");
    }
}

//! Whether a group is ready, and what keeps it from its work.

use std::{collections::BTreeMap, sync::MutexGuard};

use super::{GroupState, lock};

/// Partitions named in one line at most.
const NAMED: usize = 6;

#[derive(Debug, Default)]
pub(super) struct Health {
    joined: bool,
    /// What keeps the group from its work, by what it concerns.
    troubles: BTreeMap<String, String>,
}

impl GroupState {
    /// Why the group is not ready, a sentence each; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        let health = self.health();
        let joining = (!health.joined).then(|| "joining its consumer group".to_owned());
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (about, why) in &health.troubles {
            by_reason.entry(why).or_default().push(about);
        }
        joining
            .into_iter()
            .chain(by_reason.into_iter().map(|(why, about)| format!("{}: {why}", some_of(&about))))
            .collect()
    }

    pub(crate) fn joined(&self) {
        self.health().joined = true;
    }

    /// Notes what keeps `about` from its work, or that nothing does any more. True when that is news.
    pub fn trouble(&self, about: &str, why: Option<&str>) -> bool {
        let mut health = self.health();
        match why {
            Some(why) => health.troubles.insert(about.to_owned(), why.to_owned()).as_deref() != Some(why),
            None => health.troubles.remove(about).is_some(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// These names, or how many more there are than fit on a line.
fn some_of(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let text = names[..names.len() - more].join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::States;

    /// Red when a trouble survives its end, or a group that has not joined counts as ready.
    #[test]
    fn a_group_is_ready_once_joined_and_without_trouble() {
        let states = States::default();
        let state = states.of("orders-sink");
        assert_eq!(states.troubles(), ["orders-sink: joining its consumer group"]);
        state.joined();
        assert!(state.trouble("database", Some("does not answer")));
        assert!(!state.trouble("database", Some("does not answer")), "no news");
        assert_eq!(states.troubles(), ["orders-sink: database: does not answer"]);
        assert!(state.trouble("database", None));
        assert!(states.troubles().is_empty());
    }

    /// Red when an outage says a line for each partition, names all of a thousand, or joins what differs.
    #[test]
    fn what_many_partitions_wait_for_is_said_once() {
        let state = GroupState::default();
        state.joined();
        (0..8).for_each(|n| _ = state.trouble(&format!("t/{n}"), Some("waits for `shop`")));
        state.trouble("u/0", Some("stopped"));
        assert_eq!(state.troubles(), ["u/0: stopped", "t/0, t/1, t/2, t/3, t/4, t/5 and 2 more: waits for `shop`"]);
    }
}

//! Whether a group is ready, and what keeps it from its work.

use std::{collections::BTreeMap, fmt};

use crate::event::time::Time;

/// Partitions named in one line at most.
const NAMED: usize = 6;

#[derive(Debug, Default)]
pub(crate) struct Health {
    joined: bool,
    /// Its clients are made anew, until it has joined again.
    renewing: bool,
    /// Partitions that are assigned and whose place is not known yet.
    starting: usize,
    /// Since it failed, until it has joined again.
    down: Option<Down>,
    /// What keeps the group from its work, by what it concerns.
    troubles: BTreeMap<String, String>,
}

/// Why a group does not work, since when, and what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// What happened.
    pub why: String,
    /// When it failed first, of several times that followed each other.
    pub since: Time,
    /// What comes next.
    pub next: AfterFailure,
}

/// What comes next for a group that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It is started anew at this time.
    At(Time),
    /// It is being started anew.
    Now,
    /// It stands still until a person acts.
    Person,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, since, next } = self;
        match next {
            AfterFailure::At(at) => write!(f, "failed since {since}, is started anew at {at}: {why}"),
            AfterFailure::Now => write!(f, "failed since {since}, is being started anew: {why}"),
            AfterFailure::Person => write!(f, "stands still since {since} until a person acts: {why}"),
        }
    }
}

/// In a word, how a group stands in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On its way into its consumer group.
    Joining,
    /// In it.
    Working,
    /// Between its old clients and its new ones, as when certificates change.
    Renewing,
    /// It has failed, and is started anew.
    Failed,
    /// It has failed, and only a person can decide what comes next.
    Halted,
}

impl Activity {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Working => "working",
            Self::Renewing => "renewing",
            Self::Failed => "failed",
            Self::Halted => "halted",
        }
    }
}

impl Health {
    /// That of a group that has failed: nothing of what it was doing is true any more.
    pub(crate) fn of_down(down: Down) -> Self {
        Self { down: Some(down), ..Self::default() }
    }

    /// That of a group whose clients are made anew: it has no trouble, and none of what it did is true any more.
    pub(crate) fn of_renewing() -> Self {
        Self { renewing: true, ..Self::default() }
    }

    /// Why the group is not ready, a sentence each; empty when it is.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let joining = (!self.joined && !self.renewing)
            .then(|| self.down.as_ref().map_or_else(|| "joining its consumer group".to_owned(), ToString::to_string));
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (about, why) in &self.troubles {
            by_reason.entry(why).or_default().push(about);
        }
        joining
            .into_iter()
            .chain(by_reason.into_iter().map(|(why, about)| format!("{}: {why}", some_of(&about))))
            .collect()
    }

    pub(crate) fn activity(&self) -> Activity {
        match &self.down {
            Some(Down { next: AfterFailure::Person, .. }) => Activity::Halted,
            Some(_) => Activity::Failed,
            None if self.joined => Activity::Working,
            None if self.renewing => Activity::Renewing,
            None => Activity::Joining,
        }
    }

    pub(crate) fn has_joined(&self) -> bool {
        self.joined
    }

    pub(crate) fn join(&mut self) {
        (self.joined, self.renewing, self.down) = (true, false, None);
    }

    /// So many partitions are assigned and not begun.
    pub(crate) fn set_starting(&mut self, partitions: usize) {
        self.starting = partitions;
    }

    /// Whether it has joined, and begun every partition that it was given: what keeps state has restored it.
    pub(crate) fn is_at_work(&self) -> bool {
        self.joined && self.starting == 0
    }

    /// Notes what keeps `about` from its work, or that nothing does any more. True when that is news.
    pub(crate) fn trouble(&mut self, about: &str, why: Option<&str>) -> bool {
        match why {
            Some(why) => self.troubles.insert(about.to_owned(), why.to_owned()).as_deref() != Some(why),
            None => self.troubles.remove(about).is_some(),
        }
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
    use super::{
        super::{GroupMetrics, Metric, ProcessMetrics},
        *,
    };

    /// Red when a trouble survives its end, or a group that has not joined counts as ready.
    #[test]
    fn a_group_is_ready_once_joined_and_without_trouble() {
        let states = ProcessMetrics::default();
        let state = states.of("orders-sink");
        assert_eq!(states.troubles(), ["orders-sink: joining its consumer group"]);
        state.joined();
        assert!(state.trouble("database", Some("does not answer")));
        assert!(!state.trouble("database", Some("does not answer")), "no news");
        assert_eq!(states.troubles(), ["orders-sink: database: does not answer"]);
        assert!(state.trouble("database", None));
        assert!(states.troubles().is_empty());
    }

    /// Red when what a group said before it failed outlives it, the reason or its times are missing, or a group that has joined
    /// again still counts as down.
    #[test]
    fn a_group_that_failed_says_why_and_since_when_until_it_has_joined_again() {
        let state = GroupMetrics::default();
        state.joined();
        state.trouble("t/0", Some("waits for `shop`"));
        state.set(Metric::Partitions, 3);
        let down = |next| Down { why: "no schema".to_owned(), since: Time::from_millis(0), next };
        state.set_down(down(AfterFailure::At(Time::from_millis(5_000))));
        let said = "failed since 1970-01-01T00:00:00Z, is started anew at 1970-01-01T00:00:05Z: no schema";
        assert_eq!((state.troubles(), state.activity()), (vec![said.to_owned()], Activity::Failed));
        assert_eq!((state.get(Metric::Partitions), state.get(Metric::Halted)), (0, 0));
        state.set_down(down(AfterFailure::Person));
        assert_eq!((state.activity(), state.get(Metric::Halted)), (Activity::Halted, 1));
        state.set_down(down(AfterFailure::Now));
        assert_eq!((state.activity(), state.get(Metric::Halted)), (Activity::Failed, 0));
        state.joined();
        assert_eq!((state.troubles(), state.activity()), (Vec::new(), Activity::Working));
    }

    /// Red when a group whose clients are made anew counts as not ready, as joined before it has, or as at work before its partitions
    /// have begun; or when it is renewing for ever.
    #[test]
    fn a_group_whose_clients_are_made_anew_is_ready_and_says_so() {
        let state = GroupMetrics::default();
        state.joined();
        state.trouble("t/0", Some("waits for `shop`"));
        state.set(Metric::Partitions, 3);
        state.set_renewing();
        assert_eq!((state.troubles(), state.activity()), (Vec::new(), Activity::Renewing));
        assert_eq!((state.get(Metric::Partitions), state.has_joined(), state.is_at_work()), (0, false, false));
        state.set_starting(2);
        state.joined();
        assert_eq!((state.activity(), state.is_at_work()), (Activity::Working, false));
        state.set_starting(0);
        assert!(state.is_at_work());
    }

    /// Red when an outage says a line for each partition, names all of a thousand, or joins what differs.
    #[test]
    fn what_many_partitions_wait_for_is_said_once() {
        let state = GroupMetrics::default();
        state.joined();
        (0..8).for_each(|n| _ = state.trouble(&format!("t/{n}"), Some("waits for `shop`")));
        state.trouble("u/0", Some("stopped"));
        assert_eq!(state.troubles(), ["u/0: stopped", "t/0, t/1, t/2, t/3, t/4, t/5 and 2 more: waits for `shop`"]);
    }
}

//! The topics that a group owns: everything that begins with its id and a dot.

use std::time::Duration;

use super::record::Record;
use crate::failure::ladder::Delay;

const RETRY: &str = "retry";
const REDRIVE: &str = "redrive";
const REPARTITION: &str = "repartition";
const CHANGELOG: &str = "changelog";
/// The store of records that wait under the order `key`.
pub const WAITING: &str = "waiting";
/// What the name of a topic of dead letters ends with, after a dot.
pub(crate) const DLQ: &str = "dlq";
/// Every topic of events, as a pattern (POSIX extended).
pub(crate) const ALL_EVENTS: &str = r"^events\..*";

/// The names of the topics that one group owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopics {
    group: String,
}

/// What a topic is to a group that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicRole {
    /// It holds events, whoever wrote them.
    Input,
    /// It holds records that failed, each until it is due; none waits longer than this.
    Retry(Duration),
    /// It holds dead letters that were sent back.
    Redrive,
    /// It holds records that the group has repartitioned for one of its steps.
    Repartition,
    /// The group's own store of records that wait: the source knows nothing of it.
    Waiting,
}

impl GroupTopics {
    /// The topics of the group with this id.
    pub fn of(group: &str) -> Self {
        Self { group: group.to_owned() }
    }

    /// Where records wait this long before another attempt.
    pub fn retry(&self, delay: Delay) -> String {
        format!("{}.{RETRY}.{delay}", self.group)
    }

    /// Where dead letters are sent back to this group alone.
    pub fn redrive(&self) -> String {
        format!("{}.{REDRIVE}", self.group)
    }

    /// Whether a topic is where dead letters are sent back to this group.
    pub(crate) fn is_redrive(topic: &str, group: &str) -> bool {
        topic.strip_prefix(group).and_then(|own| own.strip_prefix('.')) == Some(REDRIVE)
    }

    /// Where its dead letters go.
    pub fn dlq(&self) -> String {
        format!("{}.{DLQ}", self.group)
    }

    /// Where records stand that were repartitioned for this step.
    pub fn repartition(&self, step: &str) -> String {
        format!("{}.{step}.{REPARTITION}", self.group)
    }

    /// Where the changes of this store are kept.
    pub fn changelog(&self, store: &str) -> String {
        format!("{}.{store}.{CHANGELOG}", self.group)
    }

    /// The store whose changes this topic keeps, if it is a changelog of the group's.
    pub fn store_of<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let own = topic.strip_prefix(self.group.as_str())?.strip_prefix('.')?;
        own.strip_suffix(CHANGELOG)?.strip_suffix('.')
    }

    /// Whether this topic holds what the group has repartitioned.
    pub fn is_repartition(&self, topic: &str) -> bool {
        self.role(topic) == TopicRole::Repartition
    }

    /// Every retry topic that the group has or ever had, as a pattern (POSIX extended): a delay that is taken out of the
    /// ladder leaves records behind.
    pub(crate) fn retries(&self) -> String {
        format!("^{}\\.{RETRY}\\.[0-9]+(ms|s|m|h|d)$", escaped(&self.group))
    }

    pub(crate) fn role(&self, topic: &str) -> TopicRole {
        let Some(own) = topic.strip_prefix(self.group.as_str()).and_then(|rest| rest.strip_prefix('.')) else {
            return TopicRole::Input;
        };
        let delay = || own.strip_prefix(RETRY)?.strip_prefix('.')?.parse::<Delay>().ok();
        if own.strip_suffix(REPARTITION).is_some_and(|step| step.ends_with('.')) {
            return TopicRole::Repartition;
        }
        if own.strip_suffix(CHANGELOG).and_then(|store| store.strip_suffix('.')) == Some(WAITING) {
            return TopicRole::Waiting;
        }
        if own == REDRIVE {
            TopicRole::Redrive
        } else {
            delay().map_or(TopicRole::Input, |delay| TopicRole::Retry(delay.get()))
        }
    }
}

/// Every topic of dead letters under a prefix, as a pattern (POSIX extended).
pub(crate) fn all_dlqs(prefix: &str) -> String {
    format!("^{}.+\\.{DLQ}$", escaped(prefix))
}

/// The group that a topic of dead letters belongs to.
pub(crate) fn group_of_dlq(record: &Record) -> &str {
    record.topic.strip_suffix(DLQ).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&record.topic)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c != '-' && c != '_' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(crate) fn is_group_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=100).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a topic of another group, or one that only looks alike, passes for the group's own.
    #[test]
    fn a_group_knows_its_own_topics() {
        let owned = GroupTopics::of("shop.fulfil");
        let delay: Delay = "10s".parse().expect("valid");
        assert_eq!(owned.role(&owned.retry(delay)), TopicRole::Retry(Duration::from_secs(10)));
        assert_eq!(owned.role(&owned.redrive()), TopicRole::Redrive);
        assert_eq!(owned.role(&owned.repartition("count.all")), TopicRole::Repartition);
        for other in [
            "shop.fulfil.dlq",
            "shop.fulfil.repartition",
            "shop.fulfil2.redrive",
            "fulfil.redrive",
            "shop.fulfil.retry.soon",
            "shop.fulfil",
        ] {
            assert_eq!(owned.role(other), TopicRole::Input, "{other}");
        }
    }

    /// Red when a dot of a name matches any character, or the pattern takes what is no delay.
    #[test]
    fn patterns_name_what_they_mean() {
        assert_eq!(GroupTopics::of("a.b-c").retries(), r"^a\.b-c\.retry\.[0-9]+(ms|s|m|h|d)$");
        assert_eq!(all_dlqs("shop."), r"^shop\..+\.dlq$");
        assert_eq!(all_dlqs(""), r"^.+\.dlq$");
    }
}

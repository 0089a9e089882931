//! What a group reads, and which topics it may read, as far as the literal ends of its patterns tell.
//!
//! librdkafka matches the patterns itself, with an engine that it does not lend.

use crate::kafka::error::KafkaError;

/// What a group reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Topics by name.
    pub topics: Vec<String>,
    /// Topics by regular expressions (POSIX extended), each of which begins with `^`, such as `^events\..*`.
    /// A topic that appears later is read within seconds.
    pub patterns: Vec<String>,
}

impl Subscription {
    /// Names and patterns as librdkafka takes them.
    pub(crate) fn names(&self) -> Result<Vec<String>, KafkaError> {
        let mut names = self.topics.clone();
        names.extend(self.patterns.iter().cloned());
        let patterns_are_such = self.patterns.iter().all(|pattern| pattern.starts_with('^'));
        let topics_are_none = self.topics.iter().all(|topic| !topic.is_empty() && !topic.starts_with('^'));
        if names.is_empty() || !patterns_are_such || !topics_are_none {
            let text = "a subscription needs topic names, or patterns that begin with `^`";
            return Err(KafkaError::Config(text.to_owned()));
        }
        Ok(names)
    }

    /// Whether a topic is read. Of a pattern only its literal beginning and end are looked at, so that this may hold for a
    /// few topics more than are read, and for none less.
    pub fn may_read(&self, topic: &str) -> bool {
        let matches = |pattern: &String| Ends::of(pattern).match_name(topic);
        self.topics.iter().any(|name| name == topic) || !topic.starts_with("__") && self.patterns.iter().any(matches)
    }
}

/// What every match of a pattern begins and ends with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    prefix: String,
    suffix: String,
}

impl Ends {
    fn of(pattern: &str) -> Self {
        if pattern.contains('|') {
            return Self::default();
        }
        let (mut prefix, mut run) = (None, String::new());
        let mut characters = pattern.trim_start_matches('^').chars().peekable();
        let mut anchored = false;
        while let Some(character) = characters.next() {
            let literal = match character {
                '\\' => characters.next(),
                '$' if characters.peek().is_none() => {
                    anchored = true;
                    break;
                }
                '[' => skip_set(&mut characters),
                '{' => characters.by_ref().find(|c| *c == '}').and(None),
                '.' | '(' | ')' | '$' | '^' | '*' | '+' | '?' => None,
                literal => Some(literal),
            };
            // What is repeated or optional need not be there as it is written.
            let fixed = !matches!(characters.peek(), Some('*' | '+' | '?' | '{'));
            match literal {
                Some(literal) if fixed => run.push(literal),
                _ => {
                    let ended = std::mem::take(&mut run);
                    prefix.get_or_insert(ended);
                }
            }
        }
        let suffix = if anchored { run.clone() } else { String::new() };
        Self { prefix: prefix.unwrap_or(run), suffix }
    }

    fn match_name(&self, topic: &str) -> bool {
        topic.starts_with(&self.prefix) && topic.ends_with(&self.suffix)
    }
}

/// Passes a bracket expression, in which `]` stands for itself at the beginning, also after `^`.
fn skip_set(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    characters.next_if_eq(&'^');
    characters.next_if_eq(&']');
    characters.find(|c| *c == ']').and(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when an escape, an optional or repeated character, a set or an alternative is taken literally, or the end of a
    /// pattern that is not anchored is.
    #[test]
    fn a_patterns_literal_ends_are_never_too_long() {
        for (pattern, prefix, suffix) in [
            (r"^events\..*", "events.", ""),
            ("^abc?d", "ab", ""),
            ("^a|b$", "", ""),
            ("^[]x]c$", "", "c"),
            ("^[^]x]c$", "", "c"),
            ("^x{2}", "", ""),
            ("^x{2}y$", "", "y"),
            (r"^a\.b$", "a.b", "a.b"),
            (r"^.*\.dlq$", "", ".dlq"),
            (r"^p\.[^.]+\.dlq$", "p.", ".dlq"),
            (r"^a(\.b)?$", "a", ""),
            ("^ab+$", "a", ""),
            (r"^price\$", "price$", ""),
        ] {
            let ends = Ends { prefix: prefix.to_owned(), suffix: suffix.to_owned() };
            assert_eq!(Ends::of(pattern), ends, "{pattern}");
        }
    }

    /// Red when only the first pattern counts, names are forgotten beside patterns, or the brokers' own topics match.
    #[test]
    fn names_and_patterns_are_mixed() {
        let topics = vec!["payments".to_owned(), "g.redrive".to_owned()];
        let patterns = vec![r"^events\..*".to_owned(), r"^g\.retry\..*".to_owned(), r"^.*\.dlq$".to_owned()];
        let subscription = Subscription { topics, patterns };
        for (topic, read) in [
            ("payments", true),
            ("g.redrive", true),
            ("events.order", true),
            ("g.retry.1s", true),
            ("h.dlq", true),
            ("__h.dlq", false),
            ("payments2", false),
            ("h.retry.1s", false),
            ("dlq", false),
        ] {
            assert_eq!(subscription.may_read(topic), read, "{topic}");
        }
    }
}

//! How far the inputs have come whose changes a partition's state has.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    str::FromStr,
    sync::Arc,
};

use headwater::{Position, TopicPartition};

/// How far each partition of each input has come in the state of one partition. As text a line a topic, its id and its
/// partitions: `events.payment 2kD… 0=17,3=1042`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(BTreeMap<Arc<str>, Topic>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Topic {
    /// Empty where it is not known.
    id: String,
    /// The offset that comes next of each partition.
    next: BTreeMap<i32, i64>,
}

impl Inputs {
    /// The state has what came before this position. The topic has this id, which is empty where it is not known.
    pub fn pass(&mut self, input: &Position, id: &str) {
        let Position { partition: TopicPartition { topic, partition }, next } = input;
        let topic = match self.0.get_mut(topic) {
            Some(topic) => topic,
            None => self.0.entry(Arc::clone(topic)).or_default(),
        };
        if topic.id.is_empty() {
            id.clone_into(&mut topic.id);
        }
        let known = topic.next.entry(*partition).or_insert(*next);
        *known = (*known).max(*next);
    }

    /// Every position.
    pub fn positions(&self) -> impl Iterator<Item = Position> {
        self.0.iter().flat_map(|(name, topic)| {
            let at = |(partition, next): (&i32, &i64)| Position {
                partition: TopicPartition::new(Arc::clone(name), *partition),
                next: *next,
            };
            topic.next.iter().map(at)
        })
    }

    /// The names of their topics.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    /// Forgets topics that were created anew since: their offsets have begun again.
    pub fn retain(&mut self, ids: &BTreeMap<String, String>) {
        let other = |id: &str, topic: &Topic| !topic.id.is_empty() && !id.is_empty() && topic.id != id;
        self.0.retain(|name, topic| !ids.get(&**name).is_some_and(|id| other(id, topic)));
    }
}

impl Display for Inputs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, (name, topic)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {} ", if at == 0 { "" } else { "\n" }, topic.id)?;
            for (at, (partition, next)) in topic.next.iter().enumerate() {
                write!(f, "{}{partition}={next}", if at == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}

/// The text is none of [`Inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not say how far inputs have come")]
pub struct NoInputs;

impl FromStr for Inputs {
    type Err = NoInputs;

    fn from_str(text: &str) -> Result<Self, NoInputs> {
        text.lines().map(|line| topic(line).ok_or(NoInputs)).collect::<Result<_, _>>().map(Self)
    }
}

fn topic(line: &str) -> Option<(Arc<str>, Topic)> {
    let mut parts = line.split(' ');
    let (name, id, partitions) = (parts.next()?, parts.next()?, parts.next()?);
    let partition = |text: &str| {
        let (partition, next) = text.split_once('=')?;
        Some((partition.parse().ok()?, next.parse().ok()?))
    };
    let next = partitions.split(',').map(partition).collect::<Option<_>>()?;
    Some((name.into(), Topic { id: id.to_owned(), next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: i32, next: i64) -> Position {
        Position { partition: TopicPartition::new(topic, partition), next }
    }

    /// Red when an older position takes the place of a newer one, or one of them is lost on the way through text.
    #[test]
    fn inputs_only_come_further_and_are_read_as_they_were_written() {
        let mut inputs = Inputs::default();
        for (input, id) in [(at("a", 0, 7), "x"), (at("a", 0, 3), "x"), (at("a", 11, 1), "x"), (at("b.c", 2, 9), "")] {
            inputs.pass(&input, id);
        }
        assert_eq!(inputs.positions().collect::<Vec<_>>(), [at("a", 0, 7), at("a", 11, 1), at("b.c", 2, 9)]);
        assert_eq!(inputs.to_string(), "a x 0=7,11=1\nb.c  2=9");
        assert_eq!(inputs.to_string().parse(), Ok(inputs));
        assert_eq!(Inputs::default().to_string().parse(), Ok(Inputs::default()));
        for text in ["a", "a x", "a x 1", "a x 1=b"] {
            assert_eq!(text.parse::<Inputs>(), Err(NoInputs), "{text}");
        }
    }

    /// Red when what a topic of the same name had come to outlives it: records of the new one would be passed over.
    #[test]
    fn a_topic_that_was_created_anew_has_come_nowhere() {
        let mut inputs = Inputs::default();
        for (topic, id) in [("same", "1"), ("anew", "1"), ("unknown", "")] {
            inputs.pass(&at(topic, 0, 7), id);
        }
        let ids = [("same", "1"), ("anew", "2"), ("unknown", "2")];
        inputs.retain(&ids.map(|(name, id)| (name.to_owned(), id.to_owned())).into());
        assert_eq!(inputs.positions().collect::<Vec<_>>(), [at("same", 0, 7), at("unknown", 0, 7)]);
    }
}

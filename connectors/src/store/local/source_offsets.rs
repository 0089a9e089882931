//! How far the inputs have come whose changes a partition's state has.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    str::FromStr,
    sync::Arc,
};

use headwater::{
    TopicPartition,
    spi::{InputPartition, InputPosition, InputRoute},
};

/// What stands for a step where there is none: no step has that name.
const DIRECT: &str = "-";

/// How far each partition of each input has come in the state of one partition. As text a line for each topic and way: the
/// topic, its id, its partitions, and the step over whose repartition topic they come, or `-`:
/// `events.payment 2kD… 0=17,3=1042 count`. A line without the last word is from before ways were told apart, and holds for
/// each; who reads what we write in that manner finds his three words at their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOffsets(BTreeMap<Line, BTreeMap<i32, i64>>);

/// What a line is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    topic: Arc<str>,
    /// Empty where it is not known.
    id: Arc<str>,
    way: InputRoute,
}

impl SourceOffsets {
    /// The state has what came before this position.
    pub fn pass(&mut self, input: &InputPosition) {
        let InputPartition { partition: TopicPartition { topic, partition }, topic_id, route: way } = &input.of;
        let line = Line { topic: Arc::clone(topic), id: Arc::clone(topic_id), way: way.clone() };
        let known = self.0.entry(line).or_default().entry(*partition).or_insert(input.next);
        *known = (*known).max(input.next);
    }

    /// Every position.
    pub fn positions(&self) -> impl Iterator<Item = InputPosition> {
        self.0.iter().flat_map(|(line, next)| {
            next.iter().map(|(partition, next)| InputPosition { of: line.of(*partition), next: *next })
        })
    }

    /// The names of their topics.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys().map(|line| &line.topic)
    }

    /// Those whose topic had an id that was not known are of the topic that is there now, if that has one.
    pub fn name(&mut self, ids: &BTreeMap<String, String>) {
        for input in std::mem::take(self).positions() {
            let id = ids.get(&*input.of.partition.topic).filter(|_| input.of.topic_id.is_empty());
            let topic_id = id.map_or_else(|| Arc::clone(&input.of.topic_id), |id| id.as_str().into());
            self.pass(&InputPosition { of: InputPartition { topic_id, ..input.of }, ..input });
        }
    }

    /// Forgets those of which this is false.
    pub fn retain(&mut self, stays: impl Fn(&InputPosition) -> bool) {
        for (line, next) in &mut self.0 {
            next.retain(|partition, next| stays(&InputPosition { of: line.of(*partition), next: *next }));
        }
        self.0.retain(|_, next| !next.is_empty());
    }
}

impl Line {
    fn of(&self, partition: i32) -> InputPartition {
        let partition = TopicPartition { topic: Arc::clone(&self.topic), partition };
        InputPartition { partition, topic_id: Arc::clone(&self.id), route: self.way.clone() }
    }
}

impl Display for SourceOffsets {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, (Line { topic, id, way }, next)) in self.0.iter().enumerate() {
            write!(f, "{}{topic} {id} ", if at == 0 { "" } else { "\n" })?;
            for (at, (partition, next)) in next.iter().enumerate() {
                write!(f, "{}{partition}={next}", if at == 0 { "" } else { "," })?;
            }
            match way {
                InputRoute::Direct => write!(f, " {DIRECT}")?,
                InputRoute::Over(step) => write!(f, " {step}")?,
                InputRoute::Any => {}
            }
        }
        Ok(())
    }
}

/// The text is none of [`SourceOffsets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not say how far inputs have come")]
pub struct ParseSourceOffsetsError;

impl FromStr for SourceOffsets {
    type Err = ParseSourceOffsetsError;

    fn from_str(text: &str) -> Result<Self, ParseSourceOffsetsError> {
        text.lines().map(|text| line(text).ok_or(ParseSourceOffsetsError)).collect::<Result<_, _>>().map(Self)
    }
}

fn line(text: &str) -> Option<(Line, BTreeMap<i32, i64>)> {
    let mut parts = text.split(' ');
    let (topic, id, partitions) = (parts.next()?, parts.next()?, parts.next()?);
    let partition = |text: &str| {
        let (partition, next) = text.split_once('=')?;
        Some((partition.parse().ok()?, next.parse().ok()?))
    };
    let next = partitions.split(',').map(partition).collect::<Option<_>>()?;
    let way = match parts.next() {
        None => InputRoute::Any,
        Some(DIRECT) => InputRoute::Direct,
        Some(step) => InputRoute::Over(step.into()),
    };
    Some((Line { topic: topic.into(), id: id.into(), way }, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, id: &str, partition: i32, next: i64, way: InputRoute) -> InputPosition {
        let of = InputPartition { partition: TopicPartition::new(topic, partition), topic_id: id.into(), route: way };
        InputPosition { of, next }
    }

    fn over(step: &str) -> InputRoute {
        InputRoute::Over(step.into())
    }

    /// Red when an older position takes the place of a newer one, two ways or two topics of one name are one, or something is
    /// lost on the way through text.
    #[test]
    fn inputs_only_come_further_and_are_read_as_they_were_written() {
        let mut inputs = SourceOffsets::default();
        let all = [
            at("a", "x", 0, 7, InputRoute::Direct),
            at("a", "x", 0, 3, over("s")),
            at("a", "x", 11, 1, over("s")),
            at("a", "y", 0, 1, over("s")),
            at("b.c", "", 2, 9, over("t")),
        ];
        for input in all.iter().chain([&at("a", "x", 0, 3, InputRoute::Direct), &at("a", "x", 0, 2, over("s"))]) {
            inputs.pass(input);
        }
        assert_eq!(inputs.positions().collect::<Vec<_>>(), all);
        assert_eq!(inputs.to_string(), "a x 0=7 -\na x 0=3,11=1 s\na y 0=1 s\nb.c  2=9 t");
        assert_eq!(inputs.to_string().parse(), Ok(inputs));
        assert_eq!(SourceOffsets::default().to_string().parse(), Ok(SourceOffsets::default()));
        for text in ["a", "a x", "a x 1", "a x 1=b", "a x 1=b -"] {
            assert_eq!(text.parse::<SourceOffsets>(), Err(ParseSourceOffsetsError), "{text}");
        }
    }

    /// Red when what a version wrote that did not tell ways apart is not read, or is written as something else; or when a
    /// topic's id is not filled in where it was not known, or in the place of another one.
    #[test]
    fn what_was_written_before_ways_were_told_apart_holds_for_each() {
        let mut inputs: SourceOffsets = "a x 0=7,11=1\nb.c  2=9".parse().expect("it was written");
        assert_eq!(inputs.to_string(), "a x 0=7,11=1\nb.c  2=9");
        inputs.name(&[("a", "y"), ("b.c", "z")].map(|(name, id)| (name.to_owned(), id.to_owned())).into());
        let all = [
            at("a", "x", 0, 7, InputRoute::Any),
            at("a", "x", 11, 1, InputRoute::Any),
            at("b.c", "z", 2, 9, InputRoute::Any),
        ];
        assert_eq!(inputs.positions().collect::<Vec<_>>(), all);
        inputs.retain(|input| input.next > 7);
        assert_eq!(inputs.to_string(), "b.c z 2=9");
    }
}

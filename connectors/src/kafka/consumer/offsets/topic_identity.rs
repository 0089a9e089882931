//! Whether a topic is still the one that an offset belongs to.
//!
//! One offset does not say it. A broker that has just come back, or has just become a partition's leader, may tell an end
//! that is older than what was read; and librdkafka, having reset itself, may fetch from elsewhere than it was told. So what
//! looks like another topic is looked into. Its id decides, where it is another one than when the partition was assigned.
//! Else the end of the log does, once it has stayed before the offset for a while. Else it was a false start: the partition
//! goes on at its own place, and nothing is lost or read twice.
//!
//! An id that was not told says nothing, so it is asked for again, one question at a time, until it is told. Whoever has doubts
//! waits for it. What was not known before cannot be compared: then the source begins again at what the group has committed,
//! which Kafka deletes with a topic. Only where the cluster tells no id at all the end of the log has to do.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::log_bounds::{BACK_OFF, LogBounds, begin_later, falls_short};
use crate::kafka::topic_recreated::created_anew;
use crate::kafka::{
    consumer::{
        health::warn_lost,
        membership::group_consumer::GroupConsumer,
        outlets::Outlets,
        partition::{PartitionPhase, Partitions},
    },
    debounce,
    librdkafka::topic_ids::{TopicIdAnswer, TopicIdsRequest},
};

/// How long one question for ids may take.
const IDS: Duration = Duration::from_secs(2);

/// The ids of the topics that are read, as far as the cluster has told them.
#[derive(Default)]
pub(crate) struct KnownTopicIds {
    /// As they were first told after an assignment; `None` where the cluster gives no ids.
    known: HashMap<String, Option<String>>,
    /// Topics that have another one since.
    anew: HashSet<String>,
    /// Topics whose id has not been told since it was last wanted.
    wanted: HashSet<String>,
    /// Topics that were doubted before any id of theirs was told.
    untold: HashSet<String>,
    asked: Option<TopicIdsRequest>,
    /// No question goes out before this.
    not_before: Option<Instant>,
}

/// What ids say of a topic that is doubted.
#[derive(Debug, PartialEq, Eq)]
enum IdComparison {
    /// It is another one.
    Another,
    /// It is the same one, or the cluster gives no ids.
    Same,
    /// Its id is still asked for.
    Later,
    /// It has an id, but nobody knows which it had before.
    Nothing,
}

impl KnownTopicIds {
    /// The id that a topic has from now on: what is being asked may be answered with an older one.
    fn want(&mut self, topic: &str) {
        self.wanted.insert(topic.to_owned());
        (self.asked, self.not_before) = (None, None);
    }

    /// Partitions have just been assigned: the ids of their topics are wanted. What was known of a topic is over, unless
    /// others of its partitions are read already.
    pub(crate) fn assigned(&mut self, partitions: &Partitions, names: &[TopicPartition]) {
        for topic in names.iter().map(|name| &*name.topic).collect::<HashSet<_>>() {
            if !partitions.has(topic) {
                self.known.remove(topic);
                self.anew.remove(topic);
                self.untold.remove(topic);
            }
            self.want(topic);
        }
    }

    /// A record came from before the place where its partition goes on, which is another offset: nothing of the partition
    /// counts until it is known why.
    pub(crate) fn doubt(
        &mut self,
        partitions: &mut Partitions,
        group: &str,
        name: &TopicPartition,
        (offset, expected): (i64, i64),
    ) {
        tracing::info!(group, partition = %name, offset, expected, "a record from before the partition's place came: looked into");
        self.doubt_topic(&name.topic);
        if let Some(partition) = partitions.get_mut(name) {
            partition.doubt(Instant::now());
        }
    }

    /// A topic is doubted, whose id from now on says more.
    fn doubt_topic(&mut self, topic: &str) {
        if !self.known.contains_key(topic) {
            self.untold.insert(topic.to_owned());
        }
        self.want(topic);
    }

    /// What the ids say of a topic that has been doubted for so long.
    fn word(&self, topic: &str, doubted: Duration) -> IdComparison {
        let told = self.known.get(topic).is_some_and(Option::is_some);
        if self.anew.contains(topic) {
            IdComparison::Another
        } else if self.wanted.contains(topic) && (told || doubted < debounce::PERIOD) {
            IdComparison::Later
        } else if self.untold.contains(topic) && told {
            IdComparison::Nothing
        } else {
            IdComparison::Same
        }
    }

    /// Takes the answer that has come, and asks for what is still wanted of topics that are read.
    pub(crate) fn look(&mut self, consumer: &GroupConsumer, partitions: &Partitions, now: Instant) {
        self.wanted.retain(|topic| partitions.has(topic));
        if let Some(answer) = self.asked.as_ref().and_then(|asked| asked.answer(Duration::ZERO)) {
            self.asked = None;
            // No answer at all leaves everything wanted.
            answer.into_iter().flatten().for_each(|(topic, told)| self.learn(topic, told));
        }
        if self.asked.is_none() && !self.wanted.is_empty() && self.not_before.is_none_or(|at| now >= at) {
            self.not_before = Some(now + BACK_OFF);
            let topics: Vec<String> = self.wanted.iter().cloned().collect();
            self.asked = TopicIdsRequest::ask(consumer.client(), &topics, IDS).ok();
        }
    }

    fn learn(&mut self, topic: String, told: TopicIdAnswer) {
        let Ok(id) = told else { return };
        self.wanted.remove(&topic);
        match (self.known.get(&topic), &id) {
            (Some(Some(known)), Some(id)) if known != id => _ = self.anew.insert(topic),
            (Some(Some(_)), _) => {}
            // One that gets an id later is a topic of a cluster that was upgraded.
            _ => _ = self.known.insert(topic, id),
        }
    }

    /// What is still asked may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        self.asked = None;
    }
}

/// Looks into what is doubted.
pub(crate) fn settle_doubts(
    consumer: &GroupConsumer,
    ids: &KnownTopicIds,
    bounds: &mut LogBounds,
    partitions: &mut Partitions,
    outlets: &mut Outlets,
) {
    let doubted = partitions.due(Instant::now(), |life| match life {
        PartitionPhase::Doubted { start, next } => Some((*start, *next)),
        _ => None,
    });
    let mut same = HashMap::new();
    for (name, (start, next)) in doubted {
        let doubted = partitions.get_mut(&name).map_or(Duration::ZERO, |partition| partition.since.elapsed());
        match ids.word(&name.topic, doubted) {
            IdComparison::Another => {
                let what = format!("the topic has another id than when offset {next} was due next");
                outlets.halt(created_anew(&outlets.group, &name.topic, Some(name.partition), &what));
            }
            IdComparison::Same => _ = same.insert(name, (start, next)),
            IdComparison::Later => {
                let error = ClientError::MetadataFetch(Code::OperationTimedOut);
                begin_later(partitions, &outlets.group, &name, &error);
            }
            IdComparison::Nothing => outlets.fail(format!(
                "{name}: a record from before offset {next} came, and the id that the topic had before is not known: \
                 the group begins again at what it has committed"
            )),
        }
    }
    for (name, answer) in bounds.of(consumer, same.keys()) {
        let (Some((start, next)), Some(partition)) = (same.get(&name), partitions.get_mut(&name)) else { continue };
        match answer {
            Err(error) => begin_later(partitions, &outlets.group, &name, &error),
            Ok(bounds) if *next > bounds.high => falls_short(partitions, outlets, &name, (*next, bounds.high)),
            Ok(bounds) => {
                if *next < bounds.low {
                    warn_lost(&outlets.group, &name.topic, name.partition, bounds.low - next);
                }
                tracing::info!(group = outlets.group, partition = %name, next, "it was a false start: the partition goes on");
                partition.deliver(*start, *next.max(&bounds.low), Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: &str) -> TopicIdAnswer {
        Ok((!id.is_empty()).then(|| id.to_owned()))
    }

    /// Red when an id that is told again, or for the first time, counts as another one, or another one does not.
    #[test]
    fn a_topic_with_another_id_is_another_topic() {
        let mut ids = KnownTopicIds::default();
        for (topic, id) in [("t", "one"), ("u", "two"), ("t", "one"), ("old", ""), ("old", "four")] {
            ids.learn(topic.to_owned(), told(id));
        }
        assert!(ids.anew.is_empty());
        ids.learn("u".to_owned(), told("three"));
        assert_eq!(ids.anew, HashSet::from(["u".to_owned()]));
    }

    /// Fails where a topic whose id was not told (it was refused, or not answered for) passes as the same one, or where one of
    /// a cluster that tells none is asked for without end: its partition would stand still for good.
    #[test]
    fn an_id_that_is_not_told_is_not_the_same_id() {
        let (mut ids, long) = (KnownTopicIds::default(), debounce::PERIOD);
        for topic in ["known", "old"] {
            ids.learn(topic.to_owned(), told(if topic == "known" { "one" } else { "" }));
        }
        let topics = ["known", "old", "unknown", "silent"];
        topics.iter().for_each(|topic| ids.doubt_topic(topic));
        let words = |ids: &KnownTopicIds, doubted| topics.map(|topic| ids.word(topic, doubted));
        assert_eq!(
            words(&ids, Duration::ZERO),
            [IdComparison::Later, IdComparison::Later, IdComparison::Later, IdComparison::Later]
        );
        topics.iter().for_each(|topic| ids.learn((*topic).to_owned(), Err(Code::TopicAuthorizationFailed)));
        assert_eq!(
            words(&ids, long),
            [IdComparison::Later, IdComparison::Same, IdComparison::Same, IdComparison::Same]
        );
        ids.learn("known".to_owned(), told("one"));
        ids.learn("old".to_owned(), told(""));
        ids.learn("unknown".to_owned(), told("two"));
        assert_eq!(
            words(&ids, Duration::ZERO),
            [IdComparison::Same, IdComparison::Same, IdComparison::Nothing, IdComparison::Later]
        );
    }
}

//! Whether a topic is still the one that an offset belongs to.
//!
//! One offset does not say it. A broker that has just come back, or has just become a partition's leader, may tell an end
//! that is older than what was read; and librdkafka, having reset itself, may fetch from elsewhere than it was told. So what
//! looks like another topic is looked into. Its id decides, where it is another one than when the partition was assigned.
//! Else the end of the log does, once it has stayed before the offset for a while. Else it was a false start: the partition
//! goes on at its own place, and nothing is lost or read twice.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::consumer::Consumer as _;

use super::{
    member::Member,
    native::topic_ids::Asked,
    partition::Life,
    rebalance::GroupConsumer,
    start::{ANSWER, BACK_OFF},
};

/// How long the ids of topics may take; who waits for them goes by the log's end then.
const IDS: Duration = Duration::from_secs(2);
/// Questions for ids that are under way at most.
const QUESTIONS: usize = 16;

/// The ids of the topics that are read, as far as the cluster has told them.
#[derive(Default)]
pub(crate) struct TopicIds {
    /// As they were first told after an assignment.
    known: HashMap<String, String>,
    /// Topics that have another one since.
    anew: HashSet<String>,
    asked: Vec<Asked>,
}

impl TopicIds {
    /// Asks for the ids of topics whose partitions have just been assigned: what was known of them is over.
    pub(crate) fn begin<'a>(&mut self, consumer: &GroupConsumer, names: impl Iterator<Item = &'a TopicPartition>) {
        let topics: HashSet<String> = names.map(|name| name.topic.to_string()).collect();
        for topic in &topics {
            self.known.remove(topic);
            self.anew.remove(topic);
        }
        self.ask(consumer, &topics.into_iter().collect::<Vec<_>>());
    }

    fn ask(&mut self, consumer: &GroupConsumer, topics: &[String]) {
        if !topics.is_empty() && self.asked.len() < QUESTIONS {
            // Where none can be asked for, the log's end has to do.
            self.asked.extend(Asked::ask(consumer.client(), topics, IDS));
        }
    }

    /// Takes the answers that have come; whether all have.
    fn take(&mut self) -> bool {
        let mut told = Vec::new();
        self.asked.retain(|asked| {
            let answer = asked.answer(Duration::ZERO);
            told.extend(answer.iter().flatten().flatten().map(|(topic, id)| (topic.clone(), id.clone())));
            answer.is_none()
        });
        told.into_iter().for_each(|(topic, id)| self.learn(topic, id));
        self.asked.is_empty()
    }

    fn learn(&mut self, topic: String, id: String) {
        match self.known.get(&topic) {
            Some(known) if *known != id => _ = self.anew.insert(topic),
            Some(_) => {}
            None => _ = self.known.insert(topic, id),
        }
    }

    /// What is still asked may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        self.asked.clear();
    }
}

impl Member {
    /// A record came from before the place where its partition goes on: nothing of it counts until it is known why.
    pub(crate) fn doubt(&mut self, consumer: &GroupConsumer, name: &TopicPartition, offset: i64, expected: i64) {
        let group = &self.source.group;
        tracing::info!(group, partition = %name, offset, expected, "a record from before the partition's place came: looked into");
        self.ids.ask(consumer, &[name.topic.to_string()]);
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.doubt(Instant::now());
        }
    }

    /// Looks into what is doubted.
    pub(crate) fn settle_doubts(&mut self, consumer: &GroupConsumer) {
        let all_told = self.ids.take();
        let now = Instant::now();
        let doubted: Vec<(TopicPartition, u64, i64)> = self
            .partitions
            .iter_mut()
            .filter(|(_, partition)| now >= partition.not_before)
            .filter_map(|(name, partition)| match partition.life {
                Life::Doubted { start, next } => Some((name, start, next)),
                _ => None,
            })
            .collect();
        for (name, start, next) in doubted {
            if self.ids.anew.contains(&*name.topic) {
                self.halt_anew(&name, &format!("the topic has another id than when offset {next} was due next"));
            } else if all_told {
                self.settle(consumer, &name, start, next);
            }
        }
    }

    fn settle(&mut self, consumer: &GroupConsumer, name: &TopicPartition, start: u64, next: i64) {
        let (low, high) = match consumer.fetch_watermarks(&name.topic, name.partition, ANSWER) {
            Ok(watermarks) => watermarks,
            Err(error) => return self.begin_later(name, &error),
        };
        if next > high {
            return self.falls_short(name, next, high);
        }
        if next < low {
            self.warn_lost(&name.topic, name.partition, low - next);
        }
        tracing::info!(group = self.source.group, partition = %name, next, "it was a false start: the partition goes on");
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.deliver(start, next.max(low), Instant::now());
        }
    }

    /// The log ends before the place where a partition goes on: believed once it has been so for a while.
    pub(crate) fn falls_short(&mut self, name: &TopicPartition, next: i64, high: i64) {
        let now = Instant::now();
        let Some(partition) = self.partitions.get_mut(name) else { return };
        partition.not_before = now + BACK_OFF;
        if partition.falls_short(now) {
            self.halt_anew(name, &format!("its log ends at offset {high}, and the group would go on at {next}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when an id that is told again counts as another one, or another one does not.
    #[test]
    fn a_topic_with_another_id_is_another_topic() {
        let mut ids = TopicIds::default();
        for (topic, id) in [("t", "one"), ("u", "two"), ("t", "one")] {
            ids.learn(topic.to_owned(), id.to_owned());
        }
        assert!(ids.anew.is_empty());
        ids.learn("u".to_owned(), "three".to_owned());
        assert_eq!(ids.anew, HashSet::from(["u".to_owned()]));
    }
}

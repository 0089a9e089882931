//! Inputs that cannot come again are forgotten, so that what a changelog says of them does not grow for ever.
//!
//! That happens when partitions are taken, with the inputs of topics that are gone or were created anew, and with those that
//! were noted before ways were told apart: nothing can be repartitioned from there, and what has been is through once the group
//! has committed all that stands on its repartition topics.

use std::collections::{BTreeMap, BTreeSet};

use headwater::{
    TopicPartition,
    spi::{GroupTopics, InputPosition, InputRoute},
};

use crate::{
    kafka::{Cluster, KafkaConfig, KafkaError, stable_offsets},
    store::local::{LocalStore, SourceOffsets},
};

/// Where the cluster stands, as far as it matters here.
#[derive(Debug, Default)]
pub(crate) struct ClusterView {
    /// The ids of the topics that there are.
    pub(crate) ids: BTreeMap<String, String>,
    /// What the group has committed, of the partitions that were asked for.
    committed: BTreeMap<TopicPartition, i64>,
    /// Where those begin and end.
    bounds: BTreeMap<TopicPartition, (i64, i64)>,
}

impl ClusterView {
    /// Whether the input may come again, or something that was made of it may; the state is of this number.
    fn stays(&self, input: &InputPosition, own: &BTreeSet<TopicPartition>, owned: &GroupTopics, number: i32) -> bool {
        let (of, is_gone) = (&input.of, self.is_gone(input));
        let is_over = |id: &TopicPartition| {
            let bounds = self.bounds.get(id);
            bounds.is_some_and(|(low, end)| self.committed.get(id).unwrap_or(low) >= end)
        };
        match &of.route {
            InputRoute::Direct => !is_gone,
            InputRoute::Over(step) => !(is_gone && is_over(&TopicPartition::new(owned.repartition(step), number))),
            InputRoute::Any => {
                let is_passed = || self.committed.get(&of.partition).is_some_and(|next| *next >= input.next);
                !((is_gone || is_passed()) && own.iter().filter(|id| id.partition == number).all(is_over))
            }
        }
    }

    fn is_gone(&self, input: &InputPosition) -> bool {
        self.ids.get(&*input.of.partition.topic).is_none_or(|id| **id != *input.of.topic_id)
    }

    /// What has to be known of a number's inputs that may be over.
    fn questions(
        &self,
        inputs: &SourceOffsets,
        own: &BTreeSet<TopicPartition>,
        owned: &GroupTopics,
        number: i32,
    ) -> Questions {
        let mut questions = Questions::default();
        for input in inputs.positions() {
            let is_gone = self.is_gone(&input);
            match input.of.route {
                InputRoute::Over(step) if is_gone => {
                    questions.ends.insert(TopicPartition::new(owned.repartition(&step), number));
                }
                InputRoute::Direct | InputRoute::Over(_) => {}
                InputRoute::Any => {
                    questions.ends.extend(own.iter().filter(|id| id.partition == number).cloned());
                    questions.committed.extend((!is_gone).then_some(input.of.partition));
                }
            }
        }
        questions
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Questions {
    committed: BTreeSet<TopicPartition>,
    /// Partitions of repartition topics.
    ends: BTreeSet<TopicPartition>,
}

/// Forgets inputs of these partitions' numbers that cannot come again.
pub(crate) async fn forget(
    local: &LocalStore,
    (kafka, cluster, group): (&KafkaConfig, &Cluster, &str),
    partitions: &[TopicPartition],
    ids: BTreeMap<String, String>,
) -> Result<(), KafkaError> {
    let (owned, mut view) = (GroupTopics::of(group), ClusterView { ids, ..ClusterView::default() });
    // A cluster that gives no ids says nothing of topics that are gone.
    if partitions.iter().any(|id| !view.ids.contains_key(&*id.topic)) {
        return Ok(());
    }
    let numbers: BTreeSet<i32> = partitions.iter().map(|id| id.partition).collect();
    let own: BTreeSet<_> = partitions.iter().filter(|id| owned.is_repartition(&id.topic)).cloned().collect();
    let taken: Vec<_> = local.all_inputs().into_iter().filter(|(_, number, _)| numbers.contains(number)).collect();
    let topics: BTreeSet<String> = taken
        .iter()
        .flat_map(|(.., inputs)| inputs.positions())
        .map(|input| input.of.partition.topic.to_string())
        .collect();
    for topic in topics.iter().filter(|topic| !view.ids.contains_key(*topic)) {
        // One answer may lack a topic that is there.
        if !cluster.lacks(topic).await? {
            return Ok(());
        }
    }
    let mut questions = Questions::default();
    for (_, number, inputs) in &taken {
        let Questions { committed, ends } = view.questions(inputs, &own, &owned, *number);
        questions.committed.extend(committed);
        // A step that the group has no more has no topic either, perhaps: then nothing is known of it, and nothing forgotten.
        questions.ends.extend(ends.into_iter().filter(|id| own.contains(id)));
    }
    let asked: Vec<_> = questions.committed.union(&questions.ends).cloned().collect();
    let offsets = stable_offsets(kafka, group, &asked).await?;
    view.committed = asked.into_iter().zip(offsets).filter_map(|(id, next)| Some((id, next?))).collect();
    for id in questions.ends {
        let bounds = cluster.watermarks(&id.topic, id.partition).await?;
        view.bounds.insert(id, bounds);
    }
    for (store, number, mut inputs) in taken {
        inputs.name(&view.ids);
        inputs.retain(|input| view.stays(input, &own, &owned, number));
        local.note_inputs(&store, number, inputs);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::store::local::StateConfig;

    fn at(topic: &str) -> TopicPartition {
        TopicPartition::new(topic, 0)
    }

    /// What stays of inputs where the group has committed so far, and its repartition topics end at 10.
    fn left(inputs: &str, committed: &[(&str, i64)]) -> String {
        let (owned, mut inputs) = (GroupTopics::of("g"), inputs.parse::<SourceOffsets>().expect("inputs"));
        let own: BTreeSet<_> = ["g.a.repartition", "g.b.repartition"].map(at).into();
        let view = ClusterView {
            ids: [("there".to_owned(), "new".to_owned())].into(),
            committed: committed.iter().map(|(topic, next)| (at(topic), *next)).collect(),
            bounds: own.iter().map(|id| (id.clone(), (0, 10))).collect(),
        };
        inputs.retain(|input| view.stays(input, &own, &owned, 0));
        inputs.to_string()
    }

    /// Red when an input is forgotten that may come again: one of a topic that is there, or one whose copies
    /// stand on a repartition topic that the group is not through with; or when one that cannot is kept for ever.
    #[test]
    fn inputs_of_topics_that_are_gone_are_forgotten_once_nothing_of_them_is_left() {
        let inputs = "gone x 0=5 -\ngone x 0=5 a\nthere new 0=5 -\nthere new 0=5 a\nthere old 0=9 a\nthere old 0=9 b";
        let behind = left(inputs, &[("g.a.repartition", 9), ("g.b.repartition", 9)]);
        assert_eq!(behind, "gone x 0=5 a\nthere new 0=5 -\nthere new 0=5 a\nthere old 0=9 a\nthere old 0=9 b");
        let through = left(inputs, &[("g.a.repartition", 10), ("g.b.repartition", 9)]);
        assert_eq!(through, "there new 0=5 -\nthere new 0=5 a\nthere old 0=9 b");
    }

    /// Red when what was noted before ways were told apart is forgotten before every way is through, or stays for ever.
    #[test]
    fn what_holds_for_each_way_is_forgotten_once_all_are_through() {
        let through = [("g.a.repartition", 10), ("g.b.repartition", 10)];
        assert_eq!(left("gone x 0=5", &through), "");
        assert_eq!(left("gone x 0=5", &through[..1]), "gone x 0=5");
        let with = |next| [through[0], through[1], ("there", next)];
        assert_eq!(
            (left("there new 0=5", &with(5)), left("there new 0=5", &with(4))),
            (String::new(), "there new 0=5".into())
        );
    }

    /// Red when the broker is asked though nothing is gone, at each start of a partition, or is not asked what it takes.
    #[test]
    fn only_what_may_be_over_is_asked_for() {
        let (owned, own) = (GroupTopics::of("g"), [at("g.a.repartition")].into());
        let view = ClusterView { ids: [("there".to_owned(), "new".to_owned())].into(), ..ClusterView::default() };
        let asked = |inputs: &str| view.questions(&inputs.parse().expect("inputs"), &own, &owned, 0);
        assert_eq!(asked("there new 0=5 -\nthere new 0=5 a\ngone x 0=5 -"), Questions::default());
        let ends = own.clone();
        assert_eq!(asked("gone x 0=5 a"), Questions { ends: ends.clone(), ..Questions::default() });
        assert_eq!(asked("there new 0=5"), Questions { committed: [at("there")].into(), ends });
    }

    /// The answer that gave the topics' ids lacks both. Fails where it is believed without asking again (`Cluster::lacks`), or
    /// where a topic that is gone is never believed to be.
    #[tokio::test]
    async fn an_input_is_forgotten_only_once_the_cluster_lacks_its_topic() {
        let (dir, mock) = (tempfile::tempdir().unwrap(), MockCluster::new(1).unwrap());
        mock.create_topic("there", 1, 1).unwrap();
        let config = KafkaConfig { bootstrap: mock.bootstrap_servers(), ..KafkaConfig::default() };
        let cluster = Cluster::new(&config).unwrap();
        let local = LocalStore::open(dir.path(), &StateConfig::default()).unwrap();
        local.restore("s", 0, "id", 1).unwrap().finish(0, 1).unwrap();
        let left = async |inputs: &str| {
            local.note_inputs("s", 0, inputs.parse().unwrap());
            let ids = [("g.redrive".to_owned(), "own".to_owned())].into();
            forget(&local, (&config, &cluster, "g"), &[at("g.redrive")], ids).await.unwrap();
            local.inputs("s", 0).to_string()
        };
        assert_eq!(left("there x 0=5 -").await, "there x 0=5 -");
        assert_eq!(left("gone x 0=5 -").await, "");
    }
}

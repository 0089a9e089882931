//! Consumer groups as their coordinators see them: who is in them, how far they have read, and moving those that stand still.

use std::{
    collections::BTreeMap,
    ffi::CString,
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{stable_offsets, topics::Cluster};
use crate::kafka::{
    config::client_settings::ClientSettings,
    consumer::{config::Start, partition},
    diagnosis::rights::{ResourceNames, Right, lacking},
    error::KafkaError,
    librdkafka::{
        self, CommitQueue,
        admin::{self, Isolation},
    },
};

/// How long one question to the cluster may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long one try of it may take. librdkafka 2.12 asks for a coordinator that is not there yet a few times, and then
/// waits for the end of the time in silence: on a new cluster that is every first question.
const TRY: Duration = Duration::from_secs(3);
/// Between two tries while a group has no coordinator.
const PAUSE: Duration = Duration::from_millis(200);

/// State and members of a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// What its coordinator says of it.
    pub state: GroupState,
    /// Its members. One that stopped without leaving (a static one, or one that crashed) counts until its session ends.
    pub members: Vec<GroupMember>,
}

/// What a coordinator says of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupState {
    /// There is no such group, or the coordinator says nothing that we know.
    #[default]
    Unknown,
    /// It has committed something, and nobody is in it.
    Empty,
    /// Its partitions are being dealt out.
    Rebalancing,
    /// Every member has its partitions.
    Stable,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The id that the coordinator gave it.
    pub id: String,
    /// The client's own name.
    pub client: String,
    /// Its name in the group, where membership is static.
    pub instance: Option<String>,
    /// The address that it connects from, as the broker writes it.
    pub host: String,
    /// The partitions that it has.
    pub partitions: Vec<TopicPartition>,
}

/// Where the log of a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Behind the last record that can be read: where the oldest open transaction begins, or the high watermark.
    pub stable: i64,
    /// Behind the last record: the high watermark.
    pub high: i64,
}

/// How far a group has read a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset that comes next.
    pub next: i64,
    /// The text committed with it, which says why the partition stands still; empty when it flows.
    pub note: String,
}

/// Asks and moves the consumer groups of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct GroupAdmin<'a> {
    cluster: &'a Cluster,
}

impl<'a> GroupAdmin<'a> {
    /// The groups of this cluster.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// State and members of these groups, by name; one that does not exist is [`GroupState::Unknown`].
    ///
    /// # Errors
    /// [`KafkaError::Outage`] when a coordinator does not answer within 15 s; [`KafkaError::Refused`] when we may not
    /// describe one of them.
    pub async fn describe(self, groups: &[&str]) -> Result<BTreeMap<String, GroupStatus>, KafkaError> {
        let names = groups.iter().map(|group| Ok(((*group).to_owned(), name(group)?)));
        let names = names.collect::<Result<BTreeMap<_, _>, KafkaError>>()?;
        self.cluster
            .blocking(move |client| {
                let asked = names.into_iter().map(|(group, name)| {
                    let status = patiently(|time| librdkafka::groups::describe(client, &name, time));
                    let trouble =
                        |code| trouble("who is in the groups cannot be read", code, ResourceNames::group(&group));
                    let status = status.map_err(trouble)?;
                    Ok((group, status))
                });
                asked.collect()
            })
            .await
    }

    /// The name of every group of the cluster.
    ///
    /// # Errors
    /// [`KafkaError::Outage`] when a broker does not answer within 15 s.
    pub async fn names(self) -> Result<Vec<String>, KafkaError> {
        let asked = self.cluster.ask(|client| {
            let list = client.fetch_group_list(None, ANSWER)?;
            Ok(list.groups().iter().map(|group| group.name().to_owned()).collect::<Vec<_>>())
        });
        let mut names = asked.await?;
        names.sort_unstable();
        Ok(names)
    }

    /// What a group has committed of these; those without an offset are left out. What a transaction that is under way may
    /// change is not waited for.
    ///
    /// # Errors
    /// As [`GroupAdmin::describe`].
    pub async fn committed(
        self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, KafkaError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (settings, names, group) = (self.reader(group)?, partitions.to_vec(), group.to_owned());
        self.cluster
            .blocking(move |_| {
                let consumer = stable_offsets::outsider(&settings)?;
                let asked = patiently(|time| {
                    let list =
                        consumer.committed_offsets(partition::list(&names), time).map_err(|error| code(&error))?;
                    let mut notes = librdkafka::read_notes(&list);
                    list.elements().iter().try_for_each(|element| element.error().map_err(|error| code(&error)))?;
                    let found = list.elements().into_iter().filter_map(|element| {
                        let Offset::Offset(next) = element.offset() else { return None };
                        let name = TopicPartition::new(element.topic(), element.partition());
                        let note = notes.remove(&name).unwrap_or_default();
                        Some((name, CommittedOffset { next, note }))
                    });
                    Ok(found.collect())
                });
                asked.map_err(|code| trouble("the group's offsets cannot be read", code, ResourceNames::group(&group)))
            })
            .await
    }

    /// Sets the offsets of a group that nobody is in, without a note.
    ///
    /// # Errors
    /// [`KafkaError::Refused`] while the group has members, or when we may not; [`KafkaError::Outage`] when the coordinator
    /// does not answer within 15 s: then some may be set.
    pub async fn commit(self, group: &str, places: &BTreeMap<TopicPartition, i64>) -> Result<(), KafkaError> {
        if places.is_empty() {
            return Ok(());
        }
        let list = list(places.iter().map(|(name, next)| (name, Offset::Offset(*next))))?;
        let (settings, name) = (self.reader(group)?, group.to_owned());
        let set = move |_: &_| {
            let consumer = stable_offsets::outsider(&settings)?;
            patiently(|time| {
                let mut queue = CommitQueue::new(consumer.client()).ok_or(Code::Fail)?;
                queue.send(consumer.client(), &list, None)?;
                let answer = queue.answer(time).ok_or(Code::OperationTimedOut)?;
                answer.error.map_or(Ok(()), Err)?;
                coordinated(
                    answer.places.into_iter().map(|(name, _, error)| (name, error.map_or(Ok(()), Err))).collect(),
                )
            })
            .map_err(|code| trouble("the group's offsets cannot be set", code, ResourceNames::group(&name)))
        };
        settled("the group's offsets cannot be set", self.cluster.blocking(set).await?).map(drop)
    }

    /// Settings for asking what a group has committed, as nobody's member.
    fn reader(self, group: &str) -> Result<ClientSettings, KafkaError> {
        let mut settings = self.cluster.config.consumer(group, None)?;
        // What a transaction may change would be waited for.
        settings.set("isolation.level", "read_uncommitted");
        Ok(settings)
    }

    /// The offset of each of these partitions that `at` stands for; the end is the one that `read_committed` shows, and also
    /// the answer where no record has the time or a later one.
    ///
    /// # Errors
    /// [`KafkaError::Outage`] when a broker does not answer within 15 s; [`KafkaError::Refused`] when there is no such
    /// partition, or we may not describe it.
    pub async fn offsets(
        self,
        partitions: &[TopicPartition],
        at: Start,
    ) -> Result<BTreeMap<TopicPartition, i64>, KafkaError> {
        let spot = match at {
            Start::Earliest => Offset::Beginning,
            Start::Latest => Offset::End,
            // librdkafka takes a time in the place of an offset; a negative one means something else there.
            Start::At(time) => Offset::Offset(time.millis().max(0)),
        };
        let mut found = self.list_offsets(partitions, spot, Isolation::Committed).await?;
        let behind: Vec<TopicPartition> =
            found.iter().filter(|(_, next)| **next < 0).map(|(name, _)| name.clone()).collect();
        if !behind.is_empty() {
            found.extend(self.list_offsets(&behind, Offset::End, Isolation::Committed).await?);
        }
        Ok(found)
    }

    /// Where each of these partitions ends.
    ///
    /// # Errors
    /// As [`GroupAdmin::offsets`].
    pub async fn ends(self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, LogEnd>, KafkaError> {
        // In this order: what is stable is never beyond the end.
        let stable = self.list_offsets(partitions, Offset::End, Isolation::Committed).await?;
        let mut highs = self.list_offsets(partitions, Offset::End, Isolation::Uncommitted).await?;
        let end = |(partition, stable): (TopicPartition, i64)| {
            let high = highs.remove(&partition).unwrap_or(stable).max(stable);
            (partition, LogEnd { stable, high })
        };
        Ok(stable.into_iter().map(end).collect())
    }

    async fn list_offsets(
        self,
        partitions: &[TopicPartition],
        spot: Offset,
        isolation: Isolation,
    ) -> Result<BTreeMap<TopicPartition, i64>, KafkaError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let list = list(partitions.iter().map(|name| (name, spot)))?;
        let asked = move |client: &_| {
            patiently(|time| coordinated(admin::list_offsets(client, &list, isolation, time)?))
                .map_err(|code| trouble("offsets of the log cannot be read", code, ResourceNames::default()))
        };
        settled("offsets of the log cannot be read", self.cluster.blocking(asked).await?)
    }
}

fn code(error: &ClientError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Fail)
}

fn name(group: &str) -> Result<CString, KafkaError> {
    CString::new(group).map_err(|_| KafkaError::Refused(format!("`{}` cannot name a group", group.escape_debug())))
}

fn list<'a>(places: impl Iterator<Item = (&'a TopicPartition, Offset)>) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in places {
        list.add_partition_offset(&partition.topic, partition.partition, offset)
            .map_err(|error| KafkaError::Refused(format!("{offset:?} is no offset of {partition}: {error}")))?;
    }
    Ok(list)
}

/// Asks again while the group has no coordinator, or a partition no leader: on a new cluster, in a topic that has just been
/// made, or on its way from one broker to another.
fn patiently<T>(mut ask: impl FnMut(Duration) -> Result<T, Code>) -> Result<T, Code> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match ask(deadline.saturating_duration_since(Instant::now()).min(TRY)) {
            Err(code) if is_homeless(code) && Instant::now() + PAUSE < deadline => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn is_homeless(code: Code) -> bool {
    matches!(
        code,
        Code::NotCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::OperationTimedOut
    )
}

/// Answers that a coordinator, or each partition's leader, gave.
fn coordinated<T>(answers: admin::Answers<T>) -> Result<admin::Answers<T>, Code> {
    let homeless =
        answers.iter().find_map(|(_, answer)| answer.as_ref().err().copied().filter(|code| is_homeless(*code)));
    homeless.map_or(Ok(answers), Err)
}

/// What became of each partition, as a whole.
fn settled<T>(what: &str, answers: admin::Answers<T>) -> Result<BTreeMap<TopicPartition, T>, KafkaError> {
    answers
        .into_iter()
        .map(|(partition, answer)| match answer {
            Ok(place) => Ok((partition, place)),
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(KafkaError::Refused(format!("there is no partition {partition}")))
            }
            Err(code) => {
                let subject = ResourceNames::topic(&partition.topic);
                Err(trouble(what, code, subject))
            }
        })
        .collect()
}

fn trouble(what: &str, code: Code, subject: ResourceNames<'_>) -> KafkaError {
    match code {
        Code::UnknownMemberId | Code::NonEmptyGroup | Code::RebalanceInProgress | Code::IllegalGeneration => {
            KafkaError::Refused(format!("{what} while it has members: {code}"))
        }
        code if let Some(why) = lacking(code, Right::Describe, subject) => {
            KafkaError::Refused(format!("{what}: {why}"))
        }
        code => KafkaError::Outage(format!("{what}: the kafka cluster does not answer: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a group without a coordinator is an error at once, one try may take all the time (the end-to-end tests see it
    /// too, on their new cluster), or any other error is asked again.
    #[test]
    fn a_group_on_its_way_to_another_broker_is_waited_for() {
        let partition = || TopicPartition::new("t", 0);
        let mut tries = 0;
        let answer = patiently(|time| {
            assert!(time <= TRY, "one try takes all the time: {time:?}");
            tries += 1;
            match tries {
                1 => Err(Code::OperationTimedOut),
                2 => Err(Code::CoordinatorLoadInProgress),
                3 => coordinated(vec![(partition(), Err(Code::NotCoordinator))]),
                4 => coordinated(vec![(partition(), Err(Code::NotLeaderForPartition))]),
                _ => coordinated(vec![(partition(), Ok(7))]),
            }
        });
        assert_eq!(settled("read", answer.unwrap()).unwrap(), BTreeMap::from([(partition(), 7)]));
        let mut tries = 0;
        let refused = patiently(|_| {
            tries += 1;
            Err::<(), _>(Code::GroupAuthorizationFailed)
        });
        assert_eq!((refused, tries), (Err(Code::GroupAuthorizationFailed), 1));
    }
}

//! Topics: what there is, what a topology asks for, and making the first into the second.
//!
//! Missing topics are created. Whatever else differs is reported and never changed: more partitions would move keys, and
//! the broker's plain call for changing a setting resets all others of the topic.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::Client,
    error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode as Code},
};

use super::{
    admin_clients::{AdminClients, Logs},
    topic_spec::{TopicChange, TopicSpec},
};
use crate::kafka::{
    config::KafkaConfig,
    credentials,
    debounce::Debounce,
    diagnosis::{
        Diagnoses,
        rights::{ResourceNames, Right, lacking},
    },
    error::KafkaError,
    librdkafka::{self, bootstrap::Bootstrap, live_clients::ClientHandle},
};

/// How long one question to the cluster may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);
/// How long the ids of topics may take; a sink's commits wait for it.
const IDS: Duration = Duration::from_secs(5);
/// Between two questions for a topic that is not there.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a topic may be without leaders before that is an error: one that somebody has just made has none yet.
const SETTLE: Duration = Duration::from_secs(15);
/// How long the topics that we create may take to have leaders: a cluster with much to do takes longer than an answer.
const CREATION: Duration = Duration::from_mins(1);

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Replicas of its first partition.
    pub replication: i32,
}

/// The cluster's topics.
#[derive(Clone)]
pub struct Cluster {
    clients: Arc<AdminClients>,
    pub(crate) config: Arc<KafkaConfig>,
    bootstrap: Arc<Bootstrap>,
    diagnoses: Diagnoses,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// A client for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let bootstrap = Arc::new(Bootstrap::new(&config.bootstrap));
        let config = Arc::new(config.clone());
        let clients = Arc::new(AdminClients::new(Arc::clone(&config))?);
        let diagnoses = Diagnoses::new(Arc::clone(&config));
        Ok(Self { clients, config, bootstrap, diagnoses })
    }

    /// Makes the client anew, for every clone, where the files of its certificates hold something else than when it was made;
    /// whether they do. Looks at them once a second at most.
    ///
    /// # Errors
    /// When no client can be made from what they hold, as while they are being written: the one before stays.
    pub fn renew(&self) -> Result<bool, KafkaError> {
        self.clients.renew()
    }

    /// The client as it is now.
    pub(crate) fn admin(&self) -> Arc<ClientHandle<AdminClient<Logs>>> {
        self.clients.current()
    }

    /// Whether the cluster answers us.
    ///
    /// # Errors
    /// [`KafkaError::Credentials`] when it does not let us in, or we do not trust it; [`KafkaError::Outage`] when it does not
    /// answer within 15 s.
    pub async fn reach(&self) -> Result<(), KafkaError> {
        // One topic that every cluster with groups has; whether we may see it does not matter.
        self.ask(|client| client.fetch_metadata(Some("__consumer_offsets"), ANSWER).map(drop)).await
    }

    /// Every topic of the cluster, the brokers' own among them, by name.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn topics(&self) -> Result<Vec<Topic>, KafkaError> {
        let listed = self.ask(|client| client.fetch_metadata(None, ANSWER)).await?;
        let mut topics: Vec<Topic> =
            listed.topics().iter().filter(|topic| topic.error().is_none()).map(topic).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Whether there is no topic of this name, which is believed only once the cluster has said so for 10 s: a broker that has
    /// just started may not know it yet.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn lacks(&self, topic: &str) -> Result<bool, KafkaError> {
        let mut missing = Debounce::default();
        loop {
            let name = topic.to_owned();
            let asked = self.ask(move |client| {
                let metadata = client.fetch_metadata(Some(&name), ANSWER)?;
                let listed = metadata.topics().iter().find(|listed| listed.name() == name);
                Ok(listed.is_some_and(|listed| !listed.error().map(Code::from).is_some_and(is_unknown)))
            });
            if asked.await? {
                return Ok(false);
            }
            if missing.again(Instant::now()) {
                return Ok(true);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The first offset that a partition still holds, and the one behind its last record.
    ///
    /// # Errors
    /// When the cluster does not answer, or has no such partition.
    pub async fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let name = topic.to_owned();
            let answer = self.blocking(move |client| Ok(client.fetch_watermarks(&name, partition, ANSWER))).await?;
            match answer {
                // In a topic that has just been made.
                Err(error) if is_leaderless(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => {
                    let lacks = |code| lacking(code, Right::Describe, ResourceNames::topic(topic));
                    return answer.map_err(|error| match error.rdkafka_error_code().and_then(lacks) {
                        Some(why) => KafkaError::Refused(why),
                        None => outage(&error),
                    });
                }
            }
        }
    }

    /// The id of each of these topics, in base64: a topic that is deleted and created again has another one. A topic that
    /// does not exist is left out, and every topic of a cluster that gives none (before Kafka 2.8).
    ///
    /// # Errors
    /// [`KafkaError::Outage`] when the cluster does not answer within 5 s; [`KafkaError::Refused`] when it does not let us
    /// describe one of them.
    pub async fn topic_ids(&self, topics: &[&str]) -> Result<BTreeMap<String, String>, KafkaError> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.blocking(move |client| {
            librdkafka::topic_ids::topic_ids(client, &topics, IDS).map_err(|code| match code {
                Code::InvalidTopic => {
                    KafkaError::Refused(format!("cannot read the ids of topics {}: {code}", topics.join(", ")))
                }
                code if let Some(why) = lacking(code, Right::Describe, ResourceNames::topic(&topics.join(", "))) => {
                    KafkaError::Refused(why)
                }
                code => KafkaError::Outage(format!("the kafka cluster does not tell the ids of topics: {code}")),
            })
        })
        .await
    }

    /// The largest record batch that each of these topics takes, bytes (`max.message.bytes`, be it the topic's own or the
    /// broker's). A topic that does not exist is left out.
    ///
    /// # Errors
    /// [`KafkaError::Outage`] when the cluster does not answer within 15 s; [`KafkaError::Refused`] when it does not let us
    /// describe one of them.
    pub async fn max_message_bytes(&self, topics: &[&str]) -> Result<BTreeMap<String, u64>, KafkaError> {
        self.numbers(topics, "max.message.bytes").await
    }

    /// How long each of these topics keeps a tombstone, and the marker of a transaction, so that who reads it from the
    /// beginning within that time misses none (`delete.retention.ms`). A topic that does not exist is left out.
    ///
    /// # Errors
    /// As [`Cluster::max_message_bytes`].
    pub async fn delete_retention(&self, topics: &[&str]) -> Result<BTreeMap<String, Duration>, KafkaError> {
        let millis = self.numbers(topics, "delete.retention.ms").await?;
        Ok(millis.into_iter().map(|(topic, millis)| (topic, Duration::from_millis(millis))).collect())
    }

    /// A setting of topics that is a number.
    async fn numbers(&self, topics: &[&str], setting: &str) -> Result<BTreeMap<String, u64>, KafkaError> {
        let settings = self.settings(topics).await?;
        let number = |topic: &&str| settings.get(*topic)?.get(setting)?.as_ref()?.parse().ok();
        let numbers: BTreeMap<String, u64> =
            topics.iter().filter_map(|topic| Some(((*topic).to_owned(), number(topic)?))).collect();
        if topics.iter().all(|topic| numbers.contains_key(*topic)) {
            return Ok(numbers);
        }
        let there = self.topics().await?;
        match there.iter().find(|there| topics.contains(&there.name.as_str()) && !numbers.contains_key(&there.name)) {
            Some(Topic { name, .. }) => {
                let why = lacking(Code::TopicAuthorizationFailed, Right::DescribeConfigs, ResourceNames::topic(name));
                Err(KafkaError::Refused(why.unwrap_or_default()))
            }
            None => Ok(numbers),
        }
    }

    /// What stands between the cluster and these topics; empty when nothing does.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn plan(&self, specs: &[TopicSpec]) -> Result<Vec<TopicChange>, KafkaError> {
        let topics: HashMap<String, Topic> = self.topics().await?.into_iter().map(|t| (t.name.clone(), t)).collect();
        let existing = specs.iter().filter(|spec| topics.contains_key(&spec.name) && !spec.config.is_empty());
        let existing: Vec<&str> = existing.map(|spec| spec.name.as_str()).collect();
        let settings = self.settings(&existing).await?;
        Ok(specs.iter().flat_map(|spec| differences(spec, topics.get(&spec.name), &settings)).collect())
    }

    /// Creates what is missing and waits until it can be used. Gives the whole plan back: what was created, and what
    /// differs and was left alone. Running it again changes nothing.
    ///
    /// # Errors
    /// When the cluster does not answer, or refuses to create a topic.
    pub async fn apply(&self, specs: &[TopicSpec]) -> Result<Vec<TopicChange>, KafkaError> {
        let plan = self.plan(specs).await?;
        let missing: Vec<&TopicSpec> = plan
            .iter()
            .filter_map(|change| match change {
                TopicChange::Create(spec) => Some(spec),
                _ => None,
            })
            .collect();
        if !missing.is_empty() {
            self.create(&missing).await?;
            self.await_leaders(&missing).await?;
        }
        Ok(plan)
    }

    async fn create(&self, specs: &[&TopicSpec]) -> Result<(), KafkaError> {
        let topics: Vec<NewTopic<'_>> = specs.iter().map(|spec| new_topic(spec)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        let results = self.admin().create_topics(&topics, &options).await.map_err(|error| outage(&error))?;
        let refused: Vec<String> = results
            .into_iter()
            .filter_map(|result| match result {
                // Another `apply` was faster.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => None,
                Err((topic, code)) => Some(
                    lacking(code, Right::Create, ResourceNames::topic(&topic))
                        .unwrap_or_else(|| format!("cannot create topic {topic}: {code}")),
                ),
            })
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(KafkaError::Refused(refused.join("; "))) }
    }

    /// Creation is answered before every broker knows the topic.
    async fn await_leaders(&self, specs: &[&TopicSpec]) -> Result<(), KafkaError> {
        let deadline = Instant::now() + CREATION;
        loop {
            let listed = self.ask(|client| client.fetch_metadata(None, ANSWER)).await?;
            let led: BTreeMap<&str, usize> = listed
                .topics()
                .iter()
                .map(|t| (t.name(), t.partitions().iter().filter(|p| p.leader() >= 0).count()))
                .collect();
            let waiting = specs.iter().find(|spec| {
                let want = usize::try_from(spec.partitions).unwrap_or(0);
                led.get(spec.name.as_str()).is_none_or(|leaders| *leaders < want)
            });
            let Some(waiting) = waiting else { return Ok(()) };
            if Instant::now() > deadline {
                let text = format!(
                    "topic {} was created, and not every partition has a leader after {} s: see that all brokers run, and try again",
                    waiting.name,
                    CREATION.as_secs()
                );
                return Err(KafkaError::Outage(text));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The settings of topics, by topic and name. rdkafka 0.39 drops the broker's error about a single topic: one that
    /// does not exist, or may not be described, has none at all.
    async fn settings(&self, topics: &[&str]) -> Result<Settings, KafkaError> {
        if topics.is_empty() {
            return Ok(Settings::new());
        }
        let configured: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let described = self.admin().describe_configs(&configured, &options).await.map_err(|error| outage(&error))?;
        let mut settings = Settings::new();
        for resource in described {
            let resource =
                resource.map_err(|code| KafkaError::Refused(format!("cannot read topic settings: {code}")))?;
            if let rdkafka::admin::OwnedResourceSpecifier::Topic(topic) = resource.specifier {
                settings.insert(topic, resource.entries.into_iter().map(|e| (e.name, e.value)).collect());
            }
        }
        Ok(settings)
    }

    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client<Logs>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, KafkaError> {
        self.blocking(move |client| question(client).map_err(|error| outage(&error))).await
    }

    /// Asks on a thread where it may block. Where nobody answers it is said why; who is not let in need not wait for that.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client<Logs>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let (admin, config) = (self.admin(), Arc::clone(&self.config));
        let ask = move || {
            credentials::await_login(&config)?;
            question(admin.inner())
        };
        let asked = tokio::task::spawn_blocking(ask);
        let answer = tokio::select! {
            biased;
            answer = asked => answer.map_err(|error| KafkaError::Outage(error.to_string()))?,
            denial = self.diagnoses.denial() => return Err(denial.into_error()),
        };
        match answer {
            Err(KafkaError::Outage(why)) => {
                self.bootstrap.again(self.admin().inner());
                Err(self.diagnoses.explained(&why).await)
            }
            answer => answer,
        }
    }
}

type Settings = HashMap<String, HashMap<String, Option<String>>>;

fn topic(listed: &rdkafka::metadata::MetadataTopic) -> Topic {
    let partitions = listed.partitions();
    let replicas = partitions.first().map_or(0, |partition| partition.replicas().len());
    Topic {
        name: listed.name().to_owned(),
        partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
        replication: i32::try_from(replicas).unwrap_or(i32::MAX),
    }
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
    spec.config.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
}

fn differences(spec: &TopicSpec, existing: Option<&Topic>, settings: &Settings) -> Vec<TopicChange> {
    let Some(existing) = existing else { return vec![TopicChange::Create(spec.clone())] };
    let mut changes = Vec::new();
    if existing.partitions != spec.partitions {
        let (is, want) = (existing.partitions, spec.partitions);
        changes.push(TopicChange::Partitions { topic: spec.name.clone(), is, want });
    }
    let has = settings.get(&spec.name);
    for (name, want) in &spec.config {
        let is = has.and_then(|settings| settings.get(name)).cloned().flatten();
        if is.as_ref() != Some(want) {
            let (topic, name, want) = (spec.name.clone(), name.clone(), want.clone());
            changes.push(TopicChange::Setting { topic, name, is, want });
        }
    }
    changes
}

/// Whether this says that there is no such topic or partition.
pub(crate) fn is_unknown(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

fn is_leaderless(error: &ClientError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

pub(crate) fn outage(error: &ClientError) -> KafkaError {
    match error.rdkafka_error_code() {
        Some(code) if is_unknown(code) => KafkaError::Refused("there is no such topic or partition".to_owned()),
        _ => KafkaError::Outage(format!("the kafka cluster does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when an error does not name where the cluster was looked for (`blocking` does not explain an outage), or not that a host
    /// has no address.
    #[tokio::test]
    async fn a_cluster_that_cannot_be_reached_is_named_with_the_reason() {
        let bootstrap = "127.0.0.1:1, no-such-host.invalid:9092".to_owned();
        let cluster = Cluster::new(&KafkaConfig { bootstrap, ..KafkaConfig::default() }).unwrap();
        let nobody = |_: &Client<Logs>| Err::<(), _>(ClientError::MetadataFetch(Code::BrokerTransportFailure));
        let nobody_either = |_: &Client<Logs>| Err::<(), _>(KafkaError::Outage("nobody answers".to_owned()));
        for said in [cluster.ask(nobody).await, cluster.blocking(nobody_either).await] {
            let said = said.unwrap_err().to_string();
            let named = "(kafka broker 127.0.0.1:1: Connection refused";
            assert!(said.contains(named) && said.contains("no-such-host.invalid:9092: failed to lookup"), "{said}");
        }
    }
}

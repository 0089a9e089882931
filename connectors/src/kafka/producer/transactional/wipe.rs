//! State that is wiped: of every key that a changelog has, a tombstone, together with the offsets from which the group goes
//! on. Whatever a local store has of the changelog, it meets those.
//!
//! One transaction, of a group that nobody is in: there is no moment at which its offsets and its state do not belong
//! together, whenever the program dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use headwater::{Headers, TopicPartition, spi::Outgoing};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::Producer as _,
};
use tokio::runtime::Handle;

use super::{attempt::insist, producer_thread::Client};
use crate::kafka::{
    admin::topics::Logs,
    changelog::{ChangelogError, ChangelogReader, INPUTS},
    config::KafkaConfig,
    consumer::{membership::lease::PublishPermit, partition},
    credentials,
    error::KafkaError,
    librdkafka::{self, live_clients::ClientHandle, membership::GroupMetadata, transactions::TransactionFault},
    producer::core::{Core, flush::left, reports::Reports},
};

type Keys = BTreeMap<TopicPartition, BTreeSet<Vec<u8>>>;

/// How many keys each of these partitions of a group's changelogs has; none is left out.
///
/// # Errors
/// As [`ChangelogReader::read`].
pub async fn kept_keys(
    config: &KafkaConfig,
    group: &str,
    changelogs: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, usize>, KafkaError> {
    let keys = keys(config, group, changelogs).await?;
    Ok(keys.into_iter().map(|(name, keys)| (name, keys.len())).collect())
}

/// Deletes every key of these partitions of a group's changelogs and sets its offsets, together or not at all. How far inputs
/// have come with what is deleted is forgotten. The group has no members.
///
/// # Errors
/// [`KafkaError::Outage`] when the cluster does not take it within `kafka.producer.transaction_timeout`;
/// [`KafkaError::Refused`] when we may not. Nothing was changed then, unless the commit itself was not confirmed.
pub async fn wipe_state(
    config: &KafkaConfig,
    group: &str,
    changelogs: &[TopicPartition],
    offsets: &BTreeMap<TopicPartition, i64>,
) -> Result<(), KafkaError> {
    let keys = keys(config, group, changelogs).await?;
    let offsets = partition::list_at(offsets.iter().map(|(name, next)| (name, *next)))?;
    let wipe = Wipe { config: config.clone(), group: group.to_owned(), keys, offsets };
    blocking(move || wipe.run()).await
}

async fn keys(config: &KafkaConfig, group: &str, changelogs: &[TopicPartition]) -> Result<Keys, KafkaError> {
    let reader = ChangelogReader::new(config, group)?;
    let wanted: Vec<_> = changelogs.iter().map(|name| (name.clone(), None)).collect();
    let mut keys: Keys = changelogs.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
    blocking(move || {
        let each = |name: &TopicPartition, key: &[u8], value: Option<&[u8]>, _| {
            let Some(keys) = keys.get_mut(name) else { return };
            match value {
                Some(_) => _ = keys.insert(key.to_vec()),
                None => _ = keys.remove(key),
            }
        };
        match reader.read(&wanted, &AtomicBool::new(false), each, |_| ()) {
            Ok(_) => Ok(keys),
            Err(ChangelogError::Kafka(error)) => Err(error),
            Err(ChangelogError::Cancelled) => Err(KafkaError::Outage("reading was cancelled".to_owned())),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| KafkaError::Outage(error.to_string()))?
}

struct Wipe {
    config: KafkaConfig,
    group: String,
    keys: Keys,
    offsets: TopicPartitionList,
}

impl Wipe {
    fn run(&self) -> Result<(), KafkaError> {
        let settings = self.config.consumer(&self.group, None)?;
        let consumer: ClientHandle<BaseConsumer<Logs>> = credentials::create(&settings, Logs)
            .map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))?;
        let nobody = GroupMetadata::of(consumer.client())
            .ok_or_else(|| KafkaError::Outage("a consumer does not say in which group it is".to_owned()))?;
        let settings = self.config.transactional(&format!("{}.reset", self.group))?;
        let core = Core::new(&self.config, settings, self.config.producer.transaction_timeout);
        let client = core
            .client(Reports::default())
            .map_err(|error| KafkaError::Config(format!("cannot build a kafka producer: {error}")))?;
        let deadline = Instant::now() + core.patience;
        insist(deadline, |wait| librdkafka::transactions::init(client.client(), wait)).map_err(failed)?;
        librdkafka::transactions::begin(client.client()).map_err(failed)?;
        let sent = self.send(&core, &client, deadline).and_then(|()| {
            let offsets = |wait| librdkafka::transactions::send_offsets(client.client(), &self.offsets, &nobody, wait);
            insist(deadline, offsets).map_err(failed)
        });
        if let Err(error) = sent {
            // Or the coordinator does, once its time is over.
            let _ = insist(deadline, |wait| librdkafka::transactions::abort(client.client(), wait));
            return Err(error);
        }
        insist(deadline, |wait| librdkafka::transactions::commit(client.client(), wait)).map_err(failed)
    }

    fn send(&self, core: &Core, client: &Client, deadline: Instant) -> Result<(), KafkaError> {
        let records = || self.keys.iter().flat_map(|(name, keys)| tombstones(name, keys));
        let attempt = client.context().begin(records().count());
        let permit = PublishPermit::unconditional();
        let taken = Handle::current().block_on(async {
            let mut hand_over = core.hand_over(&permit);
            for (index, record) in records().enumerate() {
                let number = Reports::numbered(attempt, index);
                let taken = hand_over.next_numbered(client, &record, number, deadline).await;
                taken.map_err(|fault| untaken(core.error((index, fault), &record).reason))?;
            }
            Ok(())
        });
        let flushed = taken.is_ok() && librdkafka::transactions::flush(client.client(), left(deadline));
        if let Some((_, code)) = client.context().errors().first() {
            return Err(untaken(code));
        }
        taken?;
        if flushed && client.context().left() == 0 {
            return Ok(());
        }
        Err(KafkaError::Outage(
            "the changelogs did not take everything within kafka.producer.transaction_timeout: raise it for this command"
                .to_owned(),
        ))
    }
}

/// A tombstone of each key, and behind them one of no key that says that no input has come anywhere.
fn tombstones<'a>(name: &'a TopicPartition, keys: &'a BTreeSet<Vec<u8>>) -> impl Iterator<Item = Outgoing> + 'a {
    let mut nowhere = Headers::default();
    nowhere.push_text(&INPUTS.to_string_lossy(), "");
    let each = keys.iter().map(|key| (key.clone(), Headers::default()));
    each.chain([(Vec::new(), nowhere)]).map(|(key, headers)| Outgoing {
        topic: Arc::clone(&name.topic),
        partition: Some(name.partition),
        key: Some(key),
        value: None,
        headers,
    })
}

fn untaken(why: impl Display) -> KafkaError {
    KafkaError::Outage(format!("the changelogs did not take what is deleted, and nothing was changed: {why}"))
}

fn failed(fault: TransactionFault) -> KafkaError {
    let text = format!("the state could not be wiped in one transaction: {}", fault.text);
    if fault.retriable { KafkaError::Outage(text) } else { KafkaError::Refused(text) }
}

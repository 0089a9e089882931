//! What a restore believes of the disk and of the changelog.

use std::{fs, path::Path, time::Duration};

use headwater::spi::{Metric, partition_for};
use headwater_connectors::{
    kafka::{Cluster, TopicSpec},
    store::local::{LocalStore, StateConfig},
};
use headwater_tests::eventually;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{Ledger, PARTITIONS, SOON, fold, sums};

const HOUR_MS: i64 = 3_600_000;

/// A customer of each partition of a group's own topics.
fn customers_of_each_partition(ledger: &Ledger, prefix: &str) -> Vec<String> {
    let of = |partition| {
        let names = (0..).map(|n| format!("{prefix}{n}"));
        names.into_iter().find(|name| partition_for(ledger.name(name).as_bytes(), PARTITIONS) == partition)
    };
    (0..PARTITIONS).map(|partition| of(partition).expect("one of many")).collect()
}

/// Writes a change to a changelog, within a transaction that stays open.
fn change(ledger: &Ledger, producer: &BaseProducer, customer: &str, (partition, value): (i32, &[u8])) {
    producer.begin_transaction().expect("begun");
    let (topic, key) = (ledger.changelog("sum"), ledger.name(customer));
    let record = BaseRecord::to(&topic).partition(partition).key(&key).payload(value);
    producer.send(record).map_err(|(error, _)| error).expect("sent");
    producer.flush(SOON).expect("acknowledged");
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("this age")
}

/// Of a key that was deleted long ago the changelog has nothing any more, not even the tombstone, and a disk of
/// before still has the key. One that is older than the changelog's own `delete.retention.ms`, here an hour, is wiped and
/// restored: the key begins anew, and what is alive has its state; so is one from the future, whose age nobody knows. One that
/// is younger is believed, which shows that the dead key would rise.
/// Red when the age of a checkpoint is not looked at, or compared with the default of a day, or one from the future counts as
/// young.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_older_than_the_changelogs_tombstones_is_wiped() {
    let ledger = Ledger::new("keyed_tombstones", 3).await;
    let changelog = ledger.changelog("sum");
    let config = [("cleanup.policy", "compact"), ("delete.retention.ms", "3600000")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let spec = TopicSpec { name: changelog.clone(), partitions: PARTITIONS, replication: 1, config };
    let cluster = Cluster::new(&ledger.how.kafka).expect("valid");
    cluster.apply(&[spec]).await.expect("the changelog is made");
    let pipeline = ledger.open(sums()).await;
    let (alive, dead) = (customers_of_each_partition(&ledger, "alive"), customers_of_each_partition(&ledger, "dead"));
    let engine = ledger.start(&pipeline).await;
    alive.iter().for_each(|customer| (1..=5).for_each(|cents| ledger.enter(customer, cents)));
    ledger.foreign.flush();
    ledger.announced("sum", 15).await;
    engine.stop().await;

    let ids = cluster.topic_ids(&[&changelog]).await.expect("its id");
    let ends: Vec<i64> = ledger.foreign.watermarks(&changelog).into_iter().map(|(_, end)| end).collect();
    let dir = ledger.how.dir(&ledger.space, &ledger.group("sum"));
    let saved = ledger.saved("sum");
    {
        let disk = LocalStore::open(&dir, &StateConfig::default()).expect("the disk of the first run");
        for (partition, minutes) in [(0, 61), (1, 50), (2, -30)] {
            let at = usize::try_from(partition).expect("small");
            let at_ms = now_ms() - minutes * HOUR_MS / 60;
            disk.wipe("sums", partition).expect("wiped");
            let mut old = disk.restore("sums", partition, &ids[&changelog], at_ms).expect("a restore");
            let (_, value) = &saved[&alive[at]];
            old.push(0, ledger.name(&dead[at]).as_bytes(), value.as_deref()).expect("on the disk");
            old.push(1, ledger.name(&alive[at]).as_bytes(), value.as_deref()).expect("on the disk");
            old.finish(ends[at], at_ms).expect("on the disk");
        }
    }
    let engine = ledger.start(&pipeline).await;
    dead.iter().chain(&alive).for_each(|customer| ledger.enter(customer, 100));
    ledger.foreign.flush();
    let sums = ledger.announced("sum", 21).await;
    engine.stop().await;
    for (at, dead, alive) in (0..).zip(&dead).zip(&alive).map(|((at, dead), alive)| (at, dead, alive)) {
        assert_eq!(sums[alive].last(), Some(&(6, 115)), "{alive} is alive");
        let risen = if at == 1 { (6, 115) } else { (1, 100) };
        assert_eq!(sums[dead], [risen], "{dead} of partition {at}");
    }
}

/// Beside what the group has committed its changelog has a change that was aborted, one of a process that died
/// within its transaction, and one of a transaction that is committed later. The restore waits for the open ones, and takes
/// only what was committed in the end.
/// Red when changelogs are read uncommitted, or only as far as nothing is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_what_was_committed_and_waits_for_what_is_open() {
    let ledger = Ledger::new("keyed_aborted", 3).await;
    let pipeline = ledger.open(sums()).await;
    let engine = ledger.start(&pipeline).await;
    (1..=5).for_each(|cents| ledger.enter("rich", cents));
    let others = ["aborted", "dead", "late"];
    others.iter().for_each(|customer| ledger.enter(customer, 1));
    ledger.foreign.flush();
    ledger.announced("sum", 8).await;
    engine.stop().await;
    fs::remove_dir_all(ledger.how.dir(&ledger.space, &ledger.group("sum"))).expect("the disk is lost");

    let saved = ledger.saved("sum");
    let value = saved["rich"].1.clone().expect("a state");
    let id = |name: &str| ledger.space.topic(name);
    let [aborted, dead, late] = others.map(|name| {
        let producer = ledger.foreign.transactional(&id(name));
        change(&ledger, &producer, name, (saved[name].0, &value));
        producer
    });
    aborted.abort_transaction(SOON).expect("aborted");
    // It says nothing any more.
    drop(dead);

    let engine = ledger.start(&pipeline).await;
    others.iter().chain(&["rich"]).for_each(|customer| ledger.enter(customer, 100));
    ledger.foreign.flush();
    let state = engine.state("sum");
    eventually("it restores", SOON, async || state.get(Metric::RestoreLeft) > 0).await;
    // Long enough for what would not be waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(state.get(Metric::RestoreLeft) > 0, "it waits for what is open");
    assert_eq!(ledger.sums("sum").values().map(Vec::len).sum::<usize>(), 8, "nothing comes of half a state");
    late.commit_transaction(SOON).expect("committed");
    // Another of its name ends what it has left.
    drop(ledger.foreign.transactional(&id("dead")));
    let sums = ledger.announced("sum", 12).await;
    engine.stop().await;
    assert_eq!(sums["rich"], fold([1, 2, 3, 4, 5, 100]));
    assert_eq!(sums["aborted"], [(1, 1), (2, 101)]);
    assert_eq!(sums["dead"], [(1, 1), (2, 101)]);
    assert_eq!(sums["late"], [(1, 1), (6, 115)], "what was committed last counts");
}

/// The process that had the group's transactional id died after its records and its offsets were sent, and
/// before the commit. The next one ends that transaction at once, not when its time is over, and nothing of it counts.
/// Red when a partition is taken before the producer has its epoch, or offsets of an open transaction are believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_a_dead_process_left_open_leaves_nothing() {
    let ledger = Ledger::new("keyed_left_open", 3).await;
    let pipeline = ledger.open(sums()).await;
    let engine = ledger.start(&pipeline).await;
    ledger.enter("bob", 1);
    (1..=5).for_each(|cents| ledger.enter("rich", cents));
    ledger.foreign.flush();
    ledger.announced("sum", 6).await;
    engine.stop().await;

    [2, 3, 4].into_iter().for_each(|cents| ledger.enter("bob", cents));
    ledger.foreign.flush();
    let (saved, group) = (ledger.saved("sum"), ledger.group("sum"));
    let value = saved["rich"].1.clone().expect("a state");
    let dead = ledger.foreign.transactional(&format!("{group}.one.0"));
    change(&ledger, &dead, "bob", (saved["bob"].0, &value));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &ledger.space.endpoints.kafka_bootstrap).set("group.id", &group);
    let outside: BaseConsumer = config.create().expect("a consumer");
    let mut offsets = TopicPartitionList::new();
    for (partition, (_, end)) in (0..).zip(ledger.foreign.watermarks(&ledger.topic)) {
        offsets.add_partition_offset(&ledger.topic, partition, Offset::Offset(end)).expect("valid");
    }
    let nobody = outside.group_metadata().expect("metadata");
    dead.send_offsets_to_transaction(&offsets, &nobody, SOON).expect("offsets are sent");
    drop(dead);

    let engine = ledger.start(&pipeline).await;
    let all = async || ledger.sums("sum").get("bob").is_some_and(|sums| sums.len() >= 4);
    // The dead one's time is a minute.
    eventually("bob's entries are counted", Duration::from_secs(20), all).await;
    engine.stop().await;
    assert_eq!(ledger.sums("sum")["bob"], fold([1, 2, 3, 4]));
}

/// Killed after the commit and before the store: the disk is as it was some transactions ago, or it has nothing,
/// and the group's offsets are of now. State is what was committed.
/// Red when what the disk has is believed without what the changelog has since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_missed_commits_is_caught_up() {
    let ledger = Ledger::new("keyed_behind", 3).await;
    let pipeline = ledger.open(sums()).await;
    let dir = ledger.how.dir(&ledger.space, &ledger.group("sum"));
    let customers: Vec<String> = (0..9).map(|n| format!("c{n}")).collect();
    let before = ledger.space.dir.join("before");
    for round in 1..=3 {
        if round == 3 {
            fs::remove_dir_all(&dir).expect("the disk of now");
            copy(&before, &dir);
        }
        let engine = ledger.start(&pipeline).await;
        for customer in &customers {
            [round, round * 10].into_iter().for_each(|cents| ledger.enter(customer, cents));
        }
        ledger.foreign.flush();
        ledger.announced("sum", usize::try_from(round).expect("small") * 18).await;
        engine.stop().await;
        if round == 1 {
            copy(&dir, &before);
        }
    }
    let sums = ledger.sums("sum");
    for customer in &customers {
        assert_eq!(sums[customer], fold([1, 10, 2, 20, 3, 30]), "{customer}");
    }
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

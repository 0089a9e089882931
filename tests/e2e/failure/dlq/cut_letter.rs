//! Letters of which the table has the beginning alone, and their topic the whole.

use headwater::TopicPartition;
use headwater_connectors::kafka::delete_records_before;
use headwater_tests::{ConsumedRecord, Proxy, RawRecord, Side};

use super::*;

/// Bytes that are kept of a value.
const KEPT: usize = 65_536;

/// Letters 0 and 2 of four are cut; their records stand on a topic of the space's own.
struct CutLetters {
    post: LetterTable,
    topic: String,
    values: [Vec<u8>; 2],
}

impl CutLetters {
    async fn new(name: &str) -> Self {
        let post = LetterTable::new(name).await;
        let topic = post.space.topic("large");
        post.space.create_topics(&[&topic], 1).await;
        let values = [b'a', b'b'].map(|byte| vec![byte; 100_000]);
        for (n, value) in [0, 2].into_iter().zip(&values) {
            let headers = vec![("ce_id".to_owned(), Some(format!("e-{n}").into_bytes()))];
            let value = Some(value.clone());
            post.foreign.send_raw(&topic, &RawRecord { partition: Some(0), value, headers, ..RawRecord::default() });
        }
        post.foreign.flush();
        post.letters("send-receipt", "decode", (0, 4), b"whole").await;
        for (n, seen) in ["0", "2"].into_iter().zip(post.foreign.read(&topic)) {
            cut(&post, n, &topic, &seen).await;
        }
        Self { post, topic, values }
    }

    /// Letters that nobody has locked.
    async fn free(&self) -> i64 {
        let unlocked = "select from headwater.dead_letters for key share skip locked";
        self.post.space.count(&format!("select count(*) from ({unlocked}) as unlocked")).await
    }

    /// What is written of letter 0 by `show --raw`, with the code and what is said beside it.
    fn raw(&self, env: &[(&str, &str)]) -> (Option<i32>, Vec<u8>, String) {
        let mut show = Command::new(PROGRAM);
        show.args(["dlq", "show", &id(0), "--raw"]).envs(self.post.space.env()).envs(env.iter().copied());
        let done = show.output().expect("it runs");
        (done.status.code(), done.stdout, String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// Makes letter `n` one that was cut, of this record.
async fn cut(post: &LetterTable, n: &str, topic: &str, seen: &ConsumedRecord) {
    let sql = format!(
        "update headwater.dead_letters set origin_topic = $1, origin_partition = 0, origin_offset = $2, \
         origin_timestamp = timestamptz 'epoch' + $3 * interval '1 millisecond', value = substr($4, 1, {KEPT}), \
         headers = headers || jsonb_build_array( \
         jsonb_build_object('name', 'hw_value_bytes', 'text', length($4)::text), \
         jsonb_build_object('name', 'hw_value_sha256', 'text', encode(sha256($4), 'hex'))) where id = {}",
        id_of(n)
    );
    let update = sqlx::query(AssertSqlSafe(sql)).bind(topic).bind(seen.place.1).bind(seen.timestamp_ms);
    update.bind(seen.value.as_deref()).execute(&post.space.pool).await.expect("a letter that was cut");
}

/// The oldest letter was cut, and its record is slow to come: meanwhile no letter is locked. Where the whole cluster goes away
/// the redrive ends without a try at the others; where only the partition does not answer, the others are sent.
/// Red when a letter that was cut is fetched within its lock or together with others, an outage is taken for a letter's own
/// trouble, or one partition's for an outage; also when the beginning is sent as the record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_letter_is_locked_while_another_is_fetched() {
    let cut = CutLetters::new("dlq_cut").await;
    let space = &cut.post.space;
    let args = ["dlq", "redrive", "send-receipt"];
    let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
    proxy.watch(Side::Before, &["ListOffsets", &cut.topic]);
    let env = [("HEADWATER__KAFKA__BOOTSTRAP", proxy.address())];
    let redrive = Process::start(PROGRAM, space, "away", &args, &env);
    let held = proxy.next(SOON).await.expect("the record is asked for");
    assert_eq!(cut.free().await, 4, "while it is asked for");
    drop((held, proxy));
    let gives_up = async || {
        assert_eq!(cut.free().await, 4, "while nobody answers");
        redrive.log().contains("error: stopped: ")
    };
    eventually("it gives up", 2 * SOON, gives_up).await;
    let said = redrive.log();
    assert!(said.contains("sent 0, refused 0, left 4 in "), "{said}");

    let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
    proxy.watch(Side::Before, &["ListOffsets", &cut.topic]);
    let env = [("HEADWATER__KAFKA__BOOTSTRAP", proxy.address())];
    let mut redrive = Process::start(PROGRAM, space, "slow", &args, &env);
    let mut held = Vec::new();
    while redrive.ended().is_none() {
        held.extend(proxy.next(Duration::from_millis(100)).await);
    }
    let said = redrive.log();
    assert!(said.contains("sent 2, refused 2, left 0 in ") && said.contains(&id(2)), "{said}");
    assert!(said.contains("cannot be fetched whole from") && !said.contains("stopped"), "{said}");
    assert_eq!(cut.post.sent(&cut.post.topic()), BTreeMap::from([("e-1".to_owned(), 1), ("e-3".to_owned(), 1)]));

    let (text, _) = cut.post.says(0, &args[1..]).await;
    assert!(text.starts_with("sent 2, refused 0, left 0 in "), "{text}");
    assert_eq!(cut.post.sent(&cut.post.topic()), ids(0..4));
    let seen = cut.post.foreign.read(&cut.post.topic());
    let value = |id: &str| seen.iter().find(|seen| seen.headers["ce_id"] == id).and_then(|seen| seen.value.as_ref());
    assert!([value("e-0"), value("e-2")] == cut.values.each_ref().map(Some), "whole");
}

/// Red when the beginning of a value is written as though it were the value, though its topic holds the whole, or without a
/// word and another code where it cannot be had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_cut_is_shown_whole_or_said_to_be_cut() {
    let cut = CutLetters::new("dlq_cut_raw").await;
    let whole = &cut.values[0];
    let (code, out, said) = cut.raw(&[]);
    assert!(code == Some(0) && out == *whole && said.is_empty(), "{} bytes, {said}", out.len());

    let (code, out, said) = cut.raw(&[("HEADWATER__KAFKA__BOOTSTRAP", "127.0.0.1:1")]);
    assert!(code == Some(1) && out == whole[..KEPT], "{} bytes, {said}", out.len());
    for part in ["the first 65536 of 100000 bytes of the value", "does not answer", "once kafka answers"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let partition = TopicPartition::new(cut.topic.as_str(), 0);
    let cluster = Cluster::new(&cut.post.space.kafka()).expect("valid");
    delete_records_before(&cluster, &[(partition, 1)]).await.expect("deleted");
    let (code, out, said) = cut.raw(&[]);
    assert!(code == Some(1) && out == whole[..KEPT], "{} bytes, {said}", out.len());
    assert!(said.contains("the record is not there any more"), "{said}");
}

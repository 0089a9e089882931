//! Crash points of a sink that has a dead letter: the letter before the transaction, the news of its success after it.

use headwater_tests::{ConsumedRecord, ForeignClient, Payments, Process, Proxy, Side, Space, eventually};

use super::{SOON, apply, held, is_through, kill, once, repeated};
use crate::{PROGRAM, space};

/// An amount that the table refuses.
const REFUSED: i64 = 13;

/// An insert sink with a table that refuses a row, and the proxy before its database.
struct Till {
    space: Space,
    proxy: Proxy,
    foreign: ForeignClient,
    payments: Payments,
    topic: String,
}

impl Till {
    async fn new(name: &str) -> Self {
        let space = space(name).await;
        let topic = space.topic("paid");
        space.create_topics(&[&topic], 1).await;
        let config = format!(
            "[topics.\"{topic}\"]\ntype = \"till.paid\"\n\
             [sinks.log]\nevent = \"till.paid\"\ntable = \"log\"\nmode = \"insert\"\n"
        );
        std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
        apply(&space).await;
        let proxy = Proxy::postgres(&space.database_url).await;
        let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
        let till = Self { space, proxy, foreign, payments, topic };
        // The sink makes its table with its first row.
        till.send(&[0]);
        let mut process = till.start("log");
        eventually("the first row", SOON, async || till.places().await.len() == 1).await;
        assert!(process.stop().await.success(), "{}", process.log());
        let refuse = format!("alter table log add constraint lucky check (amount_cents <> {REFUSED})");
        sqlx::query(sqlx::AssertSqlSafe(refuse)).execute(&till.space.pool).await.expect("a constraint");
        till
    }

    fn start(&self, group: &str) -> Process {
        let env = [("HEADWATER__POSTGRES__URL", self.proxy.address())];
        Process::start(PROGRAM, &self.space, "run", &["run", "--group", group], &env)
    }

    fn send(&self, amounts: &[i64]) {
        for amount in amounts {
            let value = self.payments.value(&format!("o{amount}"), *amount, None);
            self.foreign.send(&self.topic, Some("k"), Some(&value), &[]);
        }
        self.foreign.flush();
    }

    fn group(&self) -> String {
        format!("{}.log", self.space.name)
    }

    fn dead(&self) -> Vec<ConsumedRecord> {
        self.foreign.read(&format!("{}.dlq", self.group()))
    }

    /// Letters, by where their record stood and what they say; the moment and the span are each copy's own.
    fn letters(&self) -> Vec<(String, ConsumedRecord)> {
        let letter = |mut seen: ConsumedRecord| {
            seen.headers.retain(|name, _| !["hw_first_failed", "traceparent"].contains(&name.as_str()));
            (seen.place, seen.timestamp_ms, seen.raw) = ((0, 0), 0, Vec::new());
            (seen.headers["hw_origin_offset"].clone(), seen)
        };
        self.dead().into_iter().filter(|seen| seen.value.is_some()).map(letter).collect()
    }

    fn news(&self) -> usize {
        self.dead().into_iter().filter(|seen| seen.headers.contains_key("hw_resolved")).count()
    }

    async fn places(&self) -> Vec<i64> {
        match sqlx::query_scalar("select hw_offset from log").fetch_all(&self.space.pool).await {
            Ok(rows) => rows,
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P01") => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// How far the sink is by its own store.
    async fn next(&self, topic: &str) -> i64 {
        let sql = "select coalesce(sum(greatest(next_offset, 0)), 0)::int8 from headwater.consumer_offsets \
                   where consumer_group = $1 and topic = $2";
        let next = sqlx::query_scalar(sql).bind(self.group()).bind(topic).fetch_one(&self.space.pool).await;
        next.expect("the offset")
    }

    /// Of the letters' one row: what it is, and how often it was sent back.
    async fn standing(&self) -> Option<(String, i32)> {
        let sql = "select status, redrive_count from headwater.dead_letters";
        sqlx::query_as(sql).fetch_optional(&self.space.pool).await.expect("the letters")
    }

    async fn dlq(&self, args: &[&str]) -> String {
        let args = [&["dlq"], args].concat();
        let (code, out, err) = Process::run(PROGRAM, &self.space, &args, &[], "").await;
        assert_eq!(code, 0, "{out}{err}");
        out
    }
}

/// Killed once the letter is acknowledged and before its transaction commits, then after the commit and before
/// anything else. The letter is there before its offset, again and equal after the first kill, and never missing.
/// Red when a letter is sent after the transaction, or its offset is committed without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_there_before_its_offset_and_only_ever_repeated_as_it_was() {
    let mut till = Till::new("points_letter").await;
    till.send(&[1, 2, 3, 4, REFUSED, 5, 6, 7, 8]);
    let poison = 5;

    let mut process = till.start("log");
    till.proxy.watch(Side::Before, &["COMMIT"]);
    let mut last = held(&mut till.proxy, &process).await;
    while till.letters().is_empty() {
        last.pass();
        last = held(&mut till.proxy, &process).await;
    }
    kill(&mut till.proxy, &mut process, last).await;
    let next = till.next(&till.topic).await;
    assert!(next <= poison, "the letter is there, and offset {next} says that its record is done with");
    assert_eq!(once(0..next, till.places().await), Ok(()));

    let mut process = till.start("log");
    till.proxy.watch(Side::After, &["COMMIT"]);
    let mut last = held(&mut till.proxy, &process).await;
    while till.next(&till.topic).await <= poison {
        last.pass();
        last = held(&mut till.proxy, &process).await;
    }
    kill(&mut till.proxy, &mut process, last).await;
    let repeats = repeated([poison.to_string()], till.letters());
    assert!(repeats.as_ref().is_ok_and(|repeats| *repeats > 0), "it struck after the letter: {repeats:?}");

    let mut process = till.start("log");
    let group = till.group();
    eventually("all is through", SOON, async || is_through(&till.foreign, &group, &till.topic)).await;
    assert!(process.stop().await.success(), "{}", process.log());
    assert_eq!(repeated([poison.to_string()], till.letters()), repeats, "nothing more is sent");
    assert_eq!(once((0..10).filter(|offset| *offset != poison), till.places().await), Ok(()));
    assert_eq!(till.next(&till.topic).await, 10);
}

/// Killed after the transaction of a record that was sent back, and before the news of it. There is no news
/// before the transaction; after the kill the row is there once and the letter stays `redriven`.
/// Red when the news is sent before the transaction, the row is written again by the next who runs, or the broker is not
/// told where the store stands: it would show a lag until the next record came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_sent_back_is_there_once_when_its_news_is_lost() {
    let mut till = Till::new("points_news").await;
    till.send(&[REFUSED]);
    let mut process = till.start("log");
    eventually("a letter", SOON, async || !till.letters().is_empty()).await;
    eventually("its offset", SOON, async || till.next(&till.topic).await == 2).await;
    assert!(process.stop().await.success(), "{}", process.log());
    let mut keeper = till.start("dead-letters");
    eventually("its row", SOON, async || till.standing().await == Some(("open".to_owned(), 0))).await;
    sqlx::query("alter table log drop constraint lucky").execute(&till.space.pool).await.expect("dropped");
    let group = till.group();
    till.dlq(&["redrive", &group]).await;
    assert!(keeper.stop().await.success(), "{}", keeper.log());

    let back = format!("{group}.redrive");
    let mut process = till.start("log");
    till.proxy.watch(Side::Before, &["COMMIT"]);
    let mut last = held(&mut till.proxy, &process).await;
    loop {
        assert_eq!(till.news(), 0, "there is no news of what may still fail");
        till.proxy.watch(Side::After, &["COMMIT"]);
        last.pass();
        last = held(&mut till.proxy, &process).await;
        if till.next(&back).await > 0 {
            break;
        }
        till.proxy.watch(Side::Before, &["COMMIT"]);
        last.pass();
        last = held(&mut till.proxy, &process).await;
    }
    kill(&mut till.proxy, &mut process, last).await;
    assert_eq!(once([0, 1], till.places().await), Ok(()));
    assert_eq!(till.news(), 0, "it struck before the news");

    let mut process = till.start("log");
    let mut keeper = Process::start(PROGRAM, &till.space, "keeper", &["run", "--group", "dead-letters"], &[]);
    eventually("all is through", SOON, async || is_through(&till.foreign, &group, &back)).await;
    assert_eq!(once([0, 1], till.places().await), Ok(()));
    assert_eq!(till.standing().await, Some(("redriven".to_owned(), 0)));
    for process in [&mut process, &mut keeper] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

//! Crash points of a sink's transaction: offsets first, then rows, then the commit.

use std::collections::BTreeMap;

use headwater_tests::{ForeignClient, Payments, Process, Proxy, Side, Space, eventually};
use sqlx::{FromRow, postgres::PgRow};

use super::{OFFSETS, SOON, apply, is_through, once, strike};
use crate::{PROGRAM, space};

const PARTITIONS: i32 = 3;

/// A sink on a topic that nobody else writes, and the proxy before its database.
struct Till {
    space: Space,
    proxy: Proxy,
    foreign: ForeignClient,
    payments: Payments,
    /// What the sink reads.
    topic: String,
    /// Its name.
    name: &'static str,
    /// Where its rows are.
    table: &'static str,
    sent: usize,
}

impl Till {
    async fn new(space: Space, name: &'static str, table: &'static str) -> Self {
        let topic = if name == "dead-letters" { format!("{}.log.dlq", space.name) } else { space.topic("paid") };
        let bound = space.topic("paid");
        space.create_topics(&[&bound], PARTITIONS).await;
        let config = format!(
            "[topics.\"{bound}\"]\ntype = \"till.paid\"\n\
             [sinks.log]\nevent = \"till.paid\"\ntable = \"log\"\nmode = \"insert\"\n\
             [sinks.state]\nevent = \"till.paid\"\ntable = \"state\"\nkey = [\"order_id\"]\n"
        );
        std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
        apply(&space).await;
        let proxy = Proxy::postgres(&space.database_url).await;
        let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &bound).await);
        Self { space, proxy, foreign, payments, topic, name, table, sent: 0 }
    }

    fn start(&self) -> Process {
        let env = [("HEADWATER__POSTGRES__URL", self.proxy.address()), ("HEADWATER__DEFAULTS__BATCH_RECORDS", "5")];
        Process::start(PROGRAM, &self.space, "run", &["run", "--group", self.name], &env)
    }

    fn group(&self) -> String {
        format!("{}.{}", self.space.name, self.name)
    }

    /// Sends 40 more: payments of ten orders, each of a larger amount than the one before; or letters.
    fn send(&mut self) {
        for n in self.sent..self.sent + 40 {
            let order = format!("o{}", n % 10);
            if self.name == "dead-letters" {
                self.send_letter(n);
            } else {
                let value = self.payments.value(&order, i64::try_from(n).expect("few"), None);
                self.foreign.send(&self.topic, Some(&order), Some(&value), &[]);
            }
        }
        self.foreign.flush();
        self.sent += 40;
    }

    fn send_letter(&self, n: usize) {
        let (key, offset) = (n.to_string(), n.to_string());
        let group = format!("{}.log", self.space.name);
        let headers = [
            ("hw_group", group.as_str()),
            ("hw_processor", "log"),
            ("hw_origin_topic", "paid"),
            ("hw_origin_partition", "0"),
            ("hw_origin_offset", &offset),
            ("hw_origin_timestamp", "1767225600000"),
            ("hw_error_kind", "row"),
        ];
        self.foreign.send(&self.topic, Some(&key), Some(b"a value"), &headers);
    }

    /// How far the store says that each partition is.
    async fn next(&self) -> BTreeMap<i32, i64> {
        let sql = "select partition, greatest(next_offset, 0) from headwater.consumer_offsets \
                   where consumer_group = $1 and topic = $2";
        let rows = sqlx::query_as(sql).bind(self.group()).bind(&self.topic).fetch_all(&self.space.pool).await;
        rows.expect("the offsets").into_iter().collect()
    }

    /// The rows are those that the stored offsets cover, each once, whatever has been killed where.
    async fn check(&self) -> Result<(), String> {
        let (next, source) = (self.next().await, self.foreign.read(&self.topic));
        let covered =
            source.into_iter().filter(|seen| next.get(&seen.place.0).is_some_and(|next| seen.place.1 < *next));
        match self.name {
            "log" => once(covered.map(|seen| seen.place), self.rows("select hw_partition, hw_offset from log").await),
            "state" => {
                let mut last: BTreeMap<_, (i64, (i32, i64))> = BTreeMap::new();
                for seen in covered {
                    let key = String::from_utf8(seen.key.expect("a key")).expect("text");
                    let first = key[1..].parse().expect("a number");
                    let amount = last.get(&key).map_or(first, |(amount, _)| amount + 10);
                    last.insert(key, (amount, seen.place));
                }
                let sql = "select amount_cents, hw_partition, hw_offset from state";
                let rows: Vec<(i64, i32, i64)> = self.rows(sql).await;
                let rows = rows.into_iter().map(|(amount, partition, offset)| (amount, (partition, offset)));
                once(last.into_values(), rows)
            }
            _ => {
                let origin =
                    |headers: &BTreeMap<String, String>| headers["hw_origin_offset"].parse::<i64>().expect("a number");
                let rows = "select origin_partition, origin_offset from headwater.dead_letters";
                once(covered.map(|seen| (0, origin(&seen.headers))), self.rows(rows).await)
            }
        }
    }

    async fn rows<T: Send + Unpin + for<'r> FromRow<'r, PgRow>>(&self, sql: &'static str) -> Vec<T> {
        match sqlx::query_as(sql).fetch_all(&self.space.pool).await {
            Ok(rows) => rows,
            // The sink makes its table with its first rows.
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P01") => Vec::new(),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// How far the broker is told that the group is.
    fn told(&self) -> i64 {
        self.foreign.passed(&self.group(), &self.topic)
    }
}

/// Kills the sink's process at every place of its transaction, one after the other, and lets it go on in between.
async fn strike_everywhere(mut till: Till) {
    let insert = format!("insert into {}", till.table);
    let places = [
        (Side::Before, OFFSETS),
        (Side::After, OFFSETS),
        (Side::Before, insert.as_str()),
        (Side::After, &insert),
        (Side::Before, "COMMIT"),
        (Side::After, "COMMIT"),
    ];
    for (side, text) in places {
        till.send();
        let mut process = till.start();
        strike(&mut till.proxy, &mut process, side, text).await;
        let checked = till.check().await;
        assert_eq!(checked, Ok(()), "killed {side:?} `{text}`");
        let (stored, told) = (till.next().await.values().sum::<i64>(), till.told());
        assert!(told <= stored, "the broker is told of offset {told}, and {stored} is stored");
        assert!(side == Side::Before || text != "COMMIT" || told < stored, "it struck before the broker was told");
    }
    let mut process = till.start();
    let group = till.group();
    eventually("all is through", SOON, async || is_through(&till.foreign, &group, &till.topic)).await;
    assert!(process.stop().await.success(), "{}", process.log());
    assert_eq!(till.check().await, Ok(()));
    assert_eq!(till.next().await.into_values().sum::<i64>(), till.foreign.ends(&till.topic));
}

/// Between offsets and rows, between rows and commit, after the commit and before the broker is told; an insert
/// sink, which cannot hide a row that is written twice. Right after each kill the rows are those that the offsets cover.
/// Red when the offsets are committed in a transaction before that of the rows, or after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_sink_killed_anywhere_has_the_rows_that_its_offsets_cover() {
    strike_everywhere(Till::new(space("points_log").await, "log", "\"public\".\"log\"").await).await;
}

/// An upsert sink: each order has the last payment that the offsets cover. Red as the insert sink's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_sink_killed_anywhere_has_the_values_that_its_offsets_cover() {
    strike_everywhere(Till::new(space("points_state").await, "state", "\"public\".\"state\"").await).await;
}

/// The table of dead letters: each letter that the offsets cover is one row. Red as the insert sink's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_killed_anywhere_have_the_rows_that_their_offsets_cover() {
    strike_everywhere(Till::new(space("points_letters").await, "dead-letters", "headwater.dead_letters").await).await;
}

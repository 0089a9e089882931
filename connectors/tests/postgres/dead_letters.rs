//! The table of dead letters.

use std::sync::Arc;

use headwater::{
    Headers, Origin, TopicPartition,
    spi::{Catalogue, CommitError, CommitOutcome, Committer, Record, Row, StartFrom as Start},
};
use headwater_connectors::postgres::{LetterActions, Letters, PostgresSink};
use sqlx::{Connection, PgConnection};

use crate::harness::{Db, as_is, moves_of, outage, plain, thing, unit};

/// The delivery headers of a letter of `events.thing/3`, offset 17; more may follow.
fn sent(headers: &[(&str, &str)]) -> Headers {
    let origin = [
        ("hw_group", "fulfil"),
        ("hw_processor", "reserve"),
        ("hw_origin_topic", "events.thing"),
        ("hw_origin_partition", "3"),
        ("hw_origin_offset", "17"),
        ("hw_origin_timestamp", "1000"),
    ];
    origin.iter().chain(headers).map(|(name, value)| (*name, Some(value.as_bytes()))).collect()
}

/// A letter that failed for the reason `message` after so many redrives.
fn letter(redrives: u32, message: &str) -> Record {
    let count = redrives.to_string();
    record(sent(&[("hw_redrive_count", &count), ("hw_error_kind", "rejected"), ("hw_error_message", message)]))
}

fn marker(redrives: u32) -> Record {
    Record { value: None, ..record(sent(&[("hw_redrive_count", &redrives.to_string()), ("hw_resolved", "1")])) }
}

/// The same of another record of the topic.
fn at(offset: i64, mut record: Record) -> Record {
    record.headers.push_text("hw_origin_offset", &offset.to_string());
    record
}

fn record(headers: Headers) -> Record {
    let place = dlq(0);
    let (key, value) = (Some(b"k".to_vec()), Some(b"v".to_vec()));
    Record { topic: place.topic, partition: 0, offset: 0, timestamp_ms: 5_000, key, value, headers }
}

fn dlq(partition: i32) -> TopicPartition {
    TopicPartition::new("fulfil.dlq", partition)
}

fn rows(records: Vec<Record>) -> Vec<Row> {
    let row = |record| Row { record, data: None, ..as_is(&plain(), thing("", "")) };
    records.into_iter().map(row).collect()
}

/// The group `dead-letters`, with partitions 0 and 1 of one topic.
struct DeadLetterSink {
    sink: PostgresSink,
    next: i64,
}

impl DeadLetterSink {
    async fn new(db: &Db) -> Self {
        let mut sink = PostgresSink::of_dead_letters(&db.database, "dead-letters", Arc::new(Catalogue::default()));
        sink.start(&[dlq(0), dlq(1)]).await.unwrap();
        Self { sink, next: 0 }
    }

    async fn commit(&mut self, records: Vec<Record>) -> Result<CommitOutcome, CommitError> {
        let (from, to) = (self.next, self.next + 1);
        let unit = unit(rows(records), vec![moves_of(dlq(0), from, to), moves_of(dlq(1), from, to)]);
        let outcome = self.sink.commit(&unit).await;
        if outcome.is_ok() {
            self.next = to;
        }
        outcome
    }

    async fn write(&mut self, records: Vec<Record>) {
        assert_eq!(self.commit(records).await.unwrap(), CommitOutcome::Done);
    }

    /// Records that changed a row, and those that did not.
    fn counts(&self) -> (u64, u64) {
        let counts = self.sink.counts();
        assert_eq!(counts.deleted(), 0);
        (counts.written(), counts.superseded())
    }
}

/// `offset status count message`, of every row.
async fn stand(db: &mut Db) -> Vec<String> {
    let query = "select concat_ws(' ', origin_offset, status, redrive_count, message) s from headwater.dead_letters \
                 order by origin_offset";
    let rows = db.texts(query).await;
    rows.iter().map(|row| row[r#"{"s":""#.len()..row.len() - 2].to_owned()).collect()
}

/// Red when a column is filled with another's value, a null becomes empty, or a header is lost, reordered or merged.
#[tokio::test]
async fn a_letter_is_kept_as_it_is() {
    let mut db = Db::new("letter_as_it_is").await;
    let mut headers = sent(&[
        ("hw_attempt", "5"),
        ("hw_first_failed", "2000"),
        ("hw_error_kind", "exhausted"),
        ("hw_error_message", "no stock"),
        ("hw_error_detail", "no stock: 503"),
        ("hw_error_fingerprint", "00112233aabbccdd"),
        ("hw_redrive_count", "2"),
        ("ce_id", "e1"),
        ("ce_type", "thing.changed"),
        ("ce_correlationid", "c1"),
        ("x", "\u{1}é\"\\"),
    ]);
    headers.push("x", None);
    headers.push("x", Some(&[0xff, 0]));
    headers.push("nul", Some(b"a\0b"));
    let bytes: Vec<u8> = (0..=255).collect();
    let value = Some(bytes.clone());
    let full = Record { key: Some(Vec::new()), value, ..record(headers) };
    let bare = Record { key: None, value: None, offset: 9, partition: 1, ..record(Headers::default()) };
    let mut sink = DeadLetterSink::new(&db).await;
    sink.write(vec![full, bare]).await;
    let columns = "consumer_group, processor, event_type, kind, message, detail, fingerprint, status, attempts, \
                   redrive_count, origin_topic, origin_partition, origin_offset, edited_from, note";
    let expected = [
        r#"{"consumer_group":"fulfil","processor":"fulfil","event_type":null,"kind":"contract","message":"","detail":"","fingerprint":"","status":"open","attempts":0,"redrive_count":0,"origin_topic":"fulfil.dlq","origin_partition":1,"origin_offset":9,"edited_from":null,"note":null}"#,
        r#"{"consumer_group":"fulfil","processor":"reserve","event_type":"thing.changed","kind":"exhausted","message":"no stock","detail":"no stock: 503","fingerprint":"00112233aabbccdd","status":"open","attempts":5,"redrive_count":2,"origin_topic":"events.thing","origin_partition":3,"origin_offset":17,"edited_from":null,"note":null}"#,
    ];
    assert_eq!(
        db.texts(&format!("select {columns} from headwater.dead_letters order by origin_offset")).await,
        expected
    );
    let rest = "select event_id, correlation_id, encode(key, 'hex') k, encode(value, 'hex') v, headers, \
                extract(epoch from origin_timestamp)::int8 o, extract(epoch from first_failed_at)::int8 f, \
                extract(epoch from dead_lettered_at)::int8 d from headwater.dead_letters where origin_offset = 17";
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = r#"[{"name": "ce_id", "text": "e1"}, {"name": "ce_type", "text": "thing.changed"}, {"name": "ce_correlationid", "text": "c1"}, {"name": "x", "text": "\u0001é\"\\"}, {"name": "x"}, {"name": "x", "base64": "/wA="}, {"name": "nul", "base64": "YQBi"}]"#;
    let expected = format!(
        r#"{{"event_id":"e1","correlation_id":"c1","k":"","v":"{hex}","headers":{headers},"o":1,"f":2,"d":5}}"#
    );
    assert_eq!(db.texts(rest).await, [expected]);
    let nulls = "select count(*) from headwater.dead_letters where key is null and value is null and headers = '[]'";
    assert_eq!((db.number(nulls).await, sink.counts()), (1, (2, 0)));
}

/// Red when a place's later record is dropped, applied first, or compared with the row alone; and when a count that is
/// stored is taken from a letter that changed nothing.
#[tokio::test]
async fn records_of_one_place_apply_in_order() {
    let mut db = Db::new("letters_in_order").await;
    let mut sink = DeadLetterSink::new(&db).await;
    sink.write(vec![letter(0, "first"), letter(0, "twice"), at(18, letter(0, "other")), marker(7)]).await;
    assert_eq!(stand(&mut db).await, ["17 resolved 7 first", "18 open 0 other"]);
    assert_eq!(sink.counts(), (3, 1));
    // Across units it is the same as within one: an equal count opens what is resolved, and a lower one nothing.
    sink.write(vec![letter(6, "stale")]).await;
    assert_eq!(stand(&mut db).await[0], "17 resolved 7 first");
    sink.write(vec![letter(7, "late"), at(18, letter(1, "again")), at(18, marker(1)), at(18, letter(1, "third"))])
        .await;
    assert_eq!(stand(&mut db).await, ["17 parked 7 late", "18 open 1 third"]);
    sink.write(vec![at(18, letter(3, "still")), at(18, letter(4, "too often")), at(19, letter(4, "fresh"))]).await;
    assert_eq!(stand(&mut db).await, ["17 parked 7 late", "18 parked 4 too often", "19 parked 4 fresh"]);
    // Nobody knows what this one is about.
    sink.write(vec![at(20, marker(1))]).await;
    assert_eq!(stand(&mut db).await.len(), 3);
    assert_eq!(sink.counts(), (10, 3));
}

/// Red when the earliest first failure, the record itself or a person's note is overwritten, or the rest is not.
#[tokio::test]
async fn a_letter_that_comes_back_tells_its_last_failure() {
    let mut db = Db::new("letter_comes_back").await;
    let mut sink = DeadLetterSink::new(&db).await;
    let failed = |first: &str, kind: &str, redrives: &str, timestamp_ms| {
        let headers = [
            ("hw_first_failed", first),
            ("hw_error_kind", kind),
            ("hw_error_message", kind),
            ("hw_error_detail", kind),
            ("hw_error_fingerprint", kind),
            ("hw_attempt", redrives),
            ("hw_redrive_count", redrives),
        ];
        Record { timestamp_ms, ..record(sent(&headers)) }
    };
    sink.write(vec![failed("2000", "rejected", "0", 5_000)]).await;
    let id = db.texts("select id from headwater.dead_letters").await;
    db.sql("update headwater.dead_letters set status = 'redriven', note = 'mine'").await;
    sink.write(vec![failed("9000", "timeout", "1", 8_000)]).await;
    let query = "select status, kind, message, detail, fingerprint, attempts, redrive_count, note, encode(value, 'escape') v, \
                 extract(epoch from first_failed_at)::int8 f, extract(epoch from dead_lettered_at)::int8 d \
                 from headwater.dead_letters";
    let expected = r#"{"status":"open","kind":"timeout","message":"timeout","detail":"timeout","fingerprint":"timeout","attempts":1,"redrive_count":1,"note":"mine","v":"v","f":2,"d":8}"#;
    assert_eq!(db.texts(query).await, [expected]);
    sink.write(vec![failed("1000", "rejected", "2", 9_000)]).await;
    assert_eq!(db.number("select extract(epoch from first_failed_at)::int8 from headwater.dead_letters").await, 1);
    assert_eq!(db.texts("select id from headwater.dead_letters").await, id);
}

/// Red when what a person has closed is opened by a letter that is no news, or resolved by any marker.
#[tokio::test]
async fn what_a_person_has_closed_stays_closed() {
    for status in ["discarded", "edited"] {
        let mut db = Db::new(&format!("letters_{status}")).await;
        let mut sink = DeadLetterSink::new(&db).await;
        sink.write(vec![letter(1, "first")]).await;
        db.sql(&format!("update headwater.dead_letters set status = '{status}'")).await;
        sink.write(vec![letter(1, "late"), marker(1), marker(2), letter(0, "later")]).await;
        assert_eq!(stand(&mut db).await, [format!("17 {status} 1 first")]);
        sink.write(vec![letter(2, "news")]).await;
        assert_eq!(stand(&mut db).await, ["17 open 2 news"]);
    }
}

/// Who may write to one group's letters reaches those alone. Red when a letter's or marker's group is the one that it names.
#[tokio::test]
async fn a_letter_on_another_groups_topic_does_not_reach_the_group_that_it_names() {
    let mut db = Db::new("letters_planted").await;
    let mut sink = DeadLetterSink::new(&db).await;
    let mut other = PostgresSink::of_dead_letters(&db.database, "dead-letters", Arc::new(Catalogue::default()));
    let others = TopicPartition::new("others.dlq", 0);
    other.start(std::slice::from_ref(&others)).await.unwrap();
    sink.write(vec![letter(0, "true"), at(18, letter(0, "true"))]).await;
    // Of the group `fulfil`, as their headers say: news of the one, another failure of the other, and one of nobody.
    let planted = [marker(1), at(18, letter(5, "planted")), at(19, letter(0, "planted"))];
    let planted = planted.map(|record| Record { topic: others.topic.clone(), ..record }).to_vec();
    other.commit(&unit(rows(planted), vec![moves_of(others, 0, 1)])).await.unwrap();
    let query = "select consumer_group, origin_offset, status, message from headwater.dead_letters order by 1, 2";
    let row = |group: &str, offset: i64, status: &str, message: &str| {
        format!(r#"{{"consumer_group":"{group}","origin_offset":{offset},"status":"{status}","message":"{message}"}}"#)
    };
    let expected = [
        row("fulfil", 17, "open", "true"),
        row("fulfil", 18, "open", "true"),
        row("others", 18, "parked", "planted"),
        row("others", 19, "open", "planted"),
    ];
    assert_eq!(db.texts(query).await, expected);
}

/// Red when NUL is passed on, a time or a count leaves its column's range, a name outgrows the index, or two places that
/// become one in the table are written as two.
#[tokio::test]
async fn what_no_column_holds_is_brought_within_it() {
    let mut db = Db::new("letters_odd").await;
    let mut sink = DeadLetterSink::new(&db).await;
    let long = format!("g\0{}", "ü".repeat(5_000));
    let (far, max) = (i64::MAX.to_string(), u32::MAX.to_string());
    let odd = |offset: &str, timestamp: &str| {
        let headers = [
            ("hw_group", long.as_str()),
            ("hw_processor", &long),
            ("hw_origin_topic", &long),
            ("hw_origin_partition", "-1"),
            ("hw_origin_offset", offset),
            ("hw_origin_timestamp", timestamp),
            ("hw_first_failed", timestamp),
            ("hw_attempt", &max),
            ("hw_redrive_count", &max),
            ("hw_error_kind", "a\0b"),
            ("hw_error_message", "a\0b"),
            ("hw_error_fingerprint", "a\0b"),
            ("a\0b", "x"),
        ];
        let headers = headers.iter().map(|(name, value)| (*name, Some(value.as_bytes()))).collect();
        Record { timestamp_ms: i64::MIN, ..record(headers) }
    };
    let min = i64::MIN.to_string();
    let almost = (i64::MAX - 1).to_string();
    sink.write(vec![odd(&far, &far), odd(&far, &almost), odd(&min, &min)]).await;
    assert_eq!(sink.counts(), (2, 1));
    let query = "select consumer_group = 'fulfil' and processor = origin_topic same, octet_length(processor) l, kind, \
                 message, fingerprint, attempts, headers->0->>'name' n, origin_timestamp > now() later, \
                 dead_lettered_at < now() d from headwater.dead_letters order by origin_offset desc";
    let row = |later: bool| {
        format!(
            r#"{{"same":true,"l":256,"kind":"a�b","message":"a�b","fingerprint":"a�b","attempts":2147483647,"n":"a�b","later":{later},"d":true}}"#
        )
    };
    assert_eq!(db.texts(query).await, [row(true), row(false)]);
}

/// Red when a letter that Postgres refuses is dropped, stops the group for good, or is not named.
#[tokio::test]
async fn a_letter_that_cannot_be_kept_holds_the_group_up_until_it_can() {
    let mut db = Db::new("letters_refused").await;
    let mut sink = DeadLetterSink::new(&db).await;
    db.sql("alter table headwater.dead_letters add constraint fine check (message <> 'poison')").await;
    let batch = || vec![at(1, letter(0, "fine")), at(2, letter(0, "poison")), at(3, letter(0, "fine"))];
    for _ in 0..2 {
        let why = outage(sink.commit(batch()).await);
        for word in ["events.thing/3 offset 2 in group fulfil", "23514", "constraint `fine`"] {
            assert!(why.contains(word) && !why.contains("poison"), "{why}");
        }
    }
    assert_eq!((stand(&mut db).await, sink.counts()), (vec![], (0, 0)));
    db.sql("alter table headwater.dead_letters drop constraint fine").await;
    sink.write(batch()).await;
    assert_eq!(stand(&mut db).await.len(), 3);
    // One that is refused when it comes back is named as well; what the transaction's end refuses has no name.
    db.sql("alter table headwater.dead_letters add constraint fine check (message <> 'worse')").await;
    let why = outage(sink.commit(vec![at(1, letter(1, "fine")), at(3, letter(1, "worse"))]).await);
    assert!(why.contains("events.thing/3 offset 3"), "{why}");
    db.sql(
        "delete from headwater.dead_letters; alter table headwater.dead_letters drop constraint fine, \
         add constraint late unique (message) deferrable initially deferred",
    )
    .await;
    let why = outage(sink.commit(vec![at(4, letter(0, "same")), at(5, letter(0, "same"))]).await);
    assert!(why.contains("late"), "{why}");
}

/// Red when the missing table is no outage, or the message does not say what to run.
#[tokio::test]
async fn without_the_table_the_group_waits_for_it() {
    let mut db = Db::new("letters_no_table").await;
    let mut sink = DeadLetterSink::new(&db).await;
    db.sql("alter table headwater.dead_letters rename to gone").await;
    let why = outage(sink.commit(vec![letter(0, "x")]).await);
    assert!(why.contains("headwater topology apply"), "{why}");
    db.sql("alter table headwater.gone rename to dead_letters").await;
    sink.write(vec![letter(0, "x")]).await;
    assert_eq!(stand(&mut db).await, ["17 open 0 x"]);
}

/// Red when the offsets are those of another committer: a replaced owner's letters are kept, or a repeated unit's twice.
#[tokio::test]
async fn a_replaced_owner_keeps_nothing() {
    let mut db = Db::new("letters_fenced").await;
    let mut sink = DeadLetterSink::new(&db).await;
    assert!(sink.sink.atomic());
    let mut heir = PostgresSink::of_dead_letters(&db.database, "dead-letters", Arc::new(Catalogue::default()));
    assert_eq!(heir.start(&[dlq(1)]).await.unwrap(), [Start::Policy]);
    let records = vec![at(1, letter(0, "mine")), Record { partition: 1, ..at(2, letter(0, "not mine")) }];
    let both = unit(rows(records), vec![moves_of(dlq(0), 0, 1), moves_of(dlq(1), 0, 1)]);
    for _ in 0..2 {
        assert_eq!(sink.sink.commit(&both).await.unwrap(), CommitOutcome::Fenced(vec![dlq(1)]));
        assert_eq!((stand(&mut db).await, sink.counts()), (vec!["1 open 0 mine".to_owned()], (1, 0)));
    }
    let stray = unit(rows(vec![letter(0, "x")]), vec![moves_of(dlq(1), 0, 1)]);
    assert!(matches!(heir.commit(&stray).await, Err(CommitError::Fatal(_))), "a row without an offset in its unit");
}

/// Red when the rows of a unit are locked in the order of its records: two that meet would stand in each other's way.
/// Also red when a row that somebody puts there meanwhile is overwritten unseen, or fails the unit.
#[tokio::test]
async fn rows_are_locked_in_one_order_and_looked_at_again() {
    let mut db = Db::new("letters_locked").await;
    let mut sink = DeadLetterSink::new(&db).await;
    sink.write(vec![at(1, letter(0, "x")), at(2, letter(0, "x"))]).await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    let held = "select from headwater.dead_letters where origin_offset = 1 for update";
    sqlx::query(held).execute(&mut *tx).await.unwrap();
    // A row that the sink cannot see yet: its insert waits for it.
    let unseen = "insert into headwater.dead_letters select (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid(), \
                  'origin_offset', 3, 'status', 'redriven', 'redrive_count', 1, 'message', 'edited'))).* \
                  from headwater.dead_letters d where origin_offset = 2";
    sqlx::query(unseen).execute(&mut *tx).await.unwrap();
    let meanwhile = async {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        // It waits for the first of its places, and so holds no other one.
        let free =
            "select count(*) from (select from headwater.dead_letters where origin_offset = 2 for update nowait) f";
        assert_eq!(db.number(free).await, 1);
        tx.commit().await.unwrap();
    };
    let batch = vec![at(3, letter(1, "new")), at(2, letter(1, "new")), at(1, letter(1, "new"))];
    let (outcome, ()) = tokio::join!(sink.commit(batch), meanwhile);
    assert_eq!(outcome.unwrap(), CommitOutcome::Done);
    assert_eq!(stand(&mut db).await, ["1 open 1 new", "2 open 1 new", "3 redriven 1 edited"]);
}

/// Red when an insert that meets a row which was not there when it looked does anything but look again.
#[tokio::test]
async fn a_row_that_appears_meanwhile_is_looked_at_again() {
    let mut db = Db::new("letters_meanwhile").await;
    let mut sink = DeadLetterSink::new(&db).await;
    sink.write(vec![at(1, letter(0, "x"))]).await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    let unseen = "insert into headwater.dead_letters select (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid(), \
                  'origin_offset', 3, 'status', 'resolved', 'redrive_count', 1))).* from headwater.dead_letters d";
    sqlx::query(unseen).execute(&mut *tx).await.unwrap();
    let meanwhile = async {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        tx.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(sink.commit(vec![at(3, letter(1, "again")), at(4, letter(0, "y"))]), meanwhile);
    assert_eq!(outcome.unwrap(), CommitOutcome::Done);
    assert_eq!(stand(&mut db).await, ["1 open 0 x", "3 open 1 again", "4 open 0 y"]);
    assert_eq!(sink.counts(), (3, 0));
}

/// Red when the sink looks for the row of a record that is being edited before that is done: the news would find none.
#[tokio::test]
async fn the_news_of_an_edited_record_waits_for_its_row() {
    let mut db = Db::new("letters_edited_news").await;
    let mut sink = DeadLetterSink::new(&db).await;
    sink.write(vec![letter(0, "x")]).await;
    let id: (String,) =
        sqlx::query_as("select id::text from headwater.dead_letters").fetch_one(&mut db.conn).await.unwrap();
    let letters = Letters::of(&db.database);
    let (sent, published) = tokio::sync::oneshot::channel();
    let edit = LetterActions::of(&letters).edit(id.0.parse().unwrap(), b"mended".to_vec(), async |_| {
        sent.send(()).unwrap();
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        Ok(Origin { partition: TopicPartition::new("events.thing", 3), offset: 18, timestamp_ms: 1_000 })
    });
    // The group was quick: it has the record, and has succeeded, before its row is there.
    let news = async {
        published.await.unwrap();
        sink.commit(vec![at(18, marker(1))]).await
    };
    let (edited, kept) = tokio::join!(edit, news);
    edited.unwrap();
    assert_eq!(kept.unwrap(), CommitOutcome::Done);
    assert_eq!(stand(&mut db).await, ["17 edited 0 x", "18 resolved 1 x"]);
}

/// Red when all letters of a unit go into one statement: Postgres takes 1 GiB at most, and no connection lives through more.
#[tokio::test]
async fn large_letters_go_in_pieces() {
    let mut db = Db::new("letters_large").await;
    let mut sink = DeadLetterSink::new(&db).await;
    db.sql(
        "create table pieces (rows int8); \
         create function note() returns trigger language plpgsql as $$ begin \
         insert into pieces select count(*) from new; return null; end $$; \
         create trigger note after insert on headwater.dead_letters referencing new table as new \
         for each statement execute function note()",
    )
    .await;
    let large = |offset| Record { value: Some(vec![7; 6 << 20]), ..at(offset, letter(0, "x")) };
    let mut records: Vec<_> = (0..5).map(large).collect();
    records.push(Record { value: Some(vec![8; 20 << 20]), ..at(5, letter(0, "x")) });
    records.extend((6..50).map(|offset| at(offset, letter(0, "x"))));
    sink.write(records).await;
    assert_eq!(db.texts("select rows from pieces").await, [2, 2, 1, 1, 44].map(|rows| format!(r#"{{"rows":{rows}}}"#)));
    let sum = "select sum(octet_length(value))::int8 from headwater.dead_letters";
    assert_eq!(db.number(sum).await, 5 * (6 << 20) + (20 << 20) + 44);
}

//! Which change of a key is the last, within one batch and where an old version is sent back.

use crate::harness::{Db, Writer, at, plain, refusal, returned, row, schema, text, thing, things, tombstone};
use apache_avro::types::Value;
use headwater::{Mode, spi::CommitOutcome};

/// Red when the batch is written without choosing (Postgres refuses the statement), or the first of a key is kept.
#[tokio::test]
async fn of_one_key_only_the_last_of_a_batch_is_written() {
    let mut db = Db::new("last_of_a_batch").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    let rows = (0..10).map(|i| row(&schema, 0, i, thing(if i % 2 == 0 { "even" } else { "odd" }, &i.to_string())));
    assert_eq!(writer.commit(rows.collect()).await.unwrap(), CommitOutcome::Done);
    let stored = db.texts("select id, name, hw_offset from things order by id").await;
    assert_eq!(stored, [r#"{"id":"even","name":"8","hw_offset":8}"#, r#"{"id":"odd","name":"9","hw_offset":9}"#]);
    assert_eq!(writer.counts(), (2, 8, 0));
}

/// Red when a change is void only right before the one that outdoes it: rows of two partitions would take a statement each.
#[tokio::test]
async fn of_a_key_from_two_partitions_two_changes_of_a_batch_are_written() {
    let mut db = Db::new("two_partitions").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    let rows = (0..10).map(|i| at(i, row(&schema, (i % 2) as i32, 50 - (i % 2) * 20 + i, thing("a", &i.to_string()))));
    writer.commit(rows.collect()).await.unwrap();
    assert_eq!(db.texts("select name, hw_offset from things").await, [r#"{"name":"9","hw_offset":39}"#]);
    assert_eq!(writer.counts(), (2, 8, 0));
}

/// Red when of two rows of a key the one is left out that the other replaces: here it is the only one that replaces what is
/// stored.
#[tokio::test]
async fn a_row_that_loses_to_one_that_then_loses_is_not_lost() {
    let mut db = Db::new("loses_twice").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    writer.commit(vec![at(100, row(&schema, 1, 10, thing("p", "stored")))]).await.unwrap();
    let batch = vec![at(50, row(&schema, 0, 1, thing("p", "a"))), at(40, row(&schema, 1, 11, thing("p", "b")))];
    writer.commit(batch).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"b"}"#]);
    let batch = vec![at(39, row(&schema, 1, 12, thing("p", "c"))), at(45, row(&schema, 0, 2, thing("p", "d")))];
    writer.commit(batch).await.unwrap();
    // The newer of its partition, and then the later of the two.
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"d"}"#]);
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((mixed ^ (mixed >> 31)) >> 2).unwrap() % sides
    }

    /// A change of one of three keys of this case, of which the last is only sent back: from one of two partitions, or sent back; of one of two schemas, or none.
    fn change(&mut self, case: i64) -> headwater::spi::Row {
        let other = schema(2, r#"{"name":"id","type":"string"},{"name":"other","type":["null","string"]}"#);
        let key = self.roll(3);
        let (sent_back, number) = (key == 2 || self.roll(5) == 0, i32::try_from(self.roll(2)).unwrap());
        let (key, name) = (format!("{case:03}-{key}"), self.roll(1_000).to_string());
        // Farther than the group ever reads: of a topic that had the name before.
        let offset = self.roll(8) + if sent_back { self.roll(2) * 1_000_000 } else { 0 };
        let written = match self.roll(6) {
            0 => tombstone(number, offset, &key),
            1 => {
                let value = Value::Union(1, Box::new(text(&name)));
                row(&other, number, offset, crate::harness::record([("id", text(&key)), ("other", value)]))
            }
            _ => row(&plain(), number, offset, thing(&key, &name)),
        };
        let written = at(self.roll(8), written);
        if sent_back { returned(0, written) } else { written }
    }
}

/// The promise of the guard, whatever a batch holds, and also where its topic was created anew: then a part of it was sent
/// back from either. Red when a change is left out for a later one that does not outdo it (an offset, a time, a partition or
/// the topic's id is not looked at), that one in between is not covered by, or that lacks its columns.
#[tokio::test]
async fn a_batch_comes_to_what_its_changes_come_to_one_by_one() {
    let (mut together, mut alone) = (Db::new("in_batches").await, Db::new("one_by_one").await);
    for db in [&mut together, &mut alone] {
        db.sql("create table things (id text primary key, name text, other text)").await;
    }
    let sink = || things().delete();
    let mut dice = Dice(11);
    let mut batches = Writer::told(&together, sink(), "first").await;
    let mut singles = Writer::told(&alone, sink(), "first").await;
    for case in 0..140 {
        if case == 70 {
            batches = Writer::anew(&together, sink(), "second").await;
            singles = Writer::anew(&alone, sink(), "second").await;
        }
        while batches.next < 10 || singles.next < 10 {
            batches.commit(Vec::new()).await.unwrap();
            singles.commit(Vec::new()).await.unwrap();
        }
        let early = if case < 70 { case + 70 } else { case };
        let mut unit = |case, changes: i64| (0..changes).map(|_| dice.change(case)).collect::<Vec<_>>();
        for unit in [unit(early, 2), unit(case, 7)] {
            for one in &unit {
                singles.commit(vec![one.clone()]).await.unwrap();
            }
            batches.commit(unit).await.unwrap();
        }
    }
    let all = "select id, name, other, hw_topic_id, hw_partition, hw_offset, hw_event_time from things order by id";
    let (found, expected) = (together.texts(all).await, alone.texts(all).await);
    let from = |topic: &str| expected.iter().filter(|row| row.contains(topic)).count();
    let counts = ["first", "second", "unknown"].map(from);
    assert!(counts[0] > 50 && counts[1] > 50 && counts[2] > 2, "{counts:?}");
    assert!(found == expected, "{:?}", found.iter().zip(&expected).find(|(found, expected)| found != expected));
}

/// Red when the statement lacks its guard, or the guard compares with `<=`.
#[tokio::test]
async fn a_late_offset_is_superseded() {
    let mut db = Db::new("late_offset").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 50, thing("a", "new"))]).await.unwrap();
    // Its event time is later, but that decides only between partitions.
    writer.commit(vec![at(9_999, row(&schema, 0, 10, thing("a", "old")))]).await.unwrap();
    writer.commit(vec![row(&schema, 0, 50, thing("a", "again"))]).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"new"}"#]);
    assert_eq!(writer.counts(), (1, 2, 0));
    writer.commit(vec![at(1, row(&schema, 0, 51, thing("a", "newer")))]).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"newer"}"#]);
}

/// Red when the partition is left out of the guard, or an equal event time does not count as "not later".
#[tokio::test]
async fn between_partitions_the_event_time_decides() {
    let mut db = Db::new("between_partitions").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    writer.commit(vec![at(100, row(&schema, 0, 50, thing("a", "first")))]).await.unwrap();
    writer.commit(vec![at(99, row(&schema, 1, 70, thing("a", "earlier")))]).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"first"}"#]);
    writer.commit(vec![at(100, row(&schema, 1, 3, thing("a", "as late")))]).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"as late"}"#]);
    // The same within one batch: the later of the two stays, whichever comes first.
    let both = vec![at(300, row(&schema, 1, 4, thing("a", "late"))), at(200, row(&schema, 0, 51, thing("a", "early")))];
    writer.commit(both).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"late"}"#]);
    assert_eq!(writer.counts(), (3, 2, 0));
}

/// Red when deletes lack the guard, or are run in another order than they came.
#[tokio::test]
async fn a_tombstone_deletes_what_is_older() {
    let mut db = Db::new("tombstones").await;
    let mut writer = Writer::new(&db, things().delete()).await;
    let schema = plain();
    // Before the table is there, a tombstone has nothing to do.
    writer.commit(vec![tombstone(0, 0, "a")]).await.unwrap();
    let three = ["a", "b", "c"].iter().zip(1..).map(|(id, offset)| row(&schema, 0, offset, thing(id, "x")));
    writer.commit(three.collect()).await.unwrap();
    let unit =
        vec![tombstone(0, 10, "a"), tombstone(0, 2, "b"), tombstone(0, 11, "c"), row(&schema, 0, 12, thing("c", "y"))];
    writer.commit(unit).await.unwrap();
    // `a` went, `b`'s tombstone was not newer, `c` went and came back within the batch.
    let stored = db.texts("select id, name from things order by id").await;
    assert_eq!(stored, [r#"{"id":"b","name":"x"}"#, r#"{"id":"c","name":"y"}"#]);
    assert_eq!(writer.counts(), (4, 1, 2));
    writer
        .commit(vec![row(&schema, 0, 13, thing("d", "z")), tombstone(0, 14, "d"), tombstone(0, 15, "nobody")])
        .await
        .unwrap();
    assert_eq!(db.number("select count(*) from things where id = 'd'").await, 0);
    let mut keyless = tombstone(0, 16, "");
    keyless.record.key = None;
    assert!(refusal(writer.commit(vec![keyless]).await).contains("without a key"));
}

/// Red when the record's key is bound as text, or its bytes differ from those of the same key in a record.
#[tokio::test]
async fn a_tombstone_finds_keys_of_other_types() {
    let mut db = Db::new("tombstone_types").await;
    let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    let kinds = [
        (r#""long""#, Value::Long(-7), "-7", "seven"),
        (r#"{"type":"string","logicalType":"uuid"}"#, Value::Uuid(uuid.parse().unwrap()), uuid, "no-uuid"),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}"#,
            Value::Decimal(vec![0x30, 0x34].into()),
            "123.4",
            "not-a-number",
        ),
    ];
    for (i, (kind, key, written, unreadable)) in (0..).zip(kinds) {
        let schema = schema(10 + i, &format!(r#"{{"name":"id","type":{kind}}}"#));
        let sink = headwater::Sink { table: format!("things{i}"), ..things().delete() };
        let mut writer = Writer::new(&db, sink).await;
        let keyed = |offset| row(&schema, 0, offset, crate::harness::record([("id", key.clone())]));
        writer.commit(vec![keyed(1)]).await.unwrap();
        // Within one batch the tombstone and the record must be seen to have the same key.
        writer.commit(vec![tombstone(0, 2, written), keyed(3)]).await.unwrap();
        assert_eq!(db.number(&format!("select count(*) from things{i}")).await, 1, "{kind}");
        writer.commit(vec![tombstone(0, 4, written)]).await.unwrap();
        assert_eq!(db.number(&format!("select count(*) from things{i}")).await, 0, "{kind}");
        assert_eq!(writer.counts(), (2, 0, 2), "{kind}");
        let why = refusal(writer.commit(vec![tombstone(0, 5, unreadable)]).await);
        assert!(why.contains("key") && !why.contains(unreadable), "{why}");
    }
}

/// Red when an insert sink chooses by key or has a conflict clause.
#[tokio::test]
async fn an_insert_sink_writes_every_record() {
    let mut db = Db::new("insert_sink").await;
    let mut sink = things();
    sink.mode = Mode::Insert;
    let mut writer = Writer::new(&db, sink).await;
    let schema = plain();
    writer.commit((0..5).map(|i| row(&schema, 0, i, thing("same", "x"))).collect()).await.unwrap();
    assert_eq!(db.number("select count(distinct hw_offset) from things").await, 5);
    assert_eq!(writer.counts(), (5, 0, 0));
}

/// Red when a row that was sent back is written unguarded, or without its origin.
#[tokio::test]
async fn an_old_version_that_was_sent_back_does_not_replace_the_newer() {
    let mut db = Db::new("sent_back").await;
    let mut writer = Writer::new(&db, things().delete()).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 50, thing("a", "newer"))]).await.unwrap();
    // Its place on the redrive topic is past that of the newer one, and its time is later, which does not count.
    let old = |id: &str| at(9_999, returned(70, row(&schema, 0, 10, thing(id, "old"))));
    writer.commit(vec![old("a"), old("b"), returned(71, tombstone(0, 11, "a"))]).await.unwrap();
    let stored = db.texts("select id, name, hw_topic, hw_partition, hw_offset from things order by id").await;
    let expected = [
        r#"{"id":"a","name":"newer","hw_topic":"events.thing","hw_partition":0,"hw_offset":50}"#,
        r#"{"id":"b","name":"old","hw_topic":"events.thing","hw_partition":0,"hw_offset":10}"#,
    ];
    assert_eq!(stored, expected);
    assert_eq!(writer.counts(), (2, 2, 0));
    writer.commit(vec![returned(72, row(&schema, 0, 51, thing("a", "newest")))]).await.unwrap();
    assert_eq!(db.texts("select name from things where id = 'a'").await, [r#"{"name":"newest"}"#]);
}

/// Red when a record that was sent back twice is written twice, in one batch or in two, or when one that was not is
/// looked up like it.
#[tokio::test]
async fn an_insert_sink_writes_what_was_sent_back_once() {
    let mut db = Db::new("sent_back_insert").await;
    let mut writer = Writer::new(&db, things().insert()).await;
    let schema = plain();
    // A table that is there may have rows that no sink wrote.
    db.sql("create table things (name text, id text); insert into things values ('mine', 'mine')").await;
    let back = |offset, of: i64| returned(offset, row(&schema, 0, of, thing(&format!("o{of}"), "back")));
    writer.commit(vec![row(&schema, 0, 3, thing("o3", "x")), back(1, 3), back(2, 4), back(3, 4)]).await.unwrap();
    assert_eq!(writer.counts(), (2, 2, 0));
    writer.commit(vec![back(4, 4), back(5, 3), back(6, 5)]).await.unwrap();
    assert_eq!(writer.counts(), (3, 4, 0));
    let stored = "select id, name from things where hw_topic = 'events.thing' and hw_partition = 0 order by hw_offset";
    let expected = ["o3:x", "o4:back", "o5:back"].map(|row| {
        let (id, name) = row.split_once(':').unwrap();
        format!(r#"{{"id":"{id}","name":"{name}"}}"#)
    });
    assert_eq!(db.texts(stored).await, expected);
    // What is read from its own place again is written again: somebody has set the group back.
    writer.commit(vec![row(&schema, 0, 3, thing("o3", "anew"))]).await.unwrap();
    assert_eq!(db.number("select count(*) from things where hw_offset = 3").await, 2);
    // Another record at the same offset of another partition, and one that has just been edited, are not the same.
    let edited = {
        let mut row = returned(7, row(&schema, 0, 5, thing("edited", "x")));
        let mut meta = (*row.meta).clone();
        (meta.origin.partition, meta.origin.offset) = (row.record.place(), 7);
        row.meta = std::sync::Arc::new(meta);
        row
    };
    writer.commit(vec![returned(8, row(&schema, 1, 4, thing("other", "x"))), edited]).await.unwrap();
    assert_eq!(db.number("select count(*) from things where id in ('other', 'edited')").await, 2);
}

/// Red when a key is compared by a text that the same number has not always.
#[tokio::test]
async fn a_number_is_one_key_however_it_is_written() {
    let mut db = Db::new("number_key").await;
    let big = |text: &str| {
        let digits: Vec<u8> = if text == "1.5" { vec![15] } else { vec![0, 150] };
        Value::Decimal(digits.into())
    };
    let kind = |scale| {
        format!(r#"{{"name":"id","type":{{"type":"bytes","logicalType":"decimal","precision":9,"scale":{scale}}}}}"#)
    };
    let (one, two) = (schema(20, &kind(1)), schema(21, &kind(2)));
    db.sql("create table things (id numeric primary key)").await;
    let mut writer = Writer::new(&db, things()).await;
    let rows = vec![
        row(&one, 0, 1, crate::harness::record([("id", big("1.5"))])),
        row(&two, 0, 2, crate::harness::record([("id", big("1.50"))])),
    ];
    writer.commit(rows).await.unwrap();
    assert_eq!(db.number("select count(*) from things").await, 1);
}

/// Red when keys that only the database takes for one are refused, wait for ever, or come in another order than theirs. Red
/// too when the rows are written one by one for ever after.
#[tokio::test]
async fn keys_that_are_one_to_the_database_alone_are_written_one_after_the_other() {
    let mut db = Db::new("one_to_the_database").await;
    db.sql(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         create table things (id text collate ci primary key, name text)",
    )
    .await;
    let mut writer = Writer::new(&db, things().delete()).await;
    let schema = plain();
    let rows = ["b", "A", "a", "B", "c"].into_iter().zip(0..);
    let rows: Vec<_> = rows.map(|(id, offset)| row(&schema, 0, offset, thing(id, &offset.to_string()))).collect();
    writer.commit(rows).await.unwrap();
    let stored = db.texts("select id, name from things order by id").await;
    let expected = [r#"{"id":"A","name":"2"}"#, r#"{"id":"b","name":"3"}"#, r#"{"id":"c","name":"4"}"#];
    assert_eq!(stored, expected);
    assert_eq!(writer.counts(), (5, 0, 0));
    // Between partitions of the same time the last one stays, also where it is another spelling.
    let both = vec![at(9, row(&schema, 1, 5, thing("C", "first"))), at(9, row(&schema, 0, 9, thing("c", "last")))];
    writer.commit(both).await.unwrap();
    assert_eq!(db.texts("select name from things where id = 'c'").await, [r#"{"name":"last"}"#]);
    // A batch without such keys is one statement again.
    writer.commit((10..13).map(|i| row(&schema, 0, i, thing(&format!("d{i}"), "x"))).collect()).await.unwrap();
    assert_eq!(
        db.number("select count(distinct (xmin::text, cmin::text)) from things where id like 'd1%' collate \"C\"")
            .await,
        1
    );
}

/// Red when a key that is longer than a B-tree's page takes is left for Postgres to choke on, or a null one, which a
/// unique index lets in any number of times.
#[tokio::test]
async fn a_record_without_a_usable_key_is_refused() {
    let mut db = Db::new("no_key").await;
    db.sql("create table things (id text unique, name text)").await;
    let mut writer = Writer::new(&db, things()).await;
    let nullable = schema(30, r#"{"name":"id","type":["null","string"]},{"name":"name","type":"string"}"#);
    let long = Value::Union(1, Box::new(text(&"x".repeat(3_000))));
    for (id, word) in [(Value::Union(0, Box::new(Value::Null)), "null"), (long, "longer")] {
        let value = crate::harness::record([("id", id), ("name", text("secret"))]);
        let why = refusal(writer.commit(vec![row(&nullable, 0, 1, value)]).await);
        assert!(why.contains(word) && !why.contains("secret"), "{why}");
    }
    let other = schema(31, r#"{"name":"name","type":"string"}"#);
    let why = refusal(writer.commit(vec![row(&other, 0, 1, crate::harness::record([("name", text("x"))]))]).await);
    assert!(why.contains("`id`"), "{why}");
    // The others of the group go on.
    writer.commit(vec![row(&plain(), 0, 2, thing("a", "x"))]).await.unwrap();
}

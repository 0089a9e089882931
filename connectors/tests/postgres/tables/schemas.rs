//! Whose schema counts for a table, and what a foreign topic's next schema does to it.

use std::sync::Arc;

use apache_avro::types::Value;
use headwater::{
    TopicPartition,
    spi::{CommitError, CommitOutcome, Committer as _, DeadLetterKind, Row, codec::WriterSchema},
};
use headwater_connectors::postgres::{Config, PostgresSink};

use crate::harness::{Db, Writer, moves, outage, partition, plain, record, row, schema, text, thing, things, unit};

/// The same record, where it first stood on somebody else's topic.
fn of(topic: &str, mut row: Row) -> Row {
    let mut meta = (*row.meta).clone();
    meta.origin.partition = TopicPartition::new(topic, meta.origin.partition.partition);
    row.meta = Arc::new(meta);
    row
}

fn shop(row: Row) -> Row {
    of("shop", row)
}

/// What a unit's refused rows are: place and sentence of each, all of the kind `contract`.
fn foreign(outcome: Result<CommitOutcome, CommitError>) -> Vec<(usize, String)> {
    match outcome {
        Err(CommitError::RefusedRows(rows)) => rows
            .into_iter()
            .map(|one| {
                assert_eq!(one.kind, DeadLetterKind::Contract, "{}", one.why);
                (one.row, one.why)
            })
            .collect(),
        other => panic!("not refused: {other:?}"),
    }
}

/// A record of this name and these fields.
fn named(id: u32, name: &str, fields: &str) -> Arc<WriterSchema> {
    let text = format!(r#"{{"type":"record","name":"{name}","namespace":"test","fields":[{fields}]}}"#);
    WriterSchema::parse(id, &text, &[]).unwrap()
}

const COLUMNS: &str = "select string_agg(attname || ' ' || format_type(atttypid, atttypmod) || case when attnotnull then '!' else '' end, \
                       ', ' order by attname) c from pg_attribute where attrelid = 'things'::regclass and attnum > 0 \
                       and not attisdropped and attname not like 'hw_%'";

/// Columns with their types, sorted; what must not be null has a `!`.
async fn columns(db: &mut Db) -> String {
    let found = db.texts(COLUMNS).await.remove(0);
    found.trim_start_matches(r#"{"c":""#).trim_end_matches(r#""}"#).to_owned()
}

/// Red when a record of another name, or of a schema that is no version of the table's, becomes a row, alters the table, holds up
/// its neighbours, is a letter of another kind, or is taken by the next process because nobody remembers.
#[tokio::test]
async fn a_record_of_another_schema_is_put_aside_and_alters_nothing() {
    let mut db = Db::new("foreign_schema").await;
    let id = r#"{"name":"id","type":"string"}"#;
    let elsewhere = r#"{"type":"record","name":"Thing","namespace":"elsewhere","fields":[FIELDS]}"#
        .replace("FIELDS", &format!(r#"{id},{{"name":"planet","type":"string","default":""}}"#));
    let strangers = [
        (named(21, "Planet", &format!(r#"{id},{{"name":"planet","type":"string"}}"#)), "`test.Planet`", text("x")),
        (named(22, "Thing", &format!(r#"{id},{{"name":"planet","type":"string"}}"#)), "not compatible", text("x")),
        (
            named(23, "Thing", r#"{"name":"id","type":"long"},{"name":"planet","type":"string"}"#),
            "`id`",
            Value::Long(1),
        ),
        // It could be a version of the same, but for its namespace.
        (WriterSchema::parse(24, &elsewhere, &[]).unwrap(), "`elsewhere.Thing`", text("x")),
    ];
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![shop(row(&plain(), 0, 0, thing("first", "x")))]).await.unwrap();
    let before = columns(&mut db).await;
    for (offset, (stranger, words, key)) in (1..).zip(strangers) {
        let stranger =
            |offset| shop(row(&stranger, 0, offset, record([("id", key.clone()), ("planet", text("Mars"))])));
        let own = |offset, id: &str| shop(row(&plain(), 0, offset, thing(id, "x")));
        let unit = vec![own(10 * offset, "a"), stranger(10 * offset + 1), own(10 * offset + 2, "b")];
        for _ in 0..2 {
            let refused = foreign(writer.commit(unit.clone()).await);
            assert!(refused.len() == 1 && refused[0].0 == 1 && refused[0].1.contains(words), "{refused:?}");
            // Another process has not seen any of the table's own records yet.
            writer = Writer::new(&db, things()).await;
        }
        let refused = foreign(writer.commit(vec![unit[1].clone()]).await);
        assert_eq!(refused[0].0, 0);
        writer.commit(vec![unit[0].clone(), unit[2].clone()]).await.unwrap();
    }
    assert_eq!((columns(&mut db).await, db.number("select count(*) from things").await), (before, 3));
}

/// Red when versions must all fit the first one, an old record is refused after newer ones, another topic's record is held against
/// the first topic's, or one that was edited is not held against any.
#[tokio::test]
async fn the_versions_of_a_topics_schema_are_all_its_own() {
    let mut db = Db::new("versions").await;
    let field = |name: &str, default: bool| {
        format!(r#"{{"name":"{name}","type":"string"{}}}"#, if default { r#","default":"?""# } else { "" })
    };
    let version = |id, fields: &[String]| schema(id, &fields.join(","));
    let key = || field("id", false);
    let one = version(1, &[key(), field("a", false)]);
    let two = version(2, &[key(), field("a", true), field("b", true)]);
    // Against the first alone this one would not do.
    let three = version(3, &[key(), field("b", false)]);
    let of_a = |offset, id: &str| shop(row(&one, 0, offset, record([("id", text(id)), ("a", text("a"))])));
    let of_ab =
        |offset, id: &str| shop(row(&two, 0, offset, record([("id", text(id)), ("a", text("a")), ("b", text("b"))])));
    let of_b = |offset, id: &str| shop(row(&three, 0, offset, record([("id", text(id)), ("b", text("b"))])));
    for rows in [vec![of_a(0, "1")], vec![of_ab(1, "2")], vec![of_b(2, "3"), of_a(3, "4"), of_ab(4, "5")]] {
        let mut writer = Writer::new(&db, things()).await;
        assert_eq!(writer.commit(rows).await.unwrap(), CommitOutcome::Done);
    }
    // Only the older reads what this one writes.
    let four = version(4, &[key(), field("b", false), field("c", false)]);
    let of_bc = record([("id", text("4")), ("b", text("b")), ("c", text("c"))]);
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(writer.commit(vec![shop(row(&four, 0, 5, of_bc))]).await.unwrap(), CommitOutcome::Done);
    let other = named(9, "Ware", &format!("{},{}", key(), field("b", false)));
    let ware =
        |topic: &str, offset, id: &str| of(topic, row(&other, 0, offset, record([("id", text(id)), ("b", text("b"))])));
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(foreign(writer.commit(vec![ware("shop", 6, "6"), ware("things.redrive", 6, "7")]).await).len(), 2);
    writer.commit(vec![ware("depot", 7, "8"), of_b(8, "9")]).await.unwrap();
    writer.commit(vec![ware("things.redrive", 9, "10")]).await.unwrap();
    assert_eq!(foreign(writer.commit(vec![ware("shop", 10, "11")]).await).len(), 1);
    assert_eq!(db.number("select count(*) from things").await, 8);
}

/// What a person says of his table is his own. Fails where it makes the sink forget what the rows are made from, or is lost; where
/// what he says of our column breaks ours; or where what a sink once wrote into the table's comment is not read any more.
#[tokio::test]
async fn a_persons_comment_stays_and_nothing_is_forgotten() {
    let mut db = Db::new("comment").await;
    let note = "select col_description('things'::regclass, attnum) c from pg_attribute \
                where attrelid = 'things'::regclass and attname = 'hw_topic'";
    let said = "select obj_description('things'::regclass) c";
    let stranger = named(7, "Planet", r#"{"name":"id","type":"string"}"#);
    let stranger = |offset| shop(row(&stranger, 0, offset, record([("id", text("c"))])));
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![shop(row(&plain(), 0, 0, thing("a", "x")))]).await.unwrap();
    db.sql("comment on table things is 'mine'").await;
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(foreign(writer.commit(vec![stranger(1)]).await).len(), 1);
    assert_eq!(db.texts(said).await, [r#"{"c":"mine"}"#]);
    // Where a sink kept it before, and what a person has said of the column.
    db.sql(
        r"do $$ declare note text := (select col_description('things'::regclass, attnum) from pg_attribute
             where attrelid = 'things'::regclass and attname = 'hw_topic');
          begin execute format('comment on table things is %L', note); end $$;
          comment on column things.hw_topic is E'it''s \\ mine\nand hers'",
    )
    .await;
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(foreign(writer.commit(vec![stranger(1)]).await).len(), 1);
    let odd = named(
        2,
        r"Thing",
        r#"{"name":"id","type":"string","doc":"it's a \\ \"key\""},{"name":"name","type":"string"}"#,
    );
    writer.commit(vec![shop(row(&odd, 0, 1, thing("b", "x")))]).await.unwrap();
    db.sql("comment on table things is null").await;
    let comment = db.texts(note).await.remove(0);
    assert!(comment.contains(r"it's \\ mine\nand hers\nheadwater: {"), "{comment}");
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(foreign(writer.commit(vec![stranger(2)]).await).len(), 1);
    assert_eq!(db.texts(note).await, [comment]);
}

/// Whoever edits a letter writes what he likes. Fails where a record that was edited makes or alters a table, or holds up the
/// group where it does not fit.
#[tokio::test]
async fn a_record_that_was_edited_changes_no_table() {
    let mut db = Db::new("edited").await;
    let id = r#"{"name":"id","type":"string"}"#;
    let planet = schema(2, &format!(r#"{id},{{"name":"name","type":"string"}},{{"name":"planet","type":"string"}}"#));
    let of_planet = record([("id", text("b")), ("name", text("x")), ("planet", text("Mars"))]);
    let number = schema(3, &format!(r#"{id},{{"name":"name","type":"long"}}"#));
    let less = schema(4, id);
    let edited = |row: Row| vec![of("things.redrive", row)];
    let unfit = [
        row(&planet, 0, 1, of_planet),
        row(&number, 0, 2, record([("id", text("c")), ("name", Value::Long(1))])),
        // Of which a column need not be there any more.
        row(&less, 0, 3, record([("id", text("d"))])),
    ];
    let mut writer = Writer::new(&db, things()).await;
    for row in &unfit {
        assert!(foreign(writer.commit(edited(row.clone())).await)[0].1.contains("changes no table"));
    }
    assert_eq!(db.number("select count(*) from pg_tables where tablename = 'things'").await, 0);
    writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await.unwrap();
    for row in unfit {
        let why = foreign(writer.commit(edited(row)).await).remove(0).1;
        assert!(why.contains("changes no table"), "{why}");
    }
    assert_eq!(columns(&mut db).await, "id text!, name text!");
    writer.commit(edited(row(&plain(), 0, 4, thing("a", "y")))).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"y"}"#]);
}

/// Red when a table that is somebody else's is commented on, or a stranger is taken there although the process has seen its own,
/// over another connection or the same.
#[tokio::test]
async fn of_a_table_that_is_not_its_own_a_sink_remembers_while_it_runs() {
    let mut db = Db::new("not_own").await;
    db.sql(
        "do $$ begin create role t_not_own login; exception when duplicate_object then null; end $$; \
         create table things (id text primary key, name text)",
    )
    .await;
    PostgresSink::apply_table(&db.database, &things(), &plain()).await.unwrap();
    db.sql(
        "grant usage on schema headwater, public to t_not_own; \
         grant select, insert, update on headwater.consumer_offsets, things to t_not_own",
    )
    .await;
    let database = Config::new(db.url.replace("headwater@", "t_not_own@")).connect().await.unwrap();
    let mut writer = Writer::on(&database, things()).await;
    writer.commit(vec![shop(row(&plain(), 0, 0, thing("a", "x")))]).await.unwrap();
    let stranger = named(7, "Planet", r#"{"name":"id","type":"string"}"#);
    let stranger = |partition| shop(row(&stranger, partition, 2, record([("id", text("c"))])));
    assert_eq!(foreign(writer.commit(vec![stranger(0)]).await).len(), 1);
    let mut sinks = PostgresSink::several(&database, "others", things(), 2).unwrap();
    for (number, sink) in (0..).zip(&mut sinks) {
        sink.start(&[partition(number)]).await.unwrap();
    }
    let own = shop(row(&plain(), 0, 0, thing("a", "x")));
    sinks[0].commit(&unit(vec![own], vec![moves(0, 0, 1)])).await.unwrap();
    assert_eq!(foreign(sinks[1].commit(&unit(vec![stranger(1)], vec![moves(1, 0, 3)])).await).len(), 1);
    let comments = "select count(*) from pg_description where objoid = 'things'::regclass";
    assert_eq!(db.number(comments).await, 0);
}

/// What a person may not be asked to do: Confluent's default lets a field go away or become optional. Red when a column that we made
/// `not null` stays so, or one that a person made so does not.
#[tokio::test]
async fn what_we_made_not_null_is_so_no_longer_where_the_records_need_not_have_it() {
    let mut db = Db::new("not_null").await;
    let string = |name: &str| format!(r#"{{"name":"{name}","type":"string"}}"#);
    let optional = |name: &str| format!(r#"{{"name":"{name}","type":["null","string"],"default":null}}"#);
    let one = schema(1, &[string("id"), string("a"), string("b"), string("c"), optional("d")].join(","));
    let two = schema(2, &[string("id"), optional("a"), string("c"), optional("d")].join(","));
    let null = || Value::Union(0, Box::new(Value::Null));
    let some = |value: &str| Value::Union(1, Box::new(text(value)));
    let first = |offset| {
        let fields = [("id", text("1")), ("a", text("a")), ("b", text("b")), ("c", text("c")), ("d", some("d"))];
        shop(row(&one, 0, offset, record(fields)))
    };
    let second = |offset, d: Value| {
        shop(row(&two, 0, offset, record([("id", text("2")), ("a", null()), ("c", text("c")), ("d", d)])))
    };
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![first(0)]).await.unwrap();
    assert_eq!(columns(&mut db).await, "a text!, b text!, c text!, d text, id text!");
    // A person wants more than the schema says, and is told where that cannot be had.
    db.sql("alter table things alter d set not null").await;
    let by_hand = headwater::Sink { evolve: false, ..things() };
    let why = outage(Writer::new(&db, by_hand).await.commit(vec![second(1, some("d"))]).await);
    assert!(why.contains(r#"run alter table "public"."things" alter column "a" drop not null; alter table"#), "{why}");
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![second(1, some("d"))]).await.unwrap();
    assert_eq!(columns(&mut db).await, "a text, b text, c text!, d text!, id text!");
    assert!(crate::harness::refusal(writer.commit(vec![second(2, null())]).await).contains("`d`"));
    // What he sets again is his.
    db.sql("update things set b = 'b'; alter table things alter b set not null").await;
    let mut writer = Writer::new(&db, things()).await;
    let why = outage(writer.commit(vec![second(3, some("d"))]).await);
    assert!(why.contains("`b` of public.things must not be null") && why.contains("drop not null"), "{why}");
    assert_eq!(columns(&mut db).await, "a text, b text!, c text!, d text!, id text!");
    db.sql("alter table things alter b set default '?'").await;
    writer.commit(vec![second(3, some("d"))]).await.unwrap();
    // The same where he has dropped it himself.
    db.sql("alter table things alter c drop not null").await;
    Writer::new(&db, things()).await.commit(vec![second(4, some("d"))]).await.unwrap();
    db.sql("alter table things alter c set not null").await;
    let three = schema(3, &[string("id"), optional("d")].join(","));
    let third = shop(row(&three, 0, 5, record([("id", text("3")), ("d", some("d"))])));
    let why = outage(Writer::new(&db, things()).await.commit(vec![third]).await);
    assert!(why.contains("`c` of public.things must not be null"), "{why}");
    assert_eq!(
        db.texts("select id, a, b, d from things where id = '2'").await,
        [r#"{"id":"2","a":null,"b":"b","d":"d"}"#]
    );
}

/// Red when a wider decimal pauses the group, the table is written anew for it, or where it would have to be nobody is told.
#[tokio::test]
async fn a_wider_type_widens_its_column_where_the_server_can_at_once() {
    let mut db = Db::new("wider").await;
    let of = |id, amount: (u32, u32), count: &str, share: &str| {
        let (precision, scale) = amount;
        schema(
            id,
            &format!(
                r#"{{"name":"id","type":"string"}},{{"name":"amount","type":{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":{scale}}}}},
                   {{"name":"count","type":"{count}"}},{{"name":"share","type":"{share}"}}"#
            ),
        )
    };
    let fields = |count, share| {
        record([
            ("id", text("1")),
            ("amount", Value::Decimal(vec![0x30, 0x39].into())),
            ("count", count),
            ("share", share),
        ])
    };
    let (int, float) = (Value::Int(1), Value::Float(0.5));
    let mut writer = Writer::new(&db, things()).await;
    let one = of(1, (6, 2), "int", "float");
    writer.commit(vec![shop(row(&one, 0, 0, fields(int.clone(), float.clone())))]).await.unwrap();
    let file = db.number("select pg_relation_filenode('things')::int8").await;
    let two = of(2, (9, 2), "int", "float");
    let second = |offset| shop(row(&two, 0, offset, fields(int.clone(), float.clone())));
    let by_hand = headwater::Sink { evolve: false, ..things() };
    let why = outage(Writer::new(&db, by_hand).await.commit(vec![second(1)]).await);
    assert!(why.contains(r#"run alter table "public"."things" alter column "amount" type numeric(9,2)"#), "{why}");
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![second(1)]).await.unwrap();
    assert_eq!(columns(&mut db).await, "amount numeric(9,2)!, count integer!, id text!, share real!");
    assert_eq!(db.number("select pg_relation_filenode('things')::int8").await, file, "not written anew");
    // Where it must be, that is a person's hour to choose.
    for (id, (amount, count, share), value, alter) in [
        (3, ((9, 2), "long", "float"), fields(Value::Long(1), float.clone()), r#"alter column "count" type int8"#),
        (
            4,
            ((9, 2), "long", "double"),
            fields(Value::Long(1), Value::Double(0.5)),
            r#"alter column "share" type float8"#,
        ),
        (
            5,
            ((9, 4), "long", "double"),
            fields(Value::Long(1), Value::Double(0.5)),
            r#"alter column "amount" type numeric(11,4)"#,
        ),
    ] {
        let newer = of(id, amount, count, share);
        let next = || vec![shop(row(&newer, 0, i64::from(id), value.clone()))];
        let why = outage(writer.commit(next()).await);
        assert!(why.contains(alter) && why.contains("writes the whole table anew"), "{why}");
        db.sql(&format!("alter table things {alter}")).await;
        writer.commit(next()).await.unwrap();
    }
    // Rows of the first version still go in.
    writer.commit(vec![shop(row(&one, 0, 6, fields(int, float)))]).await.unwrap();
    assert_eq!(db.texts("select hw_offset from things").await, [r#"{"hw_offset":6}"#]);
}

/// A unit has a record of a newer schema, for which the table is changed, and a stranger. Red when the table is not read again
/// because the stranger is put aside first: what the column can hold now is refused.
#[tokio::test]
async fn a_table_that_is_changed_beside_a_stranger_is_known_as_it_is_now() {
    let mut db = Db::new("beside").await;
    let amount = r#"{"name":"id","type":"string"},{"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":PRECISION,"scale":2}}"#;
    let of = |id, precision: &str| schema(id, &amount.replace("PRECISION", precision));
    let worth = |cents: i32| record([("id", text("1")), ("amount", Value::Decimal(cents.to_be_bytes().into()))]);
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![shop(row(&of(1, "6"), 0, 0, worth(12_345)))]).await.unwrap();
    let wide = shop(row(&of(2, "9"), 0, 1, worth(123_456_789)));
    let stranger = named(7, "Planet", r#"{"name":"id","type":"string"}"#);
    let stranger = shop(row(&stranger, 0, 2, record([("id", text("c"))])));
    assert_eq!(foreign(writer.commit(vec![wide.clone(), stranger]).await).len(), 1);
    assert_eq!(writer.commit(vec![wide]).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.texts("select amount::text c from things").await, [r#"{"c":"1234567.89"}"#]);
}

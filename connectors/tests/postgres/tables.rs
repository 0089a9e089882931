//! Tables made, changed, and found as they are.

mod columns;
mod schemas;

use crate::harness::{Db, Writer, outage, plain, record, row, schema, text, thing, things};
use apache_avro::types::Value;
use headwater::spi::CommitOutcome;
use headwater_connectors::postgres::{Config, PostgresError, PostgresSink, migrate, pending_migrations};

/// A second version of [`plain`], with an optional `email`.
fn second() -> std::sync::Arc<headwater::spi::codec::WriterSchema> {
    schema(
        2,
        r#"{"name":"id","type":"string"},{"name":"name","type":"string"},{"name":"email","type":["null","string"],"default":null}"#,
    )
}

fn with_email(id: &str, email: &str) -> Value {
    record([("id", text(id)), ("name", text("x")), ("email", Value::Union(1, Box::new(text(email))))])
}

/// Red when the column is not added, is added `not null`, or rows of two versions cannot share a batch.
#[tokio::test]
async fn a_newer_schema_adds_a_nullable_column() {
    let mut db = Db::new("newer_schema").await;
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await.unwrap();
    let mixed = vec![row(&second(), 0, 1, with_email("b", "b@x")), row(&plain(), 0, 2, thing("c", "x"))];
    writer.commit(mixed).await.unwrap();
    let stored = db.texts("select id, email from things order by id").await;
    assert_eq!(stored, [r#"{"id":"a","email":null}"#, r#"{"id":"b","email":"b@x"}"#, r#"{"id":"c","email":null}"#]);
    // An older record leaves the column as it is, alone or in company.
    writer.commit(vec![row(&plain(), 0, 3, thing("b", "y"))]).await.unwrap();
    assert_eq!(db.texts("select name, email from things where id = 'b'").await, [r#"{"name":"y","email":"b@x"}"#]);
    assert_eq!(writer.counts(), (4, 0, 0));
}

/// Red when fields with a default are made `not null`: compatible schemas may leave them out later.
#[tokio::test]
async fn a_later_schema_may_leave_a_defaulted_field_out() {
    let mut db = Db::new("leave_out").await;
    let first = schema(
        1,
        r#"{"name":"id","type":"string"},{"name":"name","type":"string","default":"?"},{"name":"size","type":"long"}"#,
    );
    let mut writer = Writer::new(&db, things()).await;
    let full = record([("id", text("a")), ("name", text("x")), ("size", Value::Long(1))]);
    writer.commit(vec![row(&first, 0, 0, full)]).await.unwrap();
    let later = schema(2, r#"{"name":"id","type":"string"},{"name":"size","type":"long"}"#);
    writer.commit(vec![row(&later, 0, 1, record([("id", text("b")), ("size", Value::Long(2))]))]).await.unwrap();
    let required = "select string_agg(column_name, ',' order by ordinal_position) c from information_schema.columns \
                    where table_name = 'things' and is_nullable = 'NO'";
    let expected = r#"{"c":"id,size,hw_event_id,hw_correlation_id,hw_topic,hw_event_time,hw_partition,hw_offset"}"#;
    assert_eq!(db.texts(required).await, [expected]);
}

/// Red when a column is bound by its place instead of its name, or a foreign column or row is touched.
#[tokio::test]
async fn a_table_that_is_there_keeps_its_columns_and_order() {
    let mut db = Db::new("existing_table").await;
    db.sql(
        "create type mood as enum ('ok', 'bad'); \
         create table things (note text default 'mine', size numeric, mood mood, name varchar(5), extra jsonb, id uuid primary key); \
         insert into things (id, name, note) values ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 'old', 'kept')",
    )
    .await;
    let schema = schema(
        1,
        r#"{"name":"id","type":"string"},{"name":"name","type":"string"},{"name":"size","type":"int"},
           {"name":"mood","type":{"type":"enum","name":"Mood","symbols":["ok","bad"]}}"#,
    );
    let of = |id: &str, name: &str| {
        record([
            ("id", text(id)),
            ("name", text(name)),
            ("size", Value::Int(3)),
            ("mood", Value::Enum(1, "bad".to_owned())),
        ])
    };
    let mut writer = Writer::new(&db, things()).await;
    let (old, new) = ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "00000000-0000-0000-0000-000000000001");
    writer.commit(vec![row(&schema, 0, 1, of(old, "short")), row(&schema, 0, 2, of(new, "fresh"))]).await.unwrap();
    let stored = db.texts("select note, name, size, mood, extra from things order by id").await;
    let expected = [
        r#"{"note":"mine","name":"fresh","size":3,"mood":"bad","extra":null}"#,
        r#"{"note":"kept","name":"short","size":3,"mood":"bad","extra":null}"#,
    ];
    assert_eq!(stored, expected);
    let why = crate::harness::refusal(writer.commit(vec![row(&schema, 0, 3, of(new, "enormous"))]).await);
    assert!(why.contains("22001") && !why.contains("enormous"), "{why}");
}

/// Red when an identifier is put into a statement unquoted.
#[tokio::test]
async fn odd_names_are_only_names() {
    let mut db = Db::new("odd_names").await;
    let schema =
        schema(1, r#"{"name":"select","type":"string"},{"name":"Order","type":"long"},{"name":"user","type":"long"}"#);
    let mut sink = things();
    sink.table = r#"sche"ma.table"; drop table x; --"#.to_owned();
    sink.key = vec!["select".to_owned()];
    let mut writer = Writer::new(&db, sink.delete()).await;
    let value = record([("select", text("a")), ("Order", Value::Long(1)), ("user", Value::Long(2))]);
    writer.commit(vec![row(&schema, 0, 1, value)]).await.unwrap();
    let query = r#"select "select", "Order", "user" from "sche""ma"."table""; drop table x; --""#;
    assert_eq!(db.texts(query).await, [r#"{"select":"a","Order":1,"user":2}"#]);
    writer.commit(vec![crate::harness::tombstone(0, 2, "a")]).await.unwrap();
    assert_eq!(writer.counts(), (1, 0, 1));
    for table in ["", "a\0b", &"x".repeat(64), "schema."] {
        let sink = headwater::Sink { table: table.to_owned(), ..things() };
        assert!(matches!(PostgresSink::new(&db.database, "g", sink), Err(PostgresError::Config(_))), "{table:?}");
    }
}

/// Red when `create` or `evolve` is not asked, or the message lacks the SQL.
#[tokio::test]
async fn what_a_person_must_run_is_said() {
    let mut db = Db::new("by_hand").await;
    let by_hand = headwater::Sink { create: false, evolve: false, ..things() };
    let mut writer = Writer::new(&db, by_hand.clone()).await;
    let commit = |schema: &std::sync::Arc<_>, value| vec![row(schema, 0, 0, value)];
    let why = outage(writer.commit(commit(&plain(), thing("a", "x"))).await);
    let (_, sql) = why.split_once(": run ").unwrap();
    db.sql(sql).await;
    writer.commit(commit(&plain(), thing("a", "x"))).await.unwrap();
    let why = outage(writer.commit(vec![row(&second(), 0, 1, with_email("a", "e"))]).await);
    db.sql(why.split_once(": run ").unwrap().1).await;
    writer.commit(vec![row(&second(), 0, 1, with_email("a", "e"))]).await.unwrap();
    // Rows of the old schema were not held up, and no key means no upsert.
    db.sql("alter table things drop constraint things_pkey").await;
    let sql = match PostgresSink::plan_table(&db.database, &by_hand, &plain()).await {
        Err(PostgresError::Outage(why)) => why.split_once(": run ").unwrap().1.to_owned(),
        other => panic!("{other:?}"),
    };
    db.sql(&sql).await;
    assert_eq!(PostgresSink::plan_table(&db.database, &by_hand, &plain()).await.unwrap(), Vec::<String>::new());
}

/// Red when the sink's own columns are added only with a schema's, or a schema that exists is created.
#[tokio::test]
async fn a_tombstone_may_come_first() {
    let mut db = Db::new("tombstone_first").await;
    db.sql(
        "create schema sales; create table sales.things (id text primary key); insert into sales.things values ('a'), ('b')",
    )
    .await;
    let mut sink = things().delete();
    sink.table = "sales.things".to_owned();
    let mut writer = Writer::new(&db, sink.clone()).await;
    writer.commit(vec![crate::harness::tombstone(0, 0, "a")]).await.unwrap();
    assert_eq!(db.texts("select id, hw_topic from sales.things").await, [r#"{"id":"b","hw_topic":null}"#]);
    assert_eq!(writer.counts(), (0, 0, 1));
    sink.table = "sales.others".to_owned();
    let plan = PostgresSink::plan_table(&db.database, &sink, &plain()).await.unwrap();
    assert!(plan.len() == 1 && plan[0].starts_with("create table"), "{plan:?}");
    sink.table = "elsewhere.others".to_owned();
    assert_eq!(
        PostgresSink::plan_table(&db.database, &sink, &plain()).await.unwrap()[0],
        r#"create schema "elsewhere""#
    );
}

/// Red when a narrower column is written to nevertheless, or the message does not say which and why.
#[tokio::test]
async fn a_column_of_another_type_is_named() {
    let mut db = Db::new("other_type").await;
    db.sql("create table things (id text primary key, name int4)").await;
    let mut writer = Writer::new(&db, things()).await;
    let why = outage(writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await);
    assert!(why.contains("`name`") && why.contains("integer") && why.contains("type text"), "{why}");
    db.sql("drop table things; create table things (id text primary key, name text, hw_offset numeric)").await;
    let why = outage(writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await);
    assert!(why.contains("`hw_offset`") && why.contains("type int8"), "{why}");
    let empty = schema(5, "");
    assert!(crate::harness::refusal(writer.commit(vec![row(&empty, 0, 0, record([]))]).await).contains("no fields"));
    let taken = schema(3, r#"{"name":"id","type":"string"},{"name":"hw_topic","type":"string"}"#);
    let value = record([("id", text("a")), ("hw_topic", text("x"))]);
    assert!(crate::harness::refusal(writer.commit(vec![row(&taken, 0, 0, value)]).await).contains("`hw_topic`"));
    db.sql("drop table things").await;
    let float = schema(4, r#"{"name":"id","type":"double"}"#);
    let plan = PostgresSink::plan_table(&db.database, &things(), &float).await;
    assert!(matches!(plan, Err(PostgresError::Config(why)) if why.contains("key")));
}

/// Red when the plan runs something, or differs from what is then run.
#[tokio::test]
async fn a_plan_is_what_will_be_done() {
    let mut db = Db::new("plan").await;
    let plan = PostgresSink::plan_table(&db.database, &things(), &second()).await.unwrap();
    assert_eq!(
        plan,
        [
            r#"create table "public"."things" ("id" text not null, "name" text not null, "email" text, "hw_event_id" text not null, "hw_correlation_id" text not null, "hw_causation_id" text, "hw_topic" text not null, "hw_topic_id" text, "hw_event_time" timestamptz not null, "hw_partition" int4 not null, "hw_offset" int8 not null, primary key ("id"))"#
        ]
    );
    assert_eq!(db.number("select count(*) from pg_tables where tablename = 'things'").await, 0);
    assert_eq!(PostgresSink::apply_table(&db.database, &things(), &second()).await.unwrap(), plan);
    assert_eq!(PostgresSink::apply_table(&db.database, &things(), &second()).await.unwrap(), Vec::<String>::new());
}

/// Red without both the lock and the second look: one fails on what another has just made.
#[tokio::test]
async fn several_processes_make_one_table() {
    let mut db = Db::new("several").await;
    let mut sinks = tokio::task::JoinSet::new();
    // All look at the same moment, with connections that are open already.
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(6));
    for i in 0..6 {
        let barrier = std::sync::Arc::clone(&barrier);
        let mut sink = PostgresSink::new(&db.database, format!("group{i}"), things()).unwrap();
        sinks.spawn(async move {
            use headwater::spi::Committer;
            barrier.wait().await;
            sink.start(&[crate::harness::partition(0)]).await.unwrap();
            let schema = if i % 2 == 0 { plain() } else { second() };
            let id = format!("id{i}");
            let value = if i % 2 == 0 { thing(&id, "x") } else { with_email(&id, "e") };
            let unit = crate::harness::unit(vec![row(&schema, 0, i, value)], vec![crate::harness::moves(0, 0, 1)]);
            barrier.wait().await;
            sink.commit(&unit).await.unwrap()
        });
    }
    while let Some(outcome) = sinks.join_next().await {
        assert_eq!(outcome.unwrap(), CommitOutcome::Done);
    }
    assert_eq!(db.number("select count(*) from things").await, 6);
}

/// Red when a statement takes no more columns than a function takes arguments, 100.
#[tokio::test]
async fn a_record_may_have_many_fields() {
    let mut db = Db::new("many_fields").await;
    let fields: Vec<String> = (0..400).map(|i| format!(r#"{{"name":"f{i}","type":"long"}}"#)).collect();
    let schema = schema(1, &format!(r#"{{"name":"id","type":"string"}},{}"#, fields.join(",")));
    let mut value = vec![("id".to_owned(), text("a"))];
    value.extend((0..400).map(|i| (format!("f{i}"), Value::Long(i))));
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![row(&schema, 0, 0, Value::Record(value))]).await.unwrap();
    assert_eq!(db.number("select f399 from things").await, 399);
}

/// Red when the ledger is not read first (a second run needs the right to create), or two runs collide.
#[tokio::test]
async fn migrations_run_once() {
    let mut db = Db::bare("migrations").await;
    let pending = pending_migrations(&db.database).await.unwrap();
    assert_eq!(pending.iter().map(|m| m.version).collect::<Vec<_>>(), [1, 2]);
    assert!(pending[0].sql.contains("consumer_offsets") && pending[1].sql.contains("dead_letters"));
    let (one, two) = tokio::join!(migrate(&db.database), migrate(&db.database));
    one.unwrap();
    two.unwrap();
    assert!(pending_migrations(&db.database).await.unwrap().is_empty());
    assert!(migrate(&db.database).await.unwrap().is_empty());
    // Where nothing is to do, a user who may only read is enough.
    db.sql(
        "do $$ begin create role t_migrations_reader login; exception when duplicate_object then null; end $$; \
         grant usage on schema headwater to t_migrations_reader; \
         grant select on all tables in schema headwater to t_migrations_reader",
    )
    .await;
    let reader = Config::new(db.url.replace("headwater@", "t_migrations_reader@")).connect().await.unwrap();
    assert!(migrate(&reader).await.unwrap().is_empty());
    db.sql("update headwater._sqlx_migrations set checksum = '\\x00'").await;
    assert!(matches!(migrate(&db.database).await, Err(PostgresError::Config(_))));
}

//! Whose fault a refusal is: one row's, or the table's.

use std::sync::Arc;

use apache_avro::types::Value;
use headwater::spi::{CommitError, CommitOutcome, Committer as _, Row, codec::WriterSchema};
use headwater_connectors::postgres::{Config, PostgresSink};

use crate::harness::{
    Db, Writer, at, moves, outage, partition, plain, record, refusal, refused, row, schema, text, thing, things,
    tombstone, unit,
};

/// Rows of [`plain`] from this offset on, one for each name.
fn named(from: i64, names: &[&str]) -> Vec<Row> {
    let schema = plain();
    (from..).zip(names).map(|(offset, name)| row(&schema, 0, offset, thing(&format!("k{offset}"), name))).collect()
}

fn function(name: &str, body: &str) -> String {
    format!(
        "create function {name}() returns trigger language plpgsql as $$ begin {body} return new; end $$; \
         create trigger {name} before insert on things for each row execute function {name}()"
    )
}

/// What one row in seven is refused for and its neighbours are not. Red when a class other than 22 and 23 is taken for an
/// outage, a neighbour is refused or left out, or a row's value is told.
#[tokio::test]
async fn one_row_that_is_refused_is_that_rows_whatever_the_code() {
    let mut db = Db::new("one_row").await;
    let long = "x".repeat(3_000);
    let random: String = {
        // An index takes a long text that packs well.
        let mut seed = 7_u64;
        let digit = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(seed >> 33) as usize % 36])
        };
        (0..4_000).map(digit).collect()
    };
    let raise = function("raises", "if new.name = 'secret' then raise exception 'it is %', new.name; end if;");
    let divides = function("divides", "if new.name = 'secret' then perform 1 / 0; end if;");
    let wrong = function("wrong", "if new.name = 'secret' then perform no_such(new.name); end if;");
    let audits = function("audits", "insert into audited values (nullif(new.name, 'secret'));");
    let coded = function("coded", "if new.name = 'secret' then raise insufficient_privilege; end if;");
    let cases: [(&str, &str, &str, &str); 10] = [
        ("alter table things add check (name <> 'secret')", "secret", "things_name_check", "23514"),
        ("create index wide on things (name)", &random, "`wide`", "54000"),
        ("alter table things alter column name type varchar(10)", &long, "", "22001"),
        (&raise, "secret", "function raises()", "P0001"),
        (&divides, "secret", "function divides()", "22012"),
        (&wrong, "secret", "function wrong()", "42883"),
        (&coded, "secret", "function coded()", "42501"),
        // A column of another table, which the row's schema does not have.
        (&audits, "secret", "function audits()", "23502"),
        (
            "alter table things enable row level security, force row level security; \
             create policy open on things using (true) with check (name <> 'secret')",
            "secret",
            "row security",
            "42501",
        ),
        (
            "create table others (name text primary key); insert into others values ('fine'); \
             alter table things add foreign key (name) references others",
            "secret",
            "things_name_fkey",
            "23503",
        ),
    ];
    for (made, bad, object, code) in cases {
        db.sql("drop table if exists things cascade; drop table if exists others").await;
        db.sql("create table things (id text primary key, name text)").await;
        db.sql("create table if not exists audited (note text not null)").await;
        db.sql(made).await;
        let mut writer = modest(&mut db, "t_one_row").await;
        let names = ["fine", "fine", bad, "fine", "fine", "fine", "fine"];
        let rows = named(0, &names);
        let outcome = writer.commit(rows.clone()).await;
        let Err(CommitError::RefusedRows(found)) = outcome else { panic!("{made}: {outcome:?}") };
        let [one] = &found[..] else { panic!("{made}: {found:?}") };
        assert_eq!((one.row, one.kind), (2, headwater::spi::DeadLetterKind::Row), "{made}");
        assert!(one.why.contains(object) && one.why.contains(code) && !one.why.contains(bad), "{made}: {}", one.why);
        // Nothing is there before the letter is.
        assert_eq!(db.number("select count(*) from things").await, 0);
        let others = rows.into_iter().filter(|row| row.meta.origin.offset != 2).collect();
        assert_eq!(writer.commit(others).await.unwrap(), CommitOutcome::Done, "{made}");
        assert_eq!(db.number("select count(*) from things where name = 'fine'").await, 6);
        db.sql("delete from headwater.consumer_offsets").await;
    }
}

/// Codes of a server or a connection that is broken, which one row of a unit alone may meet. Fails where class 26 or 58, XX001 or
/// XX002 is left open in `Blame::of`: the row becomes a letter.
#[tokio::test]
async fn what_is_broken_on_the_server_is_no_rows_fault() {
    let mut db = Db::new("broken_server").await;
    for code in ["26000", "58000", "58030", "58P01", "XX001", "XX002", "XX000"] {
        db.sql("drop table if exists things cascade; create table things (id text primary key, name text)").await;
        let body = format!("if new.name = 'secret' then raise exception 'broken' using errcode = '{code}'; end if;");
        db.sql(&function(&format!("broken_{}", code.to_lowercase()), &body)).await;
        let mut writer = Writer::new(&db, things()).await;
        let outcome = writer.commit(named(0, &["fine", "secret", "fine"])).await;
        if code == "XX000" {
            // It may be of anything.
            assert_eq!(refused(outcome), [1]);
        } else {
            let why = outage(outcome);
            assert!(why.contains(code), "{why}");
        }
        assert_eq!(db.number("select count(*) from things").await, 0, "{code}");
    }
}

/// A sink of a user without more rights than it needs: row security does not bind the owner of a database.
async fn modest(db: &mut Db, user: &str) -> Writer {
    PostgresSink::apply_table(&db.database, &things(), &plain()).await.unwrap();
    db.sql(&format!(
        "do $$ begin create role {user} login; exception when duplicate_object then null; end $$; \
         alter role {user} reset all; grant usage on schema headwater, public to {user}; \
         grant select, insert, update on headwater.consumer_offsets to {user}; \
         grant select, insert, update on all tables in schema public to {user}"
    ))
    .await;
    let database = Config::new(db.url.replace("headwater@", &format!("{user}@"))).connect().await.unwrap();
    Writer::on(&database, things()).await
}

/// What all rows are refused for alike, with what mends it. Red when one of a full unit becomes a letter, the message lacks
/// what to mend, the offset moves, or what was mended is remembered.
#[tokio::test]
async fn rows_that_are_all_refused_alike_are_none_of_them_at_fault() {
    let mut db = Db::new("all_rows").await;
    let raise = function("raises", "raise exception 'not today';");
    let wrong = function("wrong", "perform no_such(new.name);");
    let audit = function("audit", "insert into audited values (new.id);");
    let cases: [(&str, &str, &str); 7] = [
        ("alter table things add check (name <> 'fine')", "drop constraint things_name_check", "20 rows in a row"),
        (&raise, "disable trigger raises", "function raises()"),
        (&wrong, "disable trigger wrong", "20 rows in a row"),
        (&audit, "disable trigger audit", "\"audited\" does not exist (42P01); mend"),
        (
            "alter table things add size int not null",
            "alter size set default 0",
            "`size` of public.things must not be null",
        ),
        (
            "alter table things alter name type int2 using 0",
            "alter name type text",
            "`name` of public.things is smallint",
        ),
        (
            "alter table things add exclude using hash (name with =), add check (false) not valid",
            "drop constraint things_check",
            "things_check",
        ),
    ];
    for (made, mended, words) in cases {
        db.sql("drop table if exists things; delete from headwater.consumer_offsets").await;
        db.sql("create table things (id text primary key, name text)").await;
        let mut writer = Writer::new(&db, things()).await;
        db.sql(made).await;
        let rows = || {
            named(0, &["fine"; 30])
                .into_iter()
                .enumerate()
                .map(|(n, mut row)| {
                    if made.contains("exclude") {
                        row = self::row(&plain(), 0, row.meta.origin.offset, thing(&format!("k{n}"), &n.to_string()));
                    }
                    row
                })
                .collect::<Vec<_>>()
        };
        for _ in 0..2 {
            let why = outage(writer.commit(rows()).await);
            assert!(why.contains(words), "{made}: {why}");
        }
        assert_eq!((db.stored(0).await.0, db.number("select count(*) from things").await), (-1, 0), "{made}");
        db.sql(&format!("alter table things {mended}")).await;
        assert_eq!(writer.commit(rows()).await.unwrap(), CommitOutcome::Done, "{mended}");
        assert_eq!(db.number("select count(*) from things").await, 30);
    }
}

/// Red when a missing partition is a row's fault, a check is not, or what mends it is not said.
#[tokio::test]
async fn a_missing_partition_is_not_the_rows_fault() {
    let mut db = Db::new("partitions").await;
    db.sql(
        "create table things (id text primary key, name text check (name <> 'bad')) partition by list (id); \
         create table things_1 partition of things for values in ('k0', 'k1')",
    )
    .await;
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(refused(writer.commit(named(0, &["fine", "bad"])).await), [1]);
    // A single row, and one among others.
    for rows in [named(2, &["fine"]), named(0, &["fine", "fine", "fine"])] {
        let why = outage(writer.commit(rows).await);
        assert!(why.contains("no partition") && why.contains("create the partition"), "{why}");
    }
    db.sql("create table things_2 partition of things default").await;
    assert_eq!(writer.commit(named(0, &["fine", "fine", "fine"])).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.number("select count(*) from things").await, 3);
}

/// Rows that come one by one. Red when the twentieth that is refused alike becomes a letter, or one that comes after a row that
/// was stored is counted with those before it.
#[tokio::test]
async fn twenty_rows_in_a_row_that_are_refused_alike_make_the_group_wait() {
    let mut db = Db::new("twenty_rows").await;
    db.sql("create table things (id text primary key, name text constraint odd check (name <> 'bad'))").await;
    let mut writer = Writer::new(&db, things()).await;
    let bad = |offset: i64| named(offset, &["bad"]);
    for offset in 0..19 {
        assert_eq!(refused(writer.commit(bad(offset)).await), [0]);
        // Its letter passes it.
        writer.commit(Vec::new()).await.unwrap();
    }
    // Eighteen of the same in one unit behind one that is stored are no twenty.
    let mixed: Vec<&str> = std::iter::once("fine").chain(["bad"; 18]).collect();
    assert_eq!(refused(writer.commit(named(100, &mixed)).await), (1..19).collect::<Vec<_>>());
    writer.commit(named(100, &["fine"])).await.unwrap();
    assert_eq!(refused(writer.commit(bad(200)).await), [0], "the nineteenth");
    writer.commit(Vec::new()).await.unwrap();
    for _ in 0..3 {
        let why = outage(writer.commit(bad(201)).await);
        assert!(why.contains("20 rows in a row") && why.contains("`odd`") && why.contains("offsets reset"), "{why}");
    }
    db.sql("alter table things drop constraint odd").await;
    assert_eq!(writer.commit(bad(201)).await.unwrap(), CommitOutcome::Done);
    db.sql("delete from things; alter table things add constraint odd check (name <> 'bad')").await;
    assert_eq!(refused(writer.commit(bad(202)).await), [0], "counted anew");
}

/// What the sink refuses itself is judged as what the server does. Fails where a column that would round each time makes a letter of
/// each record, or one of them that has no fraction, and a time that only some are finer than, does not.
#[tokio::test]
async fn what_the_sink_refuses_itself_is_the_tables_fault_where_it_is_all_rows() {
    let mut db = Db::new("own_refusals").await;
    db.sql("create table things (id text primary key, seen timestamptz(0))").await;
    let millis = r#"{"name":"seen","type":{"type":"long","logicalType":"timestamp-millis"}}"#;
    let timed = schema(5, &format!(r#"{{"name":"id","type":"string"}},{millis}"#));
    let of = |offset: i64, millis: i64| {
        let fields = [("id", text(&format!("k{offset}"))), ("seen", Value::TimestampMillis(millis))];
        row(&timed, 0, offset, record(fields))
    };
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(refused(writer.commit(vec![of(0, 1_000), of(1, 1_500), of(2, 2_000)]).await), [1]);
    writer.commit(vec![of(0, 1_000), of(2, 2_000)]).await.unwrap();
    let rows = || (10..40).map(|offset| of(offset, 1_500)).collect::<Vec<_>>();
    for _ in 0..2 {
        let why = outage(writer.commit(rows()).await);
        assert!(why.contains("20 rows in a row") && why.contains("column `seen`: a time is finer"), "{why}");
    }
    db.sql("alter table things alter seen type timestamptz").await;
    assert_eq!(writer.commit(rows()).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.number("select count(*) from things").await, 32);
}

/// How many connections a sink has says nothing about the table. Fails where each of them counts for itself: twice as many records
/// would be letters before the group waits, and of a bad partition none would once its connection has it alone.
#[tokio::test]
async fn rows_are_in_a_row_over_all_connections_of_a_sink() {
    let mut db = Db::new("connections").await;
    db.sql("create table things (id text primary key, name text check (name <> 'bad'))").await;
    let mut sinks = PostgresSink::several(&db.database, "things", things(), 2).unwrap();
    for (number, sink) in (0..).zip(&mut sinks) {
        sink.start(&[partition(number)]).await.unwrap();
    }
    let schema = plain();
    let of = async |sinks: &mut [PostgresSink], offset: i64, name: &str| {
        let number = i32::try_from(offset % 2).unwrap();
        let row = row(&schema, number, offset, thing(&format!("k{offset}"), name));
        let moved = vec![moves(number, offset - offset % 2, offset - offset % 2 + 2)];
        let sink = &mut sinks[usize::try_from(number).unwrap()];
        let outcome = sink.commit(&unit(vec![row], moved.clone())).await;
        if outcome.as_ref().is_err_and(|error| matches!(error, CommitError::RefusedRows(_))) {
            // Its letter passes it.
            sink.commit(&unit(Vec::new(), moved)).await.unwrap();
        }
        outcome
    };
    for offset in 0..19 {
        assert_eq!(refused(of(&mut sinks, offset, "bad").await), [0]);
    }
    of(&mut sinks, 19, "fine").await.unwrap();
    for offset in 20..39 {
        assert_eq!(refused(of(&mut sinks, offset, "bad").await), [0], "what the other has stored counts");
    }
    for _ in 0..2 {
        let why = outage(of(&mut sinks, 39, "bad").await);
        assert!(why.contains("20 rows in a row"), "{why}");
    }
}

/// Fails where rows are judged before those have come that they need: more than twenty wait for theirs in one unit.
#[tokio::test]
async fn rows_that_need_one_that_comes_later_are_not_the_tables_fault() {
    let mut db = Db::new("need_later").await;
    db.sql("create table things (id text primary key, name text, boss text references things)").await;
    let (led, schema) = (led(), plain());
    let mut rows: Vec<Row> = (0..30).map(|n| row(&led, 0, n, under(&format!("k{n}"), "root"))).collect();
    rows.push(row(&schema, 0, 30, thing("root", "x")));
    rows.push(row(&led, 0, 31, under("k31", "root")));
    let mut writer = Writer::new(&db, things()).await;
    assert_eq!(writer.commit(rows).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.number("select count(*) from things").await, 32);
    // What they need does not come.
    let orphans: Vec<Row> = (40..70).map(|n| row(&led, 0, n, under(&format!("k{n}"), "nobody"))).collect();
    assert!(outage(writer.commit(orphans).await).contains("20 rows in a row"));
}

/// A row is stored once what it needs has come, and a tombstone of its key came before that. Fails where the row is back then.
#[tokio::test]
async fn a_row_that_is_tried_again_does_not_come_back_behind_its_tombstone() {
    let mut db = Db::new("behind").await;
    db.sql("create table things (id text primary key, name text, boss text references things)").await;
    let (led, schema) = (led(), plain());
    let mut writer = Writer::new(&db, things().delete()).await;
    // By its later time it is not made void beforehand: each change is written.
    let late = |offset, id: &str| at(1_000, row(&led, 0, offset, under(id, "root")));
    let rows = vec![
        late(1, "gone"),
        late(2, "stays"),
        tombstone(0, 3, "gone"),
        tombstone(0, 4, "elsewhere"),
        row(&schema, 0, 5, thing("root", "x")),
    ];
    assert_eq!(writer.commit(rows).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.texts("select id from things order by id").await, [r#"{"id":"root"}"#, r#"{"id":"stays"}"#]);
    // And written anew behind that.
    let again = row(&led, 0, 14, under("back", "other"));
    let rows = vec![
        late(10, "away"),
        at(1_000, row(&led, 0, 11, under("back", "other"))),
        tombstone(0, 12, "back"),
        row(&schema, 0, 13, thing("other", "x")),
        again,
    ];
    assert_eq!(writer.commit(rows).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.texts("select id from things where boss = 'other'").await, [r#"{"id":"back"}"#]);
}

/// Things that stand under another. Their column comes first, and so do they within a unit.
fn led() -> Arc<WriterSchema> {
    schema(9, r#"{"name":"id","type":"string"},{"name":"name","type":"string"},{"name":"boss","type":"string"}"#)
}

fn under(id: &str, boss: &str) -> Value {
    record([("id", text(id)), ("name", text("x")), ("boss", text(boss))])
}

/// Red when a row is refused for being beside another, or in front of the one that it needs.
#[tokio::test]
async fn what_is_only_refused_beside_others_is_stored_apart() {
    let mut db = Db::new("apart").await;
    // Two keys of ours are one of the table's.
    db.sql(
        "create collation folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         create table things (id text collate folded primary key, name text)",
    )
    .await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    let twins = vec![
        row(&schema, 0, 0, thing("a", "x")),
        row(&schema, 0, 1, thing("A", "y")),
        row(&schema, 0, 2, thing("b", "z")),
    ];
    assert_eq!(writer.commit(twins).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.texts("select name from things order by name").await, [r#"{"name":"y"}"#, r#"{"name":"z"}"#]);
    // A child that stands before its parent, in a unit that has a bad row.
    db.sql(
        "drop table things; create table things (id text primary key, name text check (name <> 'bad'), \
         parent text references things deferrable initially deferred)",
    )
    .await;
    let nested = family();
    let of = |offset, id: &str, name: &str, parent: &str| {
        row(&nested, 0, offset, record([("id", text(id)), ("name", text(name)), ("parent", text(parent))]))
    };
    let rows = vec![of(3, "child", "x", "root"), of(4, "odd", "bad", "root"), of(5, "root", "x", "root")];
    assert_eq!(refused(writer.commit(rows.clone()).await), [1]);
    let orphan = of(6, "orphan", "x", "nobody");
    assert!(refusal(writer.commit(vec![rows[0].clone(), rows[2].clone(), orphan]).await).contains("23503"));
    writer.commit(vec![rows[0].clone(), rows[2].clone()]).await.unwrap();
    assert_eq!(db.number("select count(*) from things").await, 2);
}

fn family() -> Arc<WriterSchema> {
    schema(9, r#"{"name":"id","type":"string"},{"name":"name","type":"string"},{"name":"parent","type":"string"}"#)
}

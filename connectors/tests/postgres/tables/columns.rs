//! Every Avro type in its column.

use std::collections::HashMap;

use crate::harness::{Db, Writer, as_is, record, refusal, row, schema, text, things};
use apache_avro::{Days, Duration, Millis, Months, types::Value};

/// Avro type, value, column type, and the value as Postgres shows it.
type Case = (&'static str, Value, &'static str, &'static str);

fn primitive_types() -> Vec<Case> {
    vec![
        (r#""boolean""#, Value::Boolean(true), "boolean", "true"),
        (r#""int""#, Value::Int(i32::MIN), "integer", "-2147483648"),
        (r#""long""#, Value::Long(i64::MAX), "bigint", "9223372036854775807"),
        (r#""float""#, Value::Float(1.5), "real", "1.5"),
        (r#""double""#, Value::Double(f64::NEG_INFINITY), "double precision", "-Infinity"),
        (r#""string""#, text("ü \"q\" \n"), "text", "ü \"q\" \n"),
        (r#""bytes""#, Value::Bytes(vec![0, 255]), "bytea", "\\x00ff"),
        (r#"{"type":"fixed","name":"F","size":2}"#, Value::Fixed(2, vec![1, 2]), "bytea", "\\x0102"),
        (r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, Value::Enum(1, "B".to_owned()), "text", "B"),
        (r#""null""#, Value::Null, "text", ""),
    ]
}

fn numbers_and_ids() -> Vec<Case> {
    vec![
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#,
            Value::Decimal(vec![0xff, 0x85].into()),
            "numeric(10,2)",
            "-1.23",
        ),
        (
            r#"{"type":"fixed","name":"D","size":20,"logicalType":"decimal","precision":46,"scale":1}"#,
            Value::Decimal([vec![0x7f], vec![0xff; 18]].concat().into()),
            "numeric(46,1)",
            "285449538541191976211657193889899027276549324.7",
        ),
        (r#"{"type":"bytes","logicalType":"big-decimal"}"#, big("-12.345"), "numeric", "-12.345"),
        (r#"{"type":"string","logicalType":"uuid"}"#, uuid(), "uuid", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        (
            r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#,
            uuid(),
            "uuid",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ),
    ]
}

fn moments() -> Vec<Case> {
    vec![
        (r#"{"type":"int","logicalType":"date"}"#, Value::Date(-1), "date", "1969-12-31"),
        (
            r#"{"type":"int","logicalType":"time-millis"}"#,
            Value::TimeMillis(86_399_999),
            "time without time zone",
            "23:59:59.999",
        ),
        (
            r#"{"type":"long","logicalType":"time-micros"}"#,
            Value::TimeMicros(1),
            "time without time zone",
            "00:00:00.000001",
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            Value::TimestampMillis(-1),
            "timestamp with time zone",
            "1969-12-31 23:59:59.999+00",
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-micros"}"#,
            Value::TimestampMicros(1_767_225_600_000_001),
            "timestamp with time zone",
            "2026-01-01 00:00:00.000001+00",
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
            Value::TimestampNanos(-1),
            "timestamp with time zone",
            "1969-12-31 23:59:59.999999+00",
        ),
        (
            r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
            Value::LocalTimestampMillis(0),
            "timestamp without time zone",
            "1970-01-01 00:00:00",
        ),
        (
            r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
            Value::LocalTimestampMicros(-62_135_596_800_000_001),
            "timestamp without time zone",
            "0001-12-31 23:59:59.999999 BC",
        ),
        (
            r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#,
            Value::LocalTimestampNanos(1_500),
            "timestamp without time zone",
            "1970-01-01 00:00:00.000001",
        ),
        (
            r#"{"type":"fixed","name":"P","size":12,"logicalType":"duration"}"#,
            Value::Duration(Duration::new(Months::new(14), Days::new(3), Millis::new(4_005))),
            "interval",
            "1 year 2 mons 3 days 00:00:04.005",
        ),
    ]
}

/// Types that become `jsonb`, and the JSON.
fn nested_types() -> Vec<(&'static str, Value, &'static str)> {
    let list = Value::Array(vec![Value::Double(f64::NAN), Value::Double(0.5)]);
    let map = Value::Map(HashMap::from([("k\"".to_owned(), Value::Bytes(b"foob".to_vec()))]));
    let amount = Value::Decimal(vec![0x30, 0x39].into());
    let node = |value, next: Value| record([("v", value), ("next", next)]);
    let null = || Value::Union(0, Box::new(Value::Null));
    let tree = node(amount.clone(), Value::Union(1, Box::new(node(Value::Decimal(vec![7].into()), null()))));
    let moments = record([
        ("d", Value::Date(20_454)),
        ("t", Value::TimeMicros(1_500_000)),
        ("z", Value::TimestampNanos(1_767_225_600_000_000_001)),
        ("l", Value::LocalTimestampMillis(1)),
        ("p", Value::Duration(Duration::new(Months::new(1), Days::new(2), Millis::new(3_004)))),
        ("u", uuid()),
        ("b", big("1.50")),
        ("e", Value::Enum(0, "A".to_owned())),
    ]);
    vec![
        (r#"{"type":"array","items":"double"}"#, list, r#"["NaN", 0.5]"#),
        (r#"{"type":"map","values":"bytes"}"#, map, r#"{"k\"": "Zm9vYg=="}"#),
        (r#"["null","string","long"]"#, Value::Union(2, Box::new(Value::Long(5))), "5"),
        (r#"["null","string","long"]"#, Value::Union(1, Box::new(text("five"))), r#""five""#),
        (
            r#"{"type":"record","name":"Node","fields":[
                {"name":"v","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
                {"name":"next","type":["null","Node"]}]}"#,
            tree,
            r#"{"v": 123.45, "next": {"v": 0.07, "next": null}}"#,
        ),
        (
            r#"{"type":"record","name":"Moments","fields":[
                {"name":"d","type":{"type":"int","logicalType":"date"}},
                {"name":"t","type":{"type":"long","logicalType":"time-micros"}},
                {"name":"z","type":{"type":"long","logicalType":"timestamp-nanos"}},
                {"name":"l","type":{"type":"long","logicalType":"local-timestamp-millis"}},
                {"name":"p","type":{"type":"fixed","name":"Q","size":12,"logicalType":"duration"}},
                {"name":"u","type":{"type":"string","logicalType":"uuid"}},
                {"name":"b","type":{"type":"bytes","logicalType":"big-decimal"}},
                {"name":"e","type":{"type":"enum","name":"G","symbols":["A"]}}]}"#,
            moments,
            r#"{"b": 1.50, "d": "2026-01-01", "e": "A", "l": "1970-01-01T00:00:00.001", "p": "P1M2DT3.004S", "t": "00:00:01.500", "u": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "z": "2026-01-01T00:00:00.000000001Z"}"#,
        ),
    ]
}

fn uuid() -> Value {
    Value::Uuid("f81d4fae-7dec-11d0-a765-00a0c91e6bf6".parse().unwrap())
}

/// Through JSON, so that no test needs the number's own crate.
fn big(number: &str) -> Value {
    Value::BigDecimal(serde_json::from_str(&format!("\"{number}\"")).unwrap())
}

fn branch(value: &Value) -> Value {
    Value::Union(1, Box::new(value.clone()))
}

/// A table with each type twice, plain and as a nullable union, holding values; then the same with nulls.
///
/// Red when a mapping, an epoch, a field's order or a null is wrong: each was changed once.
#[tokio::test]
async fn every_avro_type_becomes_its_column() {
    let mut db = Db::new("every_type").await;
    let types = [primitive_types(), numbers_and_ids(), moments()].concat();
    let nested = nested_types();
    let (mut fields, mut values, mut nulls) =
        (vec![r#"{"name":"id","type":"string"}"#.to_owned()], Vec::new(), Vec::new());
    let mut expected = Vec::new();
    let all = types.iter().map(|(avro, value, column, shown)| (*avro, value, *column, *shown));
    let all = all.chain(nested.iter().map(|(avro, value, shown)| (*avro, value, "jsonb", *shown)));
    for (i, (avro, value, column, shown)) in all.enumerate() {
        fields.push(format!(r#"{{"name":"f{i}","type":{avro}}}"#));
        values.push((format!("f{i}"), value.clone()));
        nulls.push((format!("f{i}"), value.clone()));
        expected.push((format!("f{i}"), column, shown.to_owned()));
        // A named type can be defined once only, and a union holds no union.
        if !avro.contains("\"name\"") && !avro.starts_with('[') && avro != r#""null""# {
            fields.push(format!(r#"{{"name":"n{i}","type":["null",{avro}]}}"#));
            values.push((format!("n{i}"), branch(value)));
            nulls.push((format!("n{i}"), Value::Union(0, Box::new(Value::Null))));
            expected.push((format!("n{i}"), column, shown.to_owned()));
        }
    }
    let schema = schema(1, &fields.join(","));
    let mut writer = Writer::new(&db, things()).await;
    let with_id = |id, mut fields: Vec<(String, Value)>| {
        fields.insert(0, ("id".to_owned(), text(id)));
        Value::Record(fields)
    };
    let rows = vec![row(&schema, 0, 1, with_id("full", values)), row(&schema, 0, 2, with_id("nulls", nulls))];
    writer.commit(rows).await.unwrap();
    db.sql("set timezone = 'UTC'").await;
    for (name, column, shown) in expected {
        let query = format!(
            "select format_type(atttypid, atttypmod) t from pg_attribute where attrelid = 'things'::regclass and attname = '{name}'"
        );
        assert_eq!(db.texts(&query).await, [format!(r#"{{"t":"{column}"}}"#)], "{name}");
        let query = format!("select coalesce({name}::text, '') v from things where id = 'full'");
        let stored: serde_json::Value = serde_json::from_str(&db.texts(&query).await[0]).unwrap();
        assert_eq!(stored["v"], shown, "{name}");
        let missing = db.number(&format!("select count(*) from things where id = 'nulls' and {name} is null")).await;
        assert_eq!(missing, i64::from(name.starts_with('n') || shown.is_empty()), "{name}");
    }
}

/// Red when a column of the metadata is left out, or filled from another.
#[tokio::test]
async fn each_row_says_where_it_came_from() {
    let mut db = Db::new("metadata").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = crate::harness::plain();
    writer.commit(vec![row(&schema, 1, 7, crate::harness::thing("a", "x"))]).await.unwrap();
    db.sql("set timezone = 'UTC'").await;
    let columns = "hw_event_id, hw_correlation_id, hw_causation_id, hw_topic, hw_event_time, hw_partition, hw_offset";
    let expected = r#"{"hw_event_id":"event-1-7","hw_correlation_id":"conversation","hw_causation_id":"cause","hw_topic":"events.thing","hw_event_time":"1970-01-01T00:00:07+00:00","hw_partition":1,"hw_offset":7}"#;
    assert_eq!(db.texts(&format!("select {columns} from things")).await, [expected]);
}

/// Red when a check is left to the server, which names no column, or is dropped (an infinite date, a stack overflow).
#[tokio::test]
async fn what_no_column_can_hold_is_refused_by_name() {
    let db = Db::new("unholdable").await;
    let date = r#"{"type":"int","logicalType":"date"}"#;
    let micros = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    let millis = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    let time = r#"{"type":"long","logicalType":"time-micros"}"#;
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#;
    let duration = r#"{"type":"fixed","name":"P","size":12,"logicalType":"duration"}"#;
    let node = r#"{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]}]}"#;
    let mut deep = record([("next", Value::Union(0, Box::new(Value::Null)))]);
    for _ in 0..300 {
        deep = record([("next", branch(&deep))]);
    }
    let cases = [
        (r#""string""#, text("a\0b")),
        (r#"{"type":"array","items":"string"}"#, Value::Array(vec![text("a\0b")])),
        (date, Value::Date(i32::MAX)),
        (date, Value::Date(i32::MIN)),
        (date, Value::Date(i32::MIN + 10_957)),
        (micros, Value::TimestampMicros(i64::MIN + 946_684_800_000_000)),
        (millis, Value::TimestampMillis(i64::MAX)),
        (time, Value::TimeMicros(-1)),
        (time, Value::TimeMicros(86_400_000_001)),
        (decimal, Value::Decimal(vec![0x7f, 0xff].into())),
        (duration, Value::Duration(Duration::new(Months::new(u32::MAX), Days::new(0), Millis::new(0)))),
        (node, deep),
    ];
    for (i, (avro, value)) in (0..).zip(cases) {
        let schema = schema(i, &format!(r#"{{"name":"id","type":"string"}},{{"name":"odd","type":{avro}}}"#));
        let sink = headwater::Sink { table: format!("things{i}"), ..things() };
        let mut writer = Writer::new(&db, sink).await;
        // Not through Avro's bytes: the codec has bounds of its own, and these are the column's.
        let why = refusal(writer.commit(vec![as_is(&schema, record([("id", text("a")), ("odd", value)]))]).await);
        assert!(why.contains("column `odd`"), "{avro}: {why}");
    }
}

/// Red when a column's digits or length are not looked at: Postgres rounds a time and cuts blanks off without a word. As a key,
/// two of them would be one.
#[tokio::test]
async fn what_its_column_would_change_is_refused_by_name() {
    let mut db = Db::new("changed_by_column").await;
    let logical = |of: &str, logical: &str| format!(r#"{{"type":"{of}","logicalType":"{logical}"}}"#);
    let duration = r#"{"type":"fixed","name":"P","size":12,"logicalType":"duration"}"#.to_owned();
    let tenths = |millis| Value::Duration(Duration::new(Months::new(0), Days::new(0), Millis::new(millis)));
    let cases = [
        // 23:59:59.6 of a year's last day.
        (
            "timestamptz(0)",
            logical("long", "timestamp-micros"),
            Value::TimestampMicros(1_767_225_599_000_000),
            Value::TimestampMicros(1_767_225_599_600_000),
        ),
        (
            "timestamptz(3)",
            logical("long", "timestamp-micros"),
            Value::TimestampMicros(1_000),
            Value::TimestampMicros(1_001),
        ),
        (
            "timestamp(2)",
            logical("long", "local-timestamp-millis"),
            Value::LocalTimestampMillis(-10),
            Value::LocalTimestampMillis(-1),
        ),
        (
            "timestamptz(3)",
            logical("long", "timestamp-nanos"),
            Value::TimestampNanos(1_000_000),
            Value::TimestampNanos(1_001_000),
        ),
        ("time(0)", logical("int", "time-millis"), Value::TimeMillis(86_399_000), Value::TimeMillis(86_399_600)),
        ("time(5)", logical("long", "time-micros"), Value::TimeMicros(10), Value::TimeMicros(11)),
        ("interval(1)", duration, tenths(100), tenths(150)),
        ("varchar(3)", r#""string""#.to_owned(), text("a  "), text("a   ")),
        ("char(3)", r#""string""#.to_owned(), text("abc"), text("abc ")),
    ];
    for (i, (column, avro, kept, changed)) in (0..).zip(cases) {
        let nullable = schema(
            i,
            &format!(r#"{{"name":"id","type":"string"}},{{"name":"odd","type":{avro}}},{{"name":"n","type":"int"}}"#),
        );
        db.sql(&format!("create table things{i} (id text primary key, odd {column}, n int)")).await;
        let mut writer = Writer::new(&db, headwater::Sink { table: format!("things{i}"), ..things() }).await;
        let with = |id: &str, value| record([("id", text(id)), ("odd", value), ("n", Value::Int(1))]);
        writer.commit(vec![row(&nullable, 0, 1, with("a", kept.clone()))]).await.unwrap();
        let why = refusal(writer.commit(vec![row(&nullable, 0, 2, with("b", changed.clone()))]).await);
        assert!(why.contains("column `odd`"), "{column}: {why}");
        // As a key.
        if column.starts_with("char") || column.starts_with("interval") {
            continue;
        }
        db.sql(&format!("create table keys{i} (odd {column} primary key, n int)")).await;
        let key = schema(100 + i, &format!(r#"{{"name":"odd","type":{avro}}},{{"name":"n","type":"int"}}"#));
        let sink = headwater::Sink { table: format!("keys{i}"), key: vec!["odd".to_owned()], ..things() };
        let mut writer = Writer::new(&db, sink).await;
        let with = |value, n| record([("odd", value), ("n", Value::Int(n))]);
        let both = vec![row(&key, 0, 1, with(kept, 1)), row(&key, 0, 2, with(changed, 2))];
        let why = refusal(writer.commit(both.clone()).await);
        assert!(why.contains("column `odd`"), "{column}: {why}");
        writer.commit(both[..1].to_vec()).await.unwrap();
        assert_eq!(db.texts(&format!("select n from keys{i}")).await, [r#"{"n":1}"#], "{column}");
    }
}

/// Red when nanoseconds of a key are cut off as those of another column are: two keys would be one.
#[tokio::test]
async fn a_key_of_nanoseconds_is_refused_by_name() {
    let db = Db::new("nanos_key").await;
    let key = schema(1, r#"{"name":"id","type":{"type":"long","logicalType":"timestamp-nanos"}}"#);
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![row(&key, 0, 1, record([("id", Value::TimestampNanos(2_000))]))]).await.unwrap();
    let why = refusal(writer.commit(vec![row(&key, 0, 2, record([("id", Value::TimestampNanos(2_001))]))]).await);
    assert!(why.contains("column `id`") && why.contains("nanoseconds"), "{why}");
}

/// Red when the table is tried to be altered: the sink would say for ever that it keeps changing.
#[tokio::test]
async fn a_field_that_is_called_as_a_system_column_is_refused_by_name() {
    let mut db = Db::new("system_column").await;
    let mut writer = Writer::new(&db, things()).await;
    for (id, name) in (0..).zip(["xmin", "xmax", "cmin", "cmax", "ctid", "tableoid"]) {
        let schema = schema(id, &format!(r#"{{"name":"id","type":"string"}},{{"name":"{name}","type":"string"}}"#));
        let why =
            refusal(writer.commit(vec![row(&schema, 0, 1, record([("id", text("a")), (name, text("x"))]))]).await);
        assert!(why.contains(&format!("`{name}`")), "{why}");
    }
    assert_eq!(db.number("select count(*) from pg_tables where tablename = 'things'").await, 0);
    // The others of the group go on.
    writer.commit(vec![row(&crate::harness::plain(), 0, 2, crate::harness::thing("a", "x"))]).await.unwrap();
}

/// Red when the bounds are one too narrow.
#[tokio::test]
async fn the_ends_of_the_ranges_are_stored() {
    let mut db = Db::new("range_ends").await;
    let schema = schema(
        1,
        r#"{"name":"id","type":"string"},{"name":"d","type":{"type":"int","logicalType":"date"}},
           {"name":"t","type":{"type":"long","logicalType":"time-micros"}},
           {"name":"z","type":{"type":"long","logicalType":"timestamp-micros"}}"#,
    );
    let ends = [
        ("low", -2_440_588, 0, -210_866_803_200_000_000, "4714-11-24 BC"),
        ("high", 2_145_042_905, 86_400_000_000, i64::MAX, "5874897-12-31"),
    ];
    let mut writer = Writer::new(&db, things()).await;
    for (i, (id, days, time, micros, _)) in (0..).zip(ends) {
        let fields = [
            ("id", text(id)),
            ("d", Value::Date(days)),
            ("t", Value::TimeMicros(time)),
            ("z", Value::TimestampMicros(micros)),
        ];
        writer.commit(vec![row(&schema, 0, i, record(fields))]).await.unwrap();
    }
    for (id, .., date) in ends {
        assert_eq!(
            db.texts(&format!("select d::text from things where id = '{id}'")).await,
            [format!(r#"{{"d":"{date}"}}"#)]
        );
    }
    assert_eq!(db.texts("select t::text from things where id = 'high'").await, [r#"{"t":"24:00:00"}"#]);
}

use std::time::{Duration, Instant};

use apache_avro::types::Value;
use proptest::prelude::*;

use crate::{
    codec::{
        avro::layout::{DEPTH_LIMIT, Layout},
        tests::*,
    },
    failure::DeadLetterKind,
};

/// Nine bytes: a string of 2^62 bytes, or an array of as many items.
const NINE: [u8; 9] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

/// Red when the magic byte is not looked at, or the id is cut out of too few bytes.
#[test]
fn what_is_not_in_the_wire_format_is_a_decode_fault() {
    assert_eq!(split(&[0, 0, 0, 1, 2, 9]).unwrap(), (258, &[9][..]));
    assert_eq!(split(&[0, 0, 0, 0, 1]).unwrap(), (1, &[][..]));
    for value in [&[][..], &[1, 0, 0, 0, 1, 5], b"{\"json\": true}", &[0], &[0, 0, 0, 1]] {
        assert_eq!(split(value).unwrap_err().kind(), DeadLetterKind::Decode, "{value:?}");
    }
}

/// Red when trailing bytes pass, or a string cut off at its end reads as null, as in apache-avro's `Value` decoder.
#[test]
fn a_datum_is_neither_shorter_nor_longer_than_its_value() {
    let writer = schema(ORDER);
    let mut bytes = datum(ORDER, &order());
    for end in 0..bytes.len() {
        let cut = &bytes[..end];
        assert_eq!(writer.decode::<Order>(cut).unwrap_err().kind(), DeadLetterKind::Decode, "{end}");
        assert_eq!(writer.value(cut).unwrap_err().kind(), DeadLetterKind::Decode, "{end}");
    }
    let error = writer.decode::<Order>(&bytes[..2]).unwrap_err().to_string();
    assert_eq!(error, "id: the datum ends within it: 3 bytes announced, 1 left");
    bytes.extend([0, 0]);
    for error in [writer.decode::<Order>(&bytes).unwrap_err(), writer.value(&bytes).unwrap_err()] {
        assert!(matches!(error, CodecError::Trailing(2)), "{error}");
        assert_eq!(error.kind(), DeadLetterKind::Decode);
    }
}

/// Red when a length is believed before it is compared with what is left of the datum.
#[test]
fn nine_bytes_cannot_ask_for_half_a_gigabyte() {
    let begun = Instant::now();
    let error = schema(ORDER).decode::<Order>(&NINE).unwrap_err();
    assert_eq!(error.to_string(), format!("id: the datum ends within it: {} bytes announced, 0 left", i64::MAX / 2));
    for kind in [r#""string""#, r#""bytes""#, r#"{"type":"array","items":"null"}"#, r#"{"type":"map","values":"long"}"#]
    {
        let writer = schema(&format!(r#"{{"type":"record","name":"R","fields":[{{"name":"x","type":{kind}}}]}}"#));
        let error = writer.value(&NINE).unwrap_err();
        assert!(error.to_string().starts_with("x: "), "{error}");
        assert_eq!(error.kind(), DeadLetterKind::Decode);
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// Red when items that take no bytes are not counted: the direct decoder would skip 2^40 nulls one by one.
#[test]
fn items_without_bytes_are_counted() {
    let text =
        ORDER.replacen(r#""fields":["#, r#""fields":[{"name":"nulls","type":{"type":"array","items":"null"}},"#, 1);
    let writer = schema(&text);
    let mut bytes = vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0];
    bytes.extend(datum(ORDER, &order()));
    let begun = Instant::now();
    for error in [writer.decode::<Order>(&bytes).unwrap_err(), writer.value(&bytes).unwrap_err()] {
        assert!(error.to_string().starts_with("nulls: "), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    // A billion values from a schema of thirty lines and no byte at all.
    let twice = (1..30).map(|n| {
        let inner = if n == 1 { r#""null""#.to_owned() } else { format!(r#""T{}""#, n - 1) };
        format!(
            r#"{{"name":"f{n}","type":{{"type":"record","name":"T{n}","fields":[
            {{"name":"a","type":{inner}}},{{"name":"b","type":{inner}}}]}}}}"#
        )
    });
    let doubling = format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, twice.collect::<Vec<_>>().join(","));
    assert_eq!(schema(&doubling).value(&[]).unwrap_err().kind(), DeadLetterKind::Decode);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    next: Option<Box<Node>>,
}

impl Payload for Node {
    const TYPE: &'static str = "node.made";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]}]}"#;

    fn key(&self) -> &str {
        ""
    }
}

/// Red when the nesting is not bounded: the process would end with its stack.
#[test]
fn nesting_ends_before_the_stack_does() {
    // The writer's extra field sends the second schema down the resolving path.
    let resolving = Node::SCHEMA.replace("Node", "Knot");
    let run = move || {
        for text in [Node::SCHEMA, resolving.as_str()] {
            let writer = schema(text);
            let deep = |nodes: usize| [vec![2; nodes], vec![0]].concat();
            let deepest = DEPTH_LIMIT / 2;
            for bytes in [vec![2; 1_000_000], deep(1_000_000), deep(deepest)] {
                let error = writer.decode::<Node>(&bytes).unwrap_err();
                assert!(error.to_string().contains("nest deeper"), "{error}");
                assert!(error.to_string().len() < 200, "{error}");
                assert_eq!(writer.value(&bytes).unwrap_err().kind(), DeadLetterKind::Decode);
            }
            writer.decode::<Node>(&deep(deepest - 1)).expect("the deepest that is allowed");
            writer.value(&deep(deepest - 1)).expect("the deepest that is allowed");
            assert_eq!(writer.decodes_directly::<Node>(), text == Node::SCHEMA);
        }
    };
    // What a worker thread of tokio has.
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

/// Red when the field of a string that is not UTF-8 is not looked for.
#[test]
fn text_that_is_not_utf_8_names_its_field() {
    let mut bytes = datum(ORDER, &order());
    bytes[1] = 0xff;
    for error in [schema(ORDER).decode::<Order>(&bytes).unwrap_err(), schema(ORDER).value(&bytes).unwrap_err()] {
        assert_eq!((error.to_string().as_str(), error.kind()), ("id: a string is not UTF-8", DeadLetterKind::Decode));
    }
}

/// Red when a layout without a bound is taken for one with: its data would reach the direct decoder unchecked.
#[test]
fn only_what_its_schema_bounds_goes_unchecked() {
    let of = |field: &str| {
        let text = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"x","type":{field}}}]}}"#);
        Layout::new(schema(&text).schema()).unwrap().is_bounded()
    };
    assert!(Layout::new(schema(ORDER).schema()).unwrap().is_bounded());
    assert!(of(r#"{"type":"array","items":["null","string"]}"#) && of(r#"{"type":"map","values":"int"}"#));
    assert!(!of(r#"["null","R"]"#), "recursion");
    assert!(!of(r#"{"type":"array","items":"null"}"#), "items without bytes");
    assert!(!of(r#"{"type":"array","items":{"type":"fixed","name":"F","size":0}}"#), "items without bytes");
    let nulls: Vec<_> = (0..20).map(|n| format!(r#"{{"name":"f{n}","type":"null"}}"#)).collect();
    let item =
        format!(r#"{{"type":"record","name":"I","fields":[{{"name":"b","type":"boolean"}},{}]}}"#, nulls.join(","));
    assert!(!of(&format!(r#"{{"type":"array","items":{item}}}"#)), "twenty nulls to a byte");
}

/// Red when a block's size in bytes, which other writers put before it, is read as an item.
#[test]
fn arrays_in_several_sized_blocks_are_read() {
    let text = r#"{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":"int"}}]}"#;
    let wanted = Value::Record(vec![("x".to_owned(), Value::Array(vec![Value::Int(1), Value::Int(2), Value::Int(3)]))]);
    assert_eq!(schema(text).value(&[3, 4, 2, 4, 2, 6, 0]).unwrap(), wanted);
}

/// Red when the scale of a big-decimal is not bounded: printing it would take 2^61 digits.
#[test]
fn a_big_decimal_of_endless_digits_is_refused() {
    let writer = schema(
        r#"{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"bytes","logicalType":"big-decimal"}}]}"#,
    );
    let with_scale = |scale: &[u8]| [&[2 * u8::try_from(scale.len() + 2).unwrap(), 2, 5], scale].concat();
    assert_eq!(writer.json(&writer.value(&with_scale(&[2])).unwrap()), serde_json::json!({"x": "0.5"}));
    let error = writer.value(&with_scale(&NINE)).unwrap_err();
    assert!(error.to_string().starts_with("x: a big-decimal's scale"), "{error}");
}

/// How many values a value holds, itself among them.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Union(_, inner) => size(inner),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Map(items) => items.values().map(size).sum(),
        Value::Record(fields) => fields.iter().map(|(_, value)| size(value)).sum(),
        _ => 0,
    }
}

/// Red when a fault other than `decode` comes out, a decoder panics, or bytes become more values than they account for.
#[test]
fn random_bytes_never_panic_and_never_grow() {
    let order_schema = schema(ORDER);
    let node = schema(Node::SCHEMA);
    let nulls = schema(
        r#"{"type":"map","values":{"type":"array","items":["null","string",{"type":"array","items":"null"},
          {"type":"bytes","logicalType":"decimal","precision":4,"scale":2},{"type":"fixed","name":"F","size":0}]}}"#,
    );
    let valid = datum(ORDER, &order());
    let check = |bytes: &[u8]| {
        if let Err(error) = order_schema.decode::<Order>(bytes) {
            assert_eq!(error.kind(), DeadLetterKind::Decode, "{error}");
        }
        let _ = node.decode::<Node>(bytes);
        for writer in [&order_schema, &node, &nulls] {
            match writer.value(bytes) {
                Ok(value) => {
                    assert!(size(&value) <= bytes.len() * 8 + 16_384, "{bytes:?}");
                    writer.json(&value);
                }
                Err(error) => {
                    assert_eq!(error.kind(), DeadLetterKind::Decode, "{error}");
                    assert!(error.to_string().len() < 300, "{error}");
                }
            }
        }
    };
    proptest!(ProptestConfig::with_cases(2_048), |(bytes in prop::collection::vec(any::<u8>(), 0..64))| {
        check(&bytes);
    });
    // Near misses go deeper than noise.
    proptest!(ProptestConfig::with_cases(2_048), |(at in 0..valid.len(), byte: u8, cut in 0..8usize)| {
        let mut bytes = valid.clone();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        check(&bytes);
    });
}

/// Red when two threads that meet at a schema's first record get in each other's way.
#[test]
fn threads_share_a_schemas_plans() {
    let writer = schema(ORDER);
    let bytes = datum(ORDER, &order());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    writer.decode::<Order>(&bytes).unwrap();
                    writer.decode::<Node>(&bytes).unwrap_err();
                }
            });
        }
    });
    assert!(writer.decodes_directly::<Order>() && !writer.decodes_directly::<Node>());
}

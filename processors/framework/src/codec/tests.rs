mod agreement;
mod compat;
mod evolution;
mod foreign;
mod hostile;
mod json;
mod promotion;
mod random;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    codec::*,
    event::{payload::Payload, time::Time},
};

/// What every kind of field that a payload may have looks like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    amount_cents: i64,
    ratio: f64,
    weight: f32,
    paid: bool,
    note: Option<String>,
    tags: Vec<String>,
    counts: BTreeMap<String, i64>,
    status: Status,
    at: Time,
    day: i32,
    #[serde(with = "apache_avro::serde::bytes")]
    raw: Vec<u8>,
    address: Option<Address>,
    lines: Vec<Line>,
    #[serde(default = "web")]
    channel: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Status {
    #[serde(rename = "OPEN")]
    Open,
    #[serde(rename = "PAID")]
    Paid,
    #[serde(rename = "SENT")]
    Sent,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    street: String,
    zip: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: String,
    quantity: i64,
    price: f64,
    gift: Option<bool>,
}

fn web() -> String {
    "web".to_owned()
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"test.shop","fields":[
  {"name":"id","type":"string"},
  {"name":"amount_cents","type":"long","default":7},
  {"name":"ratio","type":"double","default":0.5},
  {"name":"weight","type":"float","default":1.5},
  {"name":"paid","type":"boolean","default":true},
  {"name":"note","type":["null","string"],"default":null},
  {"name":"tags","type":{"type":"array","items":"string"},"default":["new"]},
  {"name":"counts","type":{"type":"map","values":"long"},"default":{"a":1}},
  {"name":"status","type":{"type":"enum","name":"Status","symbols":["OPEN","PAID","SENT"],"default":"OPEN"},"default":"PAID"},
  {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"},"default":5},
  {"name":"day","type":{"type":"int","logicalType":"date"},"default":2},
  {"name":"raw","type":"bytes","default":"ab"},
  {"name":"address","type":["null",{"type":"record","name":"Address","fields":[
    {"name":"street","type":"string"},{"name":"zip","type":"int","default":1}]}],"default":null},
  {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
    {"name":"sku","type":"string","default":"x"},{"name":"quantity","type":"long"},
    {"name":"price","type":"double","default":1},{"name":"gift","type":["null","boolean"],"default":null}]}},"default":[]},
  {"name":"channel","type":"string","default":"web"}]}"#;

impl Payload for Order {
    const TYPE: &'static str = "shop.order";
    const SCHEMA: &'static str = ORDER;

    fn key(&self) -> &str {
        &self.id
    }
}

fn order() -> Order {
    Order {
        id: "o-1".to_owned(),
        amount_cents: 1_250,
        ratio: 0.25,
        weight: 2.5,
        paid: false,
        note: Some("by the door".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        counts: BTreeMap::from([("k".to_owned(), 3)]),
        status: Status::Sent,
        at: Time::from_micros(1_767_225_600_000_250),
        day: 20_454,
        raw: vec![0, 200, 7],
        address: Some(Address { street: "Main St".to_owned(), zip: 12_345 }),
        lines: vec![Line { sku: "s".to_owned(), quantity: 2, price: 9.5, gift: Some(true) }],
        channel: "app".to_owned(),
    }
}

fn schema(text: &str) -> Arc<WriterSchema> {
    WriterSchema::parse(1, text, &[]).expect("a schema")
}

/// What a datum of `value` looks like under `text`.
fn datum<T: Serialize>(text: &str, value: &T) -> Vec<u8> {
    Encoder::new(1, text).expect("a schema").encode(value).expect("fits").split_off(5)
}

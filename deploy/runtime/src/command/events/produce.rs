//! `produce TYPE`: JSON lines in, Avro events out. A refused line is named by its number, the others are sent.

use std::{
    io::{BufRead, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use headwater::{
    Time,
    spi::{Message, Outgoing, Span, codec::split, first_headers},
};
use headwater_connectors::kafka::Producer;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::produce_target::{KeySource, ProduceTarget};
use crate::{INTERRUPTED, app::Loader, clients::Clients, command::arguments::ProduceArguments, process::signals::Stop};

/// Bytes of a line at most.
const LINE_LIMIT: u64 = 16 << 20;
/// Lines that are sent together at most.
const BATCH: usize = 500;
const SOURCE: &str = "headwater/produce";
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(crate) async fn run(loader: &Loader, arguments: ProduceArguments, mut stop: Stop) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let clients = Clients::new(&app)?;
    let target = ProduceTarget::find(&app, &clients, arguments.event_type, arguments.key).await?;
    // A broker that cannot be reached, or a topic that is not there, is said before anything is read.
    tokio::select! {
        there = target.require_topic(&clients.cluster) => there?,
        () = stop.requested() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    let producer = clients.producer()?;
    let (lines_in, mut lines) = mpsc::channel(BATCH);
    // Ends with standard input, or when nobody takes its lines any more.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read_lines(&lines_in))?;
    let (mut batch, mut tally) = (Vec::with_capacity(BATCH), ProduceTally::default());
    // A signal comes between two batches: of every line that was read it is said what became of it.
    while !stop.is_requested() {
        let read = tokio::select! {
            read = lines.recv_many(&mut batch, BATCH) => read,
            () = stop.requested() => 0,
        };
        if read == 0 {
            break;
        }
        send(&target, &producer, batch.drain(..), &mut tally).await?;
    }
    let mut out = std::io::stderr().lock();
    writeln!(out, "{} sent, {} refused", tally.sent, tally.refused)?;
    Ok(match tally.refused {
        _ if stop.is_requested() => ExitCode::from(INTERRUPTED),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A line with its number, from 1; or why there is none.
type Line = (u64, Result<Vec<u8>, String>);

#[derive(Debug, Default)]
struct ProduceTally {
    sent: usize,
    refused: usize,
}

impl ProduceTally {
    fn refuse(&mut self, line: u64, why: &str) -> Result<()> {
        self.refused += 1;
        writeln!(std::io::stderr().lock(), "line {line}: {why}").context("cannot write to standard error")
    }
}

async fn send(
    target: &ProduceTarget,
    producer: &Producer,
    lines: impl Iterator<Item = Line>,
    tally: &mut ProduceTally,
) -> Result<()> {
    let (mut records, mut numbers, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for (number, line) in lines {
        match line.and_then(|line| record(target, &line)) {
            Ok((record, span)) => {
                records.push(record);
                spans.extend(span);
                numbers.push(number);
            }
            Err(why) => tally.refuse(number, &why)?,
        }
    }
    let failed = producer.send(&records).await.err().map(|errors| errors.0).unwrap_or_default();
    tally.sent += records.len() - failed.len();
    for error in failed {
        tally.refuse(numbers[error.index], &error.reason)?;
    }
    Ok(())
}

/// The span ends when the record is sent.
fn record(target: &ProduceTarget, line: &[u8]) -> Result<(Outgoing, Option<Span>), String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    let value = target.encoder.encode_json(&json).map_err(|error| error.to_string())?;
    let key = match &target.key {
        KeySource::Of(facts) => {
            let (_, datum) = split(&value).map_err(|error| error.to_string())?;
            (facts.key_of)(&target.schema, datum).map_err(|error| error.to_string())?
        }
        KeySource::Field(field) => match json.get(field) {
            Some(Json::String(text)) => text.clone(),
            Some(number @ Json::Number(_)) => number.to_string(),
            _ => return Err(format!("field `{field}`, the key, is neither text nor a number")),
        },
    };
    let id = Uuid::new_v4().to_string();
    let message = Message { topic: &target.topic, partition: None, id: &id, correlation_id: &id, causation_id: None };
    let (trace, span) = target.tracing.first(SOURCE, message);
    let headers = first_headers(&id, SOURCE, &target.event_type, &key, Time::now(), &trace);
    let record = Outgoing {
        topic: target.topic.clone(),
        partition: None,
        key: Some(key.into_bytes()),
        value: Some(value),
        headers,
    };
    Ok((record, span))
}

/// Hands on every line that is not blank, until the end of input.
fn read_lines(lines: &mpsc::Sender<Line>) {
    let mut input = std::io::stdin().lock();
    let mut number = 0;
    loop {
        number += 1;
        let mut line = Vec::new();
        let line = match input.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(read) if read as u64 == LINE_LIMIT && !line.ends_with(b"\n") => {
                let skipped = input.skip_until(b'\n').map(|_| ());
                let why = format!("longer than {LINE_LIMIT} bytes");
                Err(skipped.err().map_or(why, |error| error.to_string()))
            }
            Ok(_) => match unmarked(number, line) {
                line if line.trim_ascii().is_empty() => continue,
                line => Ok(line),
            },
            Err(error) => {
                let _ = lines.blocking_send((number, Err(format!("cannot read standard input: {error}"))));
                return;
            }
        };
        if lines.blocking_send((number, line)).is_err() {
            return;
        }
    }
}

/// A line without the byte order mark that some editors begin a file with.
fn unmarked(number: u64, mut line: Vec<u8>) -> Vec<u8> {
    if number == 1 && line.starts_with(BYTE_ORDER_MARK) {
        line.drain(..BYTE_ORDER_MARK.len());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a file's mark is taken for the beginning of its first line, or another line's is dropped. That lines go
    /// through here `a_refused_line_is_named_and_the_others_are_sent` shows.
    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let line = |text: &str| text.as_bytes().to_vec();
        assert_eq!(unmarked(1, line("\u{feff}{}\n")), b"{}\n");
        assert_eq!(unmarked(1, line("{}\n")), b"{}\n");
        assert_eq!(unmarked(2, line("\u{feff}{}")), line("\u{feff}{}"));
    }
}

//! `produce TYPE`: JSON lines in, Avro events out. A refused line is named by its number, the others are sent.

use std::{
    io::{BufRead, Read, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use headwater::{
    EventType, Message, Outgoing, Span, Time, Tracing,
    codec::{Encoder, WriterSchema, split},
    first_headers,
    ports::{SchemaError, Schemas as _},
    topic_of,
};
use headwater_connectors::kafka::Producer;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    INTERRUPTED,
    arguments::ProduceArguments,
    config::{Problems, nearest},
    outside::Outside,
    program::{App, Program},
    signals::Stop,
};

/// Bytes of a line at most.
const LINE_LIMIT: u64 = 16 << 20;
/// Lines that are sent together at most.
const BATCH: usize = 500;
const SOURCE: &str = "headwater/produce";

pub(crate) async fn run(program: &Program, arguments: ProduceArguments, mut stop: Stop) -> Result<ExitCode> {
    let app = program.load(&[])?;
    let outside = Outside::new(&app)?;
    let target = Target::find(&app, &outside, arguments).await?;
    // A broker that cannot be reached, or a topic that is not there, is said before anything is read.
    let topics = tokio::select! {
        topics = outside.cluster.topics() => topics?,
        () = stop.requested() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let topic = &*target.topic;
    anyhow::ensure!(
        topics.iter().any(|known| known.name == topic),
        "topic {topic} does not exist: run `headwater topology apply`"
    );
    let producer = outside.producer()?;
    let (lines_in, mut lines) = mpsc::channel(BATCH);
    // Ends with standard input, or when nobody takes its lines any more.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read_lines(&lines_in))?;
    let (mut batch, mut tally) = (Vec::with_capacity(BATCH), Tally::default());
    // A signal comes between two batches: of every line that was read it is said what became of it.
    while !stop.is_requested() {
        let read = tokio::select! {
            read = lines.recv_many(&mut batch, BATCH) => read,
            () = stop.requested() => 0,
        };
        if read == 0 {
            break;
        }
        target.send(&producer, batch.drain(..), &mut tally).await?;
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
struct Tally {
    sent: usize,
    refused: usize,
}

impl Tally {
    fn refuse(&mut self, line: u64, why: &str) -> Result<()> {
        self.refused += 1;
        writeln!(std::io::stderr().lock(), "line {line}: {why}").context("cannot write to standard error")
    }
}

/// Where the events go and how they are written.
struct Target {
    event_type: String,
    topic: Arc<str>,
    encoder: Encoder,
    schema: Arc<WriterSchema>,
    key: Key,
    tracing: Tracing,
}

enum Key {
    /// The value of this field.
    Field(String),
    /// What the type itself says.
    Of(EventType),
}

impl Target {
    /// A type of the catalogue goes to its own topic under its own schema; one that only a binding names goes to the
    /// bound topic under the newest schema registered for that.
    async fn find(app: &App, outside: &Outside, arguments: ProduceArguments) -> Result<Self> {
        let ProduceArguments { event_type, key } = arguments;
        let (catalogue, tracing) = (app.pipeline.catalogue(), app.tracing.clone());
        let bound = catalogue.bindings().find(|(_, binding)| binding.event_type == event_type).map(|(topic, _)| topic);
        if let Some(facts) = catalogue.get(&event_type) {
            let topic = topic_of(facts.name);
            let subject =
                headwater::Topology::of(&app.pipeline).subjects.into_iter().find(|s| s.schema == facts.schema);
            let subject = subject.map(|subject| subject.name).unwrap_or_default();
            let id = outside.registry.id_of(&subject, facts.schema).await.map_err(|error| match error {
                SchemaError::Unknown(why) => anyhow::anyhow!("{why}: run `headwater topology apply`"),
                error => error.into(),
            })?;
            let schema = WriterSchema::parse(id, facts.schema, &[])?;
            let key = key.map_or(Key::Of(*facts), Key::Field);
            return Ok(Self { encoder: Encoder::of(&schema)?, event_type, topic: topic.into(), schema, key, tracing });
        }
        let Some(topic) = bound else {
            let known: Vec<&str> = catalogue
                .types()
                .map(|t| t.name)
                .chain(catalogue.bindings().map(|(_, b)| b.event_type.as_str()))
                .collect();
            let hint = nearest(&event_type, &known)
                .map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(Problems::one(format!("there is no event type `{event_type}`; {hint}")).into());
        };
        let key = key.ok_or_else(|| {
            Problems::one(format!(
                "`{event_type}` is known by its bound topic alone: say with --key which field is the key"
            ))
        })?;
        let id = outside.registry.latest(&format!("{topic}-value")).await.map_err(|error| match error {
            SchemaError::Unknown(why) => anyhow::anyhow!("{why}: register a schema for the bound topic"),
            error => error.into(),
        })?;
        let text = outside.registry.by_id(id).await?;
        let schema = WriterSchema::parse(id, &text.schema, &text.references)?;
        let key = Key::Field(key);
        Ok(Self { encoder: Encoder::of(&schema)?, event_type, topic: topic.into(), schema, key, tracing })
    }

    async fn send(&self, producer: &Producer, lines: impl Iterator<Item = Line>, tally: &mut Tally) -> Result<()> {
        let (mut records, mut numbers, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (number, line) in lines {
            match line.and_then(|line| self.record(&line)) {
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
    fn record(&self, line: &[u8]) -> Result<(Outgoing, Option<Span>), String> {
        let json: Json = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let value = self.encoder.encode_json(&json).map_err(|error| error.to_string())?;
        let key = match &self.key {
            Key::Of(facts) => {
                let (_, datum) = split(&value).map_err(|error| error.to_string())?;
                (facts.key_of)(&self.schema, datum).map_err(|error| error.to_string())?
            }
            Key::Field(field) => match json.get(field) {
                Some(Json::String(text)) => text.clone(),
                Some(number @ Json::Number(_)) => number.to_string(),
                _ => return Err(format!("field `{field}`, the key, is neither text nor a number")),
            },
        };
        let id = Uuid::new_v4().to_string();
        let message = Message { topic: &self.topic, partition: None, id: &id, correlation_id: &id, causation_id: None };
        let (trace, span) = self.tracing.first(SOURCE, message);
        let headers = first_headers(&id, SOURCE, &self.event_type, &key, Time::now(), &trace);
        let record = Outgoing {
            topic: self.topic.clone(),
            partition: None,
            key: Some(key.into_bytes()),
            value: Some(value),
            headers,
        };
        Ok((record, span))
    }
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
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => Ok(line),
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

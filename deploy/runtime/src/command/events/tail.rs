//! `tail PATTERN`: events as JSON lines. What cannot be decoded is printed with an `error` and stops nothing.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use headwater::{
    Origin, Pattern,
    spi::{Record, topic_of},
};
use headwater_connectors::{files::event_fields, kafka::Subscription};
use serde_json::{Value as Json, json};

use crate::{
    app::{App, Loader},
    clients::{
        Clients,
        topic_reader::{DecodedRecord, RecordDecoder, TopicReader},
    },
    command::arguments::TailArguments,
    config::{Problems, nearest},
    groups::ALL_EVENTS,
    process::{
        output::{Output, OutputState},
        signals::Stop,
    },
};

pub(crate) async fn run(loader: &Loader, arguments: &TailArguments, mut stop: Stop) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let pattern: Pattern = arguments.pattern.parse().map_err(|error| Problems::one(format!("{error}")))?;
    if let Some(hint) = unknown(&app, &arguments.pattern) {
        writeln!(std::io::stderr().lock(), "{hint}")?;
    }
    let clients = Clients::new(&app)?;
    let mut decoder = RecordDecoder::new(&clients, app.pipeline.catalogue());
    let mut reader = tokio::select! {
        reader = TopicReader::open(&clients, sources(&app, &pattern), arguments.from_beginning) => reader?,
        () = stop.requested() => return Ok(ExitCode::SUCCESS),
    };
    let printed = tokio::select! {
        printed = print(&mut reader, &mut decoder, &pattern, arguments.limit) => printed,
        () = stop.requested() => Ok(()),
    };
    reader.close().await;
    printed.map(|()| ExitCode::SUCCESS)
}

/// What to say of a type that no processor and no binding names. It may be there all the same: a foreign producer's.
fn unknown(app: &App, pattern: &str) -> Option<String> {
    let catalogue = app.pipeline.catalogue();
    let own = catalogue.types().map(|known| known.name);
    let known: Vec<&str> = own.chain(catalogue.bindings().map(|(_, binding)| binding.event_type.as_str())).collect();
    if pattern.contains(['*', '#']) || known.contains(&pattern) {
        return None;
    }
    let near = nearest(pattern, &known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    Some(format!("note: no processor and no bound topic names the event type `{pattern}`{near}"))
}

/// Prints until the limit is reached, or nobody reads any more.
async fn print(
    reader: &mut TopicReader,
    decoder: &mut RecordDecoder,
    pattern: &Pattern,
    limit: Option<u64>,
) -> Result<()> {
    let (mut out, mut left) = (Output::new(), limit.unwrap_or(u64::MAX));
    while left > 0 {
        for record in reader.next().await? {
            let seen = decoder.decode(&record).await;
            // One whose type is unknown could be what is looked for.
            let wanted = seen.meta.as_ref().map_or(true, |meta| pattern.matches(&meta.event_type));
            if wanted && left > 0 {
                left -= 1;
                out.line(line(&record, &seen))?;
            }
        }
        if out.flush()? == OutputState::Closed {
            return Ok(());
        }
    }
    Ok(())
}

/// The topics on which events of a pattern can be.
fn sources(app: &App, pattern: &Pattern) -> Subscription {
    let catalogue = app.pipeline.catalogue();
    let bound = catalogue.bindings().filter(|(_, binding)| pattern.matches(&binding.event_type));
    let mut topics: Vec<String> = bound.map(|(topic, _)| topic.to_owned()).collect();
    let Some(domain) = pattern.domain() else { return Subscription { topics, patterns: vec![ALL_EVENTS.to_owned()] } };
    let own = format!("events.{domain}");
    // A domain that only bindings name has no topic of ours.
    if topics.is_empty() || catalogue.types().any(|known| topic_of(known.name) == own) {
        topics.push(own);
    }
    Subscription { topics, patterns: Vec::new() }
}

/// One event with all of its metadata, as an object on one line.
fn line(record: &Record, seen: &DecodedRecord) -> Json {
    let meta = seen.meta.as_ref();
    let place = Origin { partition: record.place(), offset: record.offset, timestamp_ms: record.timestamp_ms };
    let data = seen.data.as_ref().cloned().unwrap_or(Json::Null);
    let key = record.key.as_deref();
    let mut fields = event_fields(meta.map_err(|_| &record.headers), &place, key, seen.schema_id, data);
    if let Ok(meta) = meta {
        fields.insert("attempt".to_owned(), json!(meta.attempt));
    }
    let errors: Vec<&str> = [meta.err(), seen.data.as_ref().err()].into_iter().flatten().map(String::as_str).collect();
    if !errors.is_empty() {
        fields.insert("error".to_owned(), json!(errors.join("; ")));
    }
    Json::Object(fields)
}

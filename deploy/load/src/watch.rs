//! Where records arrive: a topic that is read from its end, or a sink's table that is looked at again and again.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use headwater::{
    Mode, Sink,
    spi::{Record, Work, foreign_id, topic_of},
};
use headwater_connectors::{
    kafka::Subscription,
    postgres::{PostgresError, TableWatch},
};
use headwater_runtime::{App, Clients, Problems, TopicReader, nearest};
use tokio::time::Instant;

use crate::{
    arguments::Load,
    meter::{Destination, Meter},
    sender::parse_id,
};

/// How often a table is looked at when that costs little.
const LOOK: Duration = Duration::from_millis(20);
/// What part of the time looking may take, and sweeping the whole table.
const LOOK_SHARE: u32 = 10;
const SWEEP_SHARE: u32 = 20;
/// How often the whole table is swept at most.
const SWEEP: Duration = Duration::from_millis(250);
/// How long joining the group that reads a topic may take.
const JOIN: Duration = Duration::from_secs(30);

/// Who looks for records in one place.
pub(crate) enum Watch {
    /// On a topic, those of an event type or all.
    Topic(Box<TopicReader>, Option<String>),
    Table(TableWatch),
}

/// Begins to look where the arguments say: whatever is there after this is seen.
///
/// # Errors
/// [`Problems`] for a topic or a sink that there is not; whatever keeps a server from answering.
pub(crate) async fn start(app: &App, clients: &Clients, arguments: &Load) -> Result<Vec<(Watch, Destination)>> {
    let mut watches = Vec::new();
    let early = !arguments.headers;
    if let Some(sink) = &arguments.to_table {
        let sink = find_sink(app, sink)?;
        let watch = TableWatch::start(&clients.database, &sink.table).await?;
        // With a key of its own each record has a row of its own, as far as the load can know.
        let replaces = sink.mode == Mode::Upsert && arguments.keys.is_some();
        watches.push((Watch::Table(watch), Destination::new(format!("table {}", sink.table), replaces, early)?));
    }
    if let Some(wanted) = &arguments.to_topic {
        let (topic, event_type) = find_topic(app, clients, wanted).await?;
        let subscription = Subscription { topics: vec![topic.clone()], patterns: Vec::new() };
        let mut reader = TopicReader::open(clients, subscription, false).await?;
        let joined = tokio::time::timeout(JOIN, reader.joined()).await;
        joined.unwrap_or_else(|_| anyhow::bail!("topic {topic} cannot be read: no partition of it within {JOIN:?}"))?;
        let name = event_type.as_ref().map_or_else(|| format!("topic {topic}"), |name| format!("{name} on {topic}"));
        watches.push((Watch::Topic(Box::new(reader), event_type), Destination::new(name, false, early)?));
    }
    Ok(watches)
}

impl Watch {
    /// Tells the meter of all that arrives, until it is dropped.
    ///
    /// # Errors
    /// When looking cannot go on.
    pub(crate) async fn run(self, meter: Arc<Meter>, destination: usize) -> Result<()> {
        match self {
            Self::Topic(mut reader, event_type) => loop {
                let records = reader.next().await?;
                let ours = records.iter().filter(|record| is_of(record, event_type.as_deref()));
                meter.arrived(destination, ours.filter_map(correlation));
            },
            Self::Table(mut table) => {
                let (mut looked, mut swept) = (Instant::now(), Instant::now());
                let (mut next, mut next_sweep) = (looked, swept);
                loop {
                    tokio::time::sleep_until(next).await;
                    let begin = Instant::now();
                    let sweep = begin >= next_sweep;
                    let Some(ids) = found(table.look(sweep).await)? else {
                        next = begin + SWEEP;
                        continue;
                    };
                    meter.arrived(destination, ids.iter().filter_map(|id| parse_id(id)));
                    let (now, took) = (Instant::now(), begin.elapsed());
                    meter.destinations[destination].note_gap(now - looked);
                    looked = now;
                    if sweep {
                        swept = now;
                        next_sweep = swept + (took * SWEEP_SHARE).max(SWEEP);
                    }
                    let pause = if sweep { LOOK } else { (took * LOOK_SHARE).max(LOOK) };
                    next = (begin + pause).max(now);
                }
            }
        }
    }
}

/// An outage is waited out: what arrives meanwhile is found later.
fn found(looked: Result<Vec<String>, PostgresError>) -> Result<Option<Vec<String>>> {
    match looked {
        Err(PostgresError::Outage(why) | PostgresError::Credentials(why)) => {
            tracing::warn!(error = %why, "the table cannot be looked at; trying again");
            Ok(None)
        }
        looked => Ok(Some(looked?)),
    }
}

fn is_of(record: &Record, event_type: Option<&str>) -> bool {
    match (header(record, "ce_type"), event_type) {
        (Some(is), Some(wanted)) => is == wanted,
        // A foreign record does not say.
        _ => true,
    }
}

/// What began the conversation that a record belongs to.
fn correlation(record: &Record) -> Option<u128> {
    let said = header(record, "ce_correlationid").or_else(|| header(record, "ce_id"));
    match said {
        Some(id) => parse_id(id),
        None => parse_id(&foreign_id(&record.topic, record.partition, record.offset, record.timestamp_ms)),
    }
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    std::str::from_utf8(record.headers.get(name)??).ok()
}

fn find_sink<'a>(app: &'a App, name: &str) -> Result<&'a Sink, Problems> {
    let sinks = app.groups().iter().filter_map(|configured| match &configured.group.work {
        Work::Sink(sink) => {
            sink.downcast_ref::<Sink>().map(|sink| (configured.group.name.as_str(), configured.group.id.as_str(), sink))
        }
        _ => None,
    });
    let sinks: Vec<_> = sinks.collect();
    if let Some((.., sink)) = sinks.iter().find(|(own, full, _)| [*own, *full].contains(&name)) {
        return Ok(sink);
    }
    let known: Vec<&str> = sinks.iter().map(|(own, ..)| *own).collect();
    Err(Problems::one(format!("--to-table: there is no sink `{name}` into a table; {}", hint(name, &known))))
}

/// The topic of a type, and the type; or a topic that is there.
async fn find_topic(app: &App, clients: &Clients, wanted: &str) -> Result<(String, Option<String>)> {
    let topics = clients.cluster.topics().await?;
    let there = |name: &str| topics.iter().any(|topic| topic.name == name);
    let catalogue = app.pipeline().catalogue();
    if catalogue.get(wanted).is_some() {
        let topic = topic_of(wanted);
        anyhow::ensure!(there(&topic), "topic {topic} does not exist: run `headwater topology apply`");
        return Ok((topic, Some(wanted.to_owned())));
    }
    if there(wanted) {
        return Ok((wanted.to_owned(), None));
    }
    let known: Vec<&str> = catalogue.types().map(|known| known.name).collect();
    Err(Problems::one(format!(
        "--to-topic: there is neither an event type nor a topic `{wanted}`; {}",
        hint(wanted, &known)
    ))
    .into())
}

fn hint(wrong: &str, known: &[&str]) -> String {
    nearest(wrong, known)
        .map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"))
}

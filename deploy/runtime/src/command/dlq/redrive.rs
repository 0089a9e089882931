//! `dlq redrive`: letters of one group go back to it.
//!
//! Letters are taken in small chunks, the oldest first: each is locked, sent, acknowledged and marked in one transaction. So
//! the command may be killed or run twice at any moment: no letter is lost, and two who run at once share the letters.
//! A letter that was cut is a chunk of its own, and its whole record is fetched before it is locked.

use std::{
    collections::HashSet,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use headwater::spi::{DeadLetter, GroupTopics, Outgoing, Record, Span, Tracing};
use headwater_connectors::{
    kafka::{Cluster, KafkaConfig, Producer},
    postgres::{LetterActions, LetterFilter, Letters, SendOutcome, Status, StoredLetter, Summary},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    context::{DlqContext, WAITING, filter},
    list::{MAKES, PAGE, count},
    pace::Pace,
    source_record::{self, SourceRecordError},
    text::{WIDE, letters, note, per_second, plain, thousands},
};
use crate::{
    INTERRUPTED,
    command::arguments::RedriveArguments,
    process::{output::Output, signals::Stop, table::Table},
};

/// Bytes that are sent together at most, unless one letter is larger.
const CHUNK_BYTES: u64 = 8 << 20;
/// How often letters are asked for again that somebody else has in hand, and how long to wait before.
const HELD: (u32, Duration) = (10, Duration::from_millis(200));
/// How long the last records may take when the producer is closed; all of them are acknowledged.
const CLOSE: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &DlqContext, arguments: &RedriveArguments, stop: Stop) -> Result<ExitCode> {
    let group = context.group(&arguments.group).await?;
    let topic = GroupTopics::of(&group).redrive();
    // A parked letter has failed too often: only a person who means this one sends it back.
    let statuses = if arguments.id.is_empty() { vec![Status::Open] } else { WAITING.to_vec() };
    let mut filter = filter(Some(group.clone()), &arguments.which, statuses);
    filter.ids.clone_from(&arguments.id);
    say_closed(context, &filter).await?;
    // What comes back while this runs is not meant.
    let (all, until) = context.letters.selection(&filter).await?;
    filter.until = until;
    let planned = all.min(arguments.limit.unwrap_or(u64::MAX));
    if arguments.dry_run {
        dry_run(context, &filter, &topic, planned, arguments.json).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if planned > 0 {
        context.require_topic(&topic).await?;
    } else if arguments.id.is_empty() {
        say_none(context, &arguments.group, &filter).await?;
    }
    let at = arguments.rate.map(|rate| format!(" at {rate}/s")).unwrap_or_default();
    if !arguments.json {
        note(format_args!("sending {} of group {group} to {topic}{at}", letters(planned)));
    }
    let begin = Instant::now();
    let mut run = RedriveRun {
        kafka: &context.app.config.kafka,
        cluster: &context.clients.cluster,
        letters: &context.letters,
        producer: context.producer()?,
        tracing: &context.app.tracing,
        filter,
        json: arguments.json,
        pace: Pace::new(arguments.rate, begin),
        progress: Progress { planned, begin, shown: !arguments.json && std::io::stderr().is_terminal() },
        tally: RedriveTally::default(),
        stop,
        out: Output::new(),
    };
    let ended = run.send_all(planned).await;
    run.finish(&group, &topic, ended).await
}

/// Names the letters that are meant by their ids and cannot be sent back.
async fn say_closed(context: &DlqContext, filter: &LetterFilter) -> Result<()> {
    if filter.ids.is_empty() {
        return Ok(());
    }
    let group = filter.group.as_deref().unwrap_or_default();
    let named = LetterFilter { group: filter.group.clone(), ids: filter.ids.clone(), ..LetterFilter::default() };
    let found = context.letters.page(&named, None, false, u32::try_from(filter.ids.len()).unwrap_or(u32::MAX)).await?;
    let missing: Vec<String> =
        filter.ids.iter().filter(|id| found.iter().all(|letter| letter.id != **id)).map(Uuid::to_string).collect();
    anyhow::ensure!(missing.is_empty(), "group {group} has no dead letter {}", missing.join(", "));
    for letter in found.iter().filter(|letter| !filter.statuses.contains(&letter.status)) {
        note(format_args!("letter {} is {} already: nothing to do", letter.id, letter.status));
    }
    Ok(())
}

/// Says why there is nothing to send: most likely a filter is wrong, or what is meant is parked.
async fn say_none(context: &DlqContext, group: &str, filter: &LetterFilter) -> Result<()> {
    let parked = LetterFilter { statuses: vec![Status::Parked], ..filter.clone() };
    match context.letters.selection(&parked).await?.0 {
        0 => note(format_args!("no open letter is meant: `headwater dlq groups {group}` shows what there is")),
        number => note(format_args!(
            "no open letter is meant, and {} parked, which only --id sends back: \
             `headwater dlq list {group} --status parked`",
            if number == 1 { "one is".to_owned() } else { format!("{} are", thousands(number)) }
        )),
    }
    Ok(())
}

async fn dry_run(context: &DlqContext, filter: &LetterFilter, topic: &str, planned: u64, as_json: bool) -> Result<()> {
    let makes = context.letters.failure_groups(filter, MAKES).await?;
    let mut out = Output::new();
    let of = |make| WAITING.iter().map(|status| count(make, *status)).sum::<u64>();
    if as_json {
        for make in &makes {
            let (fingerprint, kind, message) = (&make.fingerprint, &make.kind, &make.message);
            out.line(json!({"fingerprint": fingerprint, "kind": kind, "letters": of(make), "message": message}))?;
        }
        out.line(json!({"topic": topic, "planned": planned, "dry_run": true}))?;
    } else {
        let mut table = Table::new(&["FINGERPRINT", "KIND", ">LETTERS", "MESSAGE"]);
        for make in &makes {
            let cells =
                [plain(&make.fingerprint, 16), plain(&make.kind, 16), thousands(of(make)), plain(&make.message, WIDE)];
            table.row(cells.to_vec());
        }
        if !makes.is_empty() {
            table.lines().try_for_each(|line| out.line(line).map(drop))?;
        }
        out.line(format_args!("dry run, nothing was sent: {} would go to {topic}", letters(planned)))?;
    }
    out.flush()?;
    Ok(())
}

/// What was done so far.
#[derive(Debug, Default)]
struct RedriveTally {
    sent: u64,
    refused: u64,
    /// Somebody else had them in hand to the end.
    held: u64,
}

/// Why sending ended before its time.
#[derive(Debug)]
enum Interruption {
    /// Somebody asked for it.
    Stopped,
    /// Kafka or Postgres does not do what was asked.
    Outage(String),
}

struct RedriveRun<'a> {
    kafka: &'a KafkaConfig,
    cluster: &'a Cluster,
    letters: &'a Letters,
    producer: Producer,
    tracing: &'a Tracing,
    filter: LetterFilter,
    json: bool,
    pace: Pace,
    progress: Progress,
    tally: RedriveTally,
    stop: Stop,
    out: Output,
}

impl RedriveRun<'_> {
    /// Every letter that is meant, at most so many, page by page.
    async fn send_all(&mut self, planned: u64) -> Result<(), Interruption> {
        let (mut left, mut last) = (planned, None);
        while left > 0 {
            let size = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE);
            let page = self.letters.page(&self.filter, last.as_ref(), false, size).await.map_err(outage)?;
            let Some(end) = page.last().cloned() else { break };
            left -= page.len() as u64;
            let mut held = self.send_page(&page).await?;
            for _ in 0..HELD.0 {
                if held.is_empty() {
                    break;
                }
                tokio::time::sleep(HELD.1).await;
                held = self.still_open(held).await?;
                let passed = self.send_page(&held).await?;
                held.retain(|letter| passed.iter().any(|other| other.id == letter.id));
            }
            self.tally.held += self.still_open(held).await?.len() as u64;
            last = Some(end);
        }
        Ok(())
    }

    /// Those of these letters that are still as they were: not what another redrive has sent meanwhile.
    async fn still_open(&self, letters: Vec<Summary>) -> Result<Vec<Summary>, Interruption> {
        if letters.is_empty() {
            return Ok(letters);
        }
        let ids = letters.iter().map(|letter| letter.id).collect();
        self.letters.page(&LetterFilter { ids, ..self.filter.clone() }, None, false, PAGE).await.map_err(outage)
    }

    /// Sends these letters, chunk by chunk; gives those that somebody else has in hand or has changed.
    async fn send_page(&mut self, page: &[Summary]) -> Result<Vec<Summary>, Interruption> {
        let (mut rest, mut passed) = (page, Vec::new());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk(rest, self.pace.chunk()));
            rest = after;
            let due = self.pace.due(chunk.len(), Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = self.stop.requested() => {}
            }
            if self.stop.is_requested() {
                return Err(Interruption::Stopped);
            }
            passed.extend(self.send_chunk(chunk).await?);
            self.progress.show(&self.tally);
        }
        Ok(passed)
    }

    async fn send_chunk(&mut self, chunk: &[Summary]) -> Result<Vec<Summary>, Interruption> {
        let fetched = match chunk {
            [one] if one.is_cut => Some(self.fetch(one).await?),
            _ => None,
        };
        let (producer, tracing) = (&self.producer, self.tracing);
        let send = async |letters: &[StoredLetter]| publish(producer, tracing, letters, fetched).await;
        let done = LetterActions::of(self.letters).redrive(chunk, &self.filter.statuses, send).await.map_err(outage)?;
        self.tally.sent += done.sent.len() as u64;
        for (id, why) in &done.refused {
            self.tally.refused += 1;
            self.progress.clear();
            if self.json {
                self.out.line(json!({"letter": id.to_string(), "refused": why})).map_err(outage)?;
            } else {
                note(format_args!("letter {id} is refused and stays open: {why}"));
            }
        }
        if let Some((_, why)) = done.unsent.first() {
            return Err(Interruption::Outage(why.clone()));
        }
        let passed: HashSet<Uuid> = done.passed.into_iter().collect();
        Ok(chunk.iter().filter(|letter| passed.contains(&letter.id)).cloned().collect())
    }

    /// What stands where a letter first stood that was cut; or why it cannot be had, which says nothing of other letters.
    async fn fetch(&mut self, letter: &Summary) -> Result<Result<Record, String>, Interruption> {
        let read = tokio::select! {
            read = source_record::record(self.kafka, &letter.group, &letter.origin) => read,
            () = self.stop.requested() => return Err(Interruption::Stopped),
        };
        match read {
            Ok(record) => Ok(Ok(record)),
            Err(SourceRecordError::Never(why)) => Ok(Err(why)),
            // One partition may be without its leader, or one record too large for this line: the others are sent.
            Err(SourceRecordError::Outage(why)) => self.cluster.topics().await.map(|_| Err(why)).map_err(outage),
        }
    }

    /// Says what was done, and why it is not more.
    async fn finish(mut self, group: &str, topic: &str, ended: Result<(), Interruption>) -> Result<ExitCode> {
        let elapsed = self.progress.begin.elapsed();
        self.progress.clear();
        let left = match ended {
            Ok(()) => self.tally.held,
            Err(_) => self.left().await,
        };
        let RedriveTally { sent, refused, .. } = self.tally;
        let speed = per_second(sent, elapsed);
        // Another redrive, a discard or an edit came first.
        let elsewhere = if ended.is_ok() { self.progress.planned.saturating_sub(sent + refused + left) } else { 0 };
        if self.json {
            self.out.line(json!({
                "group": group, "topic": topic, "planned": self.progress.planned, "sent": sent, "refused": refused,
                "left": left, "elsewhere": elsewhere, "seconds": elapsed.as_secs_f64(), "per_second": speed,
            }))?;
        } else {
            let speed =
                speed.filter(|_| sent > 0).map(|speed| format!(" ({}/s)", thousands(speed))).unwrap_or_default();
            self.out.line(format_args!(
                "sent {}, refused {}, left {} in {:.1} s{speed}",
                thousands(sent),
                thousands(refused),
                thousands(left),
                elapsed.as_secs_f64()
            ))?;
            if elsewhere > 0 {
                note(format_args!("{} had been sent or closed by somebody else meanwhile", letters(elsewhere)));
            }
        }
        self.out.flush()?;
        // All of its records are acknowledged or have failed.
        let _ = self.producer.close(CLOSE).await;
        match ended {
            Err(Interruption::Outage(why)) => {
                anyhow::bail!("stopped: {why}; what is left stays open: the same command goes on")
            }
            Err(Interruption::Stopped) => Ok(ExitCode::from(INTERRUPTED)),
            Ok(()) if refused + left > 0 => Ok(ExitCode::FAILURE),
            Ok(()) => Ok(ExitCode::SUCCESS),
        }
    }

    /// What was meant and is still open but for what was refused: asked of the database, as far as it answers.
    async fn left(&self) -> u64 {
        let RedriveTally { sent, refused, .. } = self.tally;
        let most = self.progress.planned.saturating_sub(sent + refused);
        match self.letters.selection(&self.filter).await {
            Ok((open, _)) => open.saturating_sub(refused).min(most),
            Err(_) => most,
        }
    }
}

fn outage(error: impl std::fmt::Display) -> Interruption {
    Interruption::Outage(error.to_string())
}

/// How many of these letters go together. One that was cut goes alone: its record is large, and has to be fetched.
fn chunk(letters: &[Summary], most: usize) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take(most).take_while(|letter| {
        bytes += letter.bytes;
        bytes <= CHUNK_BYTES && !letter.is_cut
    });
    fits.count().max(1)
}

/// Publishes the letters' records in this order, and waits for every acknowledgement. A letter that was cut goes alone, as
/// what was `fetched` for it.
async fn publish(
    producer: &Producer,
    tracing: &Tracing,
    letters: &[StoredLetter],
    fetched: Option<Result<Record, String>>,
) -> Vec<SendOutcome> {
    match (letters, fetched) {
        ([one], Some(fetched)) => match fetched.and_then(|record| one.letter.whole(&record)) {
            Ok(letter) => send(producer, tracing, &[&letter]).await,
            Err(why) => vec![SendOutcome::Refused(source_record::lacks(&one.letter, &why))],
        },
        (letters, _) => {
            let letters: Vec<&DeadLetter> = letters.iter().map(|stored| &stored.letter).collect();
            send(producer, tracing, &letters).await
        }
    }
}

async fn send(producer: &Producer, tracing: &Tracing, letters: &[&DeadLetter]) -> Vec<SendOutcome> {
    let redriven = |letter: &&DeadLetter| letter.traced(letter.redriven(), tracing);
    // The spans end with the acknowledgements.
    let (records, _spans): (Vec<Outgoing>, Vec<Option<Span>>) = letters.iter().map(redriven).unzip();
    let mut fates = vec![SendOutcome::Sent; records.len()];
    for error in producer.send(&records).await.err().map(|errors| errors.0).unwrap_or_default() {
        if let Some(fate) = fates.get_mut(error.index) {
            *fate =
                if error.permanent { SendOutcome::Refused(error.reason) } else { SendOutcome::Unsent(error.reason) };
        }
    }
    fates
}

/// A line on the terminal that says how far it is.
#[derive(Debug)]
struct Progress {
    planned: u64,
    begin: Instant,
    shown: bool,
}

impl Progress {
    fn show(&self, tally: &RedriveTally) {
        if self.shown {
            let speed = per_second(tally.sent, self.begin.elapsed()).unwrap_or(0);
            let (sent, planned) = (thousands(tally.sent), thousands(self.planned));
            let refused =
                if tally.refused > 0 { format!(", refused {}", thousands(tally.refused)) } else { String::new() };
            self.write(format_args!("\r\x1b[Ksent {sent} of {planned}{refused} ({}/s)", thousands(speed)));
        }
    }

    fn clear(&self) {
        if self.shown {
            self.write(format_args!("\r\x1b[K"));
        }
    }

    /// Nobody is left to hear of a failure.
    fn write(&self, text: std::fmt::Arguments<'_>) {
        let mut err = std::io::stderr().lock();
        let _ = err.write_fmt(text).and_then(|()| err.flush());
    }
}

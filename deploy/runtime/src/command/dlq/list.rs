//! `dlq groups` and `dlq list`.

use std::process::ExitCode;

use anyhow::Result;
use headwater_connectors::postgres::{FailureGroup, Status, Summary};
use serde_json::{Map, Value as Json, json};

use super::{
    context::{DlqContext, filter},
    text::{WIDE, note, plain, thousands},
};
use crate::{
    command::arguments::{DlqGroupsArguments, DlqListArguments},
    process::{
        output::{Output, OutputState},
        table::Table,
    },
};

/// Fingerprints that are told apart at most.
pub(super) const MAKES: u32 = 1_000;
/// Letters that are read at once, and stand below one line of titles.
pub(super) const PAGE: u32 = 500;

/// Letters by group and fingerprint.
pub(super) async fn groups(context: &DlqContext, arguments: &DlqGroupsArguments) -> Result<ExitCode> {
    let group = context.optional_group(arguments.group.as_ref()).await?;
    let of = headwater_connectors::postgres::LetterFilter { group, ..<_>::default() };
    let makes = context.letters.failure_groups(&of, MAKES).await?;
    let mut out = Output::new();
    if arguments.json {
        makes.iter().try_for_each(|make| out.line(make_json(make)).map(drop))?;
    } else if makes.is_empty() {
        note("no dead letters");
    } else {
        table(&makes).lines().try_for_each(|line| out.line(line).map(drop))?;
    }
    if makes.len() == MAKES as usize {
        note(format_args!("there may be more: only {} fingerprints are shown", thousands(MAKES.into())));
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn table(makes: &[FailureGroup]) -> Table {
    let mut table = Table::new(&[
        "GROUP",
        "FINGERPRINT",
        "KIND",
        ">OPEN",
        ">PARKED",
        ">REDRIVEN",
        ">RESOLVED",
        ">DISCARDED",
        ">EDITED",
        "LAST SEEN",
        "MESSAGE",
    ]);
    for make in makes {
        let mut cells = vec![plain(&make.group, WIDE), plain(&make.fingerprint, 16), plain(&make.kind, 16)];
        cells.extend(Status::ALL.map(|status| thousands(count(make, status))));
        cells.extend([make.last.to_string(), plain(&make.message, WIDE)]);
        table.row(cells);
    }
    table
}

pub(super) fn count(make: &FailureGroup, status: Status) -> u64 {
    make.counts.get(&status).copied().unwrap_or(0)
}

fn make_json(make: &FailureGroup) -> Json {
    let mut fields = Map::new();
    fields.insert("group".to_owned(), json!(make.group));
    fields.insert("fingerprint".to_owned(), json!(make.fingerprint));
    fields.insert("kind".to_owned(), json!(make.kind));
    fields.insert("message".to_owned(), json!(make.message));
    for status in Status::ALL {
        fields.insert(status.name().to_owned(), json!(count(make, status)));
    }
    fields.insert("first".to_owned(), json!(make.first.to_string()));
    fields.insert("last".to_owned(), json!(make.last.to_string()));
    Json::Object(fields)
}

/// Single letters, the newest first.
pub(super) async fn letters(context: &DlqContext, arguments: &DlqListArguments) -> Result<ExitCode> {
    let group = context.optional_group(arguments.group.as_ref()).await?;
    let filter = filter(group, &arguments.which, arguments.status.clone());
    let (mut out, mut left, mut last) = (Output::new(), arguments.limit, None);
    loop {
        let size = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE);
        let page = context.letters.page(&filter, last.as_ref(), true, size).await?;
        if arguments.json {
            page.iter().try_for_each(|letter| out.line(summary_json(letter)).map(drop))?;
        } else if !page.is_empty() {
            summaries(&page).lines().try_for_each(|line| out.line(line).map(drop))?;
        }
        left -= page.len() as u64;
        let more = page.len() == size as usize && left > 0;
        last = page.into_iter().last().or(last);
        if out.flush()? == OutputState::Closed || !more {
            break;
        }
    }
    if left == 0 {
        let (all, _) = context.letters.selection(&filter).await?;
        if all > arguments.limit {
            note(format_args!("{} of {}: --limit shows more", thousands(arguments.limit), thousands(all)));
        }
    } else if last.is_none() && !arguments.json {
        note("no such dead letters");
    }
    Ok(ExitCode::SUCCESS)
}

fn summaries(page: &[Summary]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "GROUP",
        "STATUS",
        "KIND",
        ">ATTEMPTS",
        ">REDRIVES",
        "ORIGIN",
        "DEAD-LETTERED",
        "FINGERPRINT",
        "MESSAGE",
    ]);
    for letter in page {
        table.row(vec![
            letter.id.to_string(),
            plain(&letter.group, WIDE),
            letter.status.to_string(),
            plain(&letter.kind, 16),
            letter.attempts.to_string(),
            letter.redrives.to_string(),
            plain(&format!("{} offset {}", letter.origin.partition, letter.origin.offset), WIDE),
            letter.dead_lettered.to_string(),
            plain(&letter.fingerprint, 16),
            plain(&letter.message, WIDE),
        ]);
    }
    table
}

fn summary_json(letter: &Summary) -> Json {
    json!({
        "id": letter.id.to_string(),
        "group": letter.group,
        "processor": letter.processor,
        "status": letter.status.name(),
        "kind": letter.kind,
        "message": letter.message,
        "fingerprint": letter.fingerprint,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "event_id": letter.event_id,
        "event_type": letter.event_type,
        "topic": &*letter.origin.partition.topic,
        "partition": letter.origin.partition.partition,
        "offset": letter.origin.offset,
        "dead_lettered": letter.dead_lettered.to_string(),
    })
}

//! `dlq discard`: letters are given up, and their rows kept.

use std::process::ExitCode;

use anyhow::Result;
use headwater_connectors::postgres::{DiscardResult, LetterActions};
use serde_json::json;
use uuid::Uuid;

use super::{
    context::{DlqContext, WAITING, filter},
    list::PAGE,
    text::{letters, note, thousands},
};
use crate::{command::arguments::DiscardArguments, config::Problems, process::output::Output};

pub(super) async fn run(context: &DlqContext, arguments: &DiscardArguments) -> Result<ExitCode> {
    let mut told = DiscardTally { out: Output::new(), json: arguments.json, done: 0, not: 0 };
    if arguments.id.is_empty() {
        by_filter(context, arguments, &mut told).await?;
    } else {
        for ids in arguments.id.chunks(PAGE as usize) {
            told.tell(LetterActions::of(&context.letters).discard(ids, arguments.note.as_deref()).await?)?;
        }
    }
    if !arguments.json {
        told.out.line(format_args!("discarded {}, not discarded {}", thousands(told.done), thousands(told.not)))?;
    }
    told.out.flush()?;
    Ok(if told.not == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn by_filter(context: &DlqContext, arguments: &DiscardArguments, told: &mut DiscardTally) -> Result<()> {
    let which = &arguments.which;
    if arguments.group.is_none() && which.fingerprint.is_none() && which.kind.is_none() && which.since.is_none() {
        let why = "say which: letters by their ids, or with --group, --fingerprint, --kind, --since";
        return Err(Problems::one(why).into());
    }
    let group = context.optional_group(arguments.group.as_ref()).await?;
    let mut filter = filter(group, which, WAITING.to_vec());
    // What comes later nobody has seen.
    let (all, until) = context.letters.selection(&filter).await?;
    filter.until = until;
    if !arguments.yes {
        let why = format!("{} would be discarded: say --yes to do it", letters(all));
        return Err(Problems::one(why).into());
    }
    let mut last = None;
    loop {
        let page = context.letters.page(&filter, last.as_ref(), false, PAGE).await?;
        let ids: Vec<Uuid> = page.iter().map(|letter| letter.id).collect();
        let Some(end) = page.into_iter().last() else { return Ok(()) };
        told.tell(LetterActions::of(&context.letters).discard(&ids, arguments.note.as_deref()).await?)?;
        last = Some(end);
    }
}

/// What was done so far, and said.
struct DiscardTally {
    out: Output,
    json: bool,
    done: u64,
    not: u64,
}

impl DiscardTally {
    fn tell(&mut self, discarded: DiscardResult) -> Result<()> {
        let DiscardResult { done, refused, missing } = discarded;
        self.done += done.len() as u64;
        self.not += (refused.len() + missing.len()) as u64;
        if self.json {
            for id in done {
                self.out.line(json!({"letter": id.to_string(), "discarded": true, "status": "discarded"}))?;
            }
        }
        let not = refused.into_iter().map(|(id, status)| (id, Some(status)));
        for (id, status) in not.chain(missing.into_iter().map(|id| (id, None))) {
            let status = status.map(|status| status.name());
            if self.json {
                self.out.line(json!({"letter": id.to_string(), "discarded": false, "status": status}))?;
            } else {
                let why = status.map_or("there is no such letter".to_owned(), |status| format!("it is {status}"));
                note(format_args!("letter {id} is not discarded: {why}"));
            }
        }
        Ok(())
    }
}

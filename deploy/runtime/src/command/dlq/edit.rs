//! `dlq edit`: another record with an edited value takes a letter's place.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use headwater::spi::{DeadLetter, GroupTopics, Outgoing, Truncation, codec::WriterSchema};
use headwater_connectors::postgres::{LetterActions, LetterError, StoredLetter};
use serde_json::{Value as Json, json};
use tempfile::NamedTempFile;

use super::{
    context::{DlqContext, WAITING},
    text::note,
    value,
};
use crate::{command::arguments::EditArguments, process::output::Output};

/// Bytes of a value in JSON at most.
const TEXT_LIMIT: u64 = 64 << 20;

pub(super) async fn run(context: &DlqContext, arguments: EditArguments) -> Result<ExitCode> {
    let old = context.letter(arguments.id).await?;
    if !WAITING.contains(&old.status) {
        return Err(LetterError::Closed(old.id, old.status).into());
    }
    if let Some(cut) = old.letter.cut().filter(Truncation::is_beside_the_value) {
        anyhow::bail!("letter {} cannot be edited: {cut}; `headwater dlq redrive` fetches it whole", old.id);
    }
    let draft = Draft::of(context, &old.letter, arguments.schema_id).await?;
    let (text, file) = match &arguments.value {
        Some(path) => (read(path)?, None),
        None => {
            let (text, id) = (draft.text(), old.id.to_string());
            // The editor has the terminal meanwhile.
            let (text, file) = tokio::task::spawn_blocking(move || edited(&id, &text)).await??;
            (text, Some(file))
        }
    };
    let bytes = match draft.bytes(&text) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            note(format_args!("nothing was changed: letter {} stays {}", old.id, old.status));
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            if let Some((_, path)) = file.and_then(|file| file.keep().ok()) {
                note(format_args!("what was written is kept: mend it and give it with --value {}", path.display()));
            }
            return Err(error);
        }
    };
    context.require_topic(&GroupTopics::of(&old.letter.group).redrive()).await?;
    send(context, &old, bytes, arguments.json).await
}

async fn send(context: &DlqContext, old: &StoredLetter, bytes: Vec<u8>, as_json: bool) -> Result<ExitCode> {
    let producer = context.producer()?;
    let place = async |record: Outgoing| {
        let (record, _span) = old.letter.traced(record, &context.app.tracing);
        producer.place(&record).await.map_err(|error| error.reason)
    };
    let edited = LetterActions::of(&context.letters).edit(old.id, bytes, place).await?;
    let (partition, offset) = (&edited.origin.partition, edited.origin.offset);
    let mut out = Output::new();
    if as_json {
        out.line(json!({
            "letter": old.id.to_string(),
            "edited_as": edited.id.to_string(),
            "event_id": DeadLetter::edited_id(&old.id.to_string()),
            "topic": &*partition.topic,
            "partition": partition.partition,
            "offset": offset,
        }))?;
    } else {
        out.line(format_args!("letter {} is edited: {} was sent to {partition} offset {offset}", old.id, edited.id))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is edited, and how it is written.
struct Draft {
    /// The letter's value, where it can be read.
    json: Option<Json>,
    schema: Arc<WriterSchema>,
    /// Whether the new value is written as the old one was.
    same_schema: bool,
}

impl Draft {
    async fn of(context: &DlqContext, letter: &DeadLetter, schema_id: Option<u32>) -> Result<Self> {
        let own = match &letter.value {
            _ if let Some(cut) = letter.cut() => Err(cut.to_string()),
            Some(bytes) => value::decode(context, bytes).await.data,
            None => Err("it has no value".to_owned()),
        };
        if let Err(why) = &own {
            note(format_args!("the letter's value cannot be decoded: {why}"));
        }
        let json = own.as_ref().ok().map(|(_, json)| json.clone());
        let (schema, same_schema) = match (schema_id, own) {
            (None, Ok((schema, _))) => (schema, true),
            (None, Err(_)) => (value::newest(context, letter).await?, false),
            (Some(id), Ok((schema, _))) if schema.id() == id => (schema, true),
            (Some(id), _) => (value::schema(context, id).await?, false),
        };
        Ok(Self { json, schema, same_schema })
    }

    /// The new value; none where the text says what the old one does.
    fn bytes(&self, text: &str) -> Result<Option<Vec<u8>>> {
        let json: Json = serde_json::from_str(text).context("the new value is not JSON")?;
        if self.same_schema && self.json.as_ref() == Some(&json) {
            return Ok(None);
        }
        value::encode(&self.schema, &json).map(Some)
    }

    fn text(&self) -> String {
        self.json.as_ref().map_or_else(|| "{}".to_owned(), |json| format!("{json:#}"))
    }
}

/// A file, or standard input for `-`.
fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let size = if path == Path::new("-") {
        std::io::stdin().lock().take(TEXT_LIMIT).read_to_string(&mut text).context("cannot read standard input")?
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(TEXT_LIMIT).read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?
    };
    anyhow::ensure!((size as u64) < TEXT_LIMIT, "the new value is larger than {TEXT_LIMIT} bytes");
    Ok(text)
}

/// Lets a person edit a text in a file that nobody else can read.
fn edited(id: &str, text: &str) -> Result<(String, NamedTempFile)> {
    let editor =
        ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|e| !e.trim().is_empty()));
    let editor = editor.context("no editor: set $EDITOR, or give the new value with --value")?;
    let mut file = tempfile::Builder::new().prefix(&format!("letter-{id}-")).suffix(".json").tempfile()?;
    writeln!(file, "{text}")?;
    file.flush()?;
    // By the shell, since it may have arguments: `code --wait`.
    let status = Command::new("sh").args(["-c", "exec $0 \"$1\"", &editor]).arg(file.path()).status();
    let status = status.with_context(|| format!("cannot start the editor `{editor}`"))?;
    anyhow::ensure!(status.success(), "the editor `{editor}` failed: nothing was changed");
    // Editors that write by rename leave the file that we have open as it was.
    Ok((read(file.path())?, file))
}

//! What `dlq` takes.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, Subcommand};
use headwater::Time;
use headwater_connectors::postgres::Status;
use uuid::Uuid;

/// What `dlq` does.
#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Count dead letters by group and fingerprint, those first of which most wait for a person.
    #[command(after_help = examples!("headwater dlq groups", "headwater dlq groups GROUP --json"))]
    Groups(DlqGroupsArguments),
    /// List dead letters, the newest first.
    #[command(after_help = examples!(
        "headwater dlq list GROUP --status open --since 2h",
        "headwater dlq list --kind decode --json"
    ))]
    List(DlqListArguments),
    /// Print everything that is known of a dead letter.
    #[command(after_help = examples!(
        "headwater dlq show 0f9c1f0e-6f0f-4e55-9c35-6a4b7f3f0c11",
        "headwater dlq show 0f9c1f0e-6f0f-4e55-9c35-6a4b7f3f0c11 --raw > value.bin"
    ))]
    Show(DlqShowArguments),
    /// Send a group's open letters back to it, and to it alone.
    #[command(after_help = examples!(
        "headwater dlq redrive GROUP --fingerprint 4bf92f3577b34da6 --dry-run",
        "headwater dlq redrive GROUP --kind exhausted --since 2h --rate 50/s"
    ))]
    Redrive(RedriveArguments),
    /// Give letters up. Their rows are kept.
    #[command(after_help = examples!(
        "headwater dlq discard 0f9c1f0e-6f0f-4e55-9c35-6a4b7f3f0c11 --note test",
        "headwater dlq discard --group GROUP --kind decode --yes"
    ))]
    Discard(DiscardArguments),
    /// Send another record with an edited value in a letter's place, linked to it.
    #[command(after_help = examples!(
        "headwater dlq edit 0f9c1f0e-6f0f-4e55-9c35-6a4b7f3f0c11",
        "headwater dlq edit 0f9c1f0e-6f0f-4e55-9c35-6a4b7f3f0c11 --value mended.json"
    ))]
    Edit(EditArguments),
}

/// What `dlq groups` takes.
#[derive(Debug, Args)]
pub(crate) struct DlqGroupsArguments {
    /// The group, with or without the prefix; all by default.
    pub(crate) group: Option<String>,
    /// Print JSON, a line per fingerprint.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `dlq list` takes.
#[derive(Debug, Args)]
pub(crate) struct DlqListArguments {
    /// The group, with or without the prefix; all by default.
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) which: LetterSelection,
    /// Only letters in this status; may be repeated.
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Vec<Status>,
    /// So many letters at most.
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) limit: u64,
    /// Print JSON, a line per letter.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `dlq show` takes.
#[derive(Debug, Args)]
pub(crate) struct DlqShowArguments {
    /// The letter's id.
    pub(crate) id: Uuid,
    /// Write the value's bytes to standard output, and nothing else.
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
    /// Print JSON, on one line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which letters of a group are meant: those to which everything applies that is said.
#[derive(Clone, Debug, Args)]
pub(crate) struct LetterSelection {
    /// Only letters with this fingerprint; `dlq groups` shows them.
    #[arg(long, value_name = "F")]
    pub(crate) fingerprint: Option<String>,
    /// Only letters of this kind.
    #[arg(long, value_name = "K", value_parser = ["decode", "contract", "rejected", "timeout", "exhausted", "row"])]
    pub(crate) kind: Option<String>,
    /// Only those that became letters at this time or later, or at most so long ago: 2026-01-01T00:00:00Z, or 2h.
    #[arg(long, value_name = "TIME|AGO", value_parser = since)]
    pub(crate) since: Option<Time>,
}

/// What `dlq redrive` takes.
#[derive(Debug, Args)]
pub(crate) struct RedriveArguments {
    /// The group, with or without the prefix.
    pub(crate) group: String,
    /// Only this letter, also when it is parked; may be repeated.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Vec<Uuid>,
    #[command(flatten)]
    pub(crate) which: LetterSelection,
    /// So many letters at most, the oldest first.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Only say what would be sent.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// So many letters a second at most.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub(crate) rate: Option<NonZeroU32>,
    /// Print JSON, a line per letter that was refused and one at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `dlq discard` takes.
#[derive(Debug, Args)]
pub(crate) struct DiscardArguments {
    /// The letters' ids.
    #[arg(conflicts_with_all = ["group", "fingerprint", "kind", "since"])]
    pub(crate) id: Vec<Uuid>,
    /// Instead of ids: the open and parked letters of this group.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) which: LetterSelection,
    /// Without it, letters that are not named by their ids are only counted.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Why; kept with the letters.
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Print JSON, a line per letter.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `dlq edit` takes.
#[derive(Debug, Args)]
pub(crate) struct EditArguments {
    /// The letter's id.
    pub(crate) id: Uuid,
    /// The new value as JSON, from a file or from standard input; else it is edited in $VISUAL or $EDITOR.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) value: Option<PathBuf>,
    /// Write it with this schema instead of the letter's own.
    #[arg(long, value_name = "N")]
    pub(crate) schema_id: Option<u32>,
    /// Print JSON, on one line.
    #[arg(long)]
    pub(crate) json: bool,
}

fn since(text: &str) -> Result<Time, String> {
    let ago = || humantime::parse_duration(text).ok().map(|ago| Time::from_micros(micros_before_now(ago)));
    Time::parse(text)
        .or_else(ago)
        .ok_or_else(|| "neither a time such as 2026-01-01T00:00:00Z nor a span such as 2h".to_owned())
}

fn micros_before_now(ago: std::time::Duration) -> i64 {
    Time::now().micros().saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX))
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| "no number of letters a second from 1 on, such as 500/s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a rate of nothing is taken, the unit is ignored, or a span counts from the epoch.
    #[test]
    fn rates_are_a_second_and_spans_count_back_from_now() {
        assert_eq!((rate("500/s").map(u32::from), rate("7").map(u32::from)), (Ok(500), Ok(7)));
        for wrong in ["0/s", "-1/s", "5/m", "", "1.5/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(since("2026-01-01T00:00:00Z"), Ok(Time::from_millis(1_767_225_600_000)));
        let two_hours_ago = since("2h").unwrap_or_default();
        let ago = Time::now().since(two_hours_ago).as_secs();
        assert!((7_200..7_260).contains(&ago), "{ago}");
        assert!(since("yesterday").is_err());
    }
}

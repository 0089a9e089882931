//! What can be written on the command line.

/// What `--help` ends with: command lines to start from, each of which the parser takes (a test says so).
macro_rules! examples {
    ($($line:literal),+) => { concat!("Examples:", $("\n  ", $line),+) };
}

mod dlq;
mod state;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use headwater::Time;
use headwater_connectors::kafka::Start;

pub(crate) use dlq::{
    DiscardArguments, DlqCommand, DlqGroupsArguments, DlqListArguments, DlqShowArguments, EditArguments,
    LetterSelection, RedriveArguments,
};
pub(crate) use state::{StateCommand, StateGetArguments, StateListArguments, StateStatsArguments};

/// A Kafka stream-processing engine: consumes Avro topics, keeps correlation and causation, and puts results in Postgres
/// exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "headwater",
    version,
    max_term_width = 120,
    after_help = "\
Examples:
  headwater dev --demo
  headwater topology apply && headwater run

Configuration: headwater.toml in the working folder (or --config FILE), then HEADWATER__SECTION__KEY variables; \
`headwater config show` prints all of it. HEADWATER_LOG=debug says more.
Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration, 130 cut short by a second signal."
)]
pub(crate) struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: BuiltIn,
}

/// The commands that every program has, each in a file of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum BuiltIn {
    /// Start a local stack and every processor on it.
    #[command(after_help = examples!("headwater dev --demo", "headwater dev --stack-only --data /tmp/stack"))]
    Dev(DevArguments),
    /// Run groups against the configured cluster.
    #[command(after_help = examples!(
        "headwater run",
        "headwater run --group GROUP --group OTHER --http 127.0.0.1:0"
    ))]
    Run(RunArguments),
    /// Topics, schemas and tables that the pipeline needs.
    #[command(after_help = examples!("headwater topology apply --dry-run", "headwater topology show --format mermaid"))]
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// What groups are doing, how much waits for them, and what stands still and why. A process that has stopped counts as
    /// a member until its session ends.
    #[command(after_help = examples!("headwater groups", "headwater groups GROUP --verbose"))]
    Groups(GroupsArguments),
    /// How far a group has read, and letting it go on from elsewhere.
    #[command(after_help = examples!(
        "headwater offsets show GROUP",
        "headwater offsets reset GROUP --to earliest --dry-run"
    ))]
    #[command(subcommand)]
    Offsets(OffsetsCommand),
    /// Dead letters: what no group could process, and what becomes of it.
    #[command(after_help = examples!("headwater dlq groups", "headwater dlq redrive GROUP --kind exhausted"))]
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Keyed state: what a key has, which keys there are, and how much is kept where. The instances that have it are asked.
    #[command(after_help = examples!(
        "headwater state get GROUP STORE KEY",
        "headwater state list GROUP STORE --prefix K"
    ))]
    #[command(subcommand)]
    State(StateCommand),
    /// Produce JSON lines from standard input as events of a type.
    #[command(after_help = examples!(
        "headwater produce shipment.sent < shipments.jsonl",
        "headwater produce shipment.sent --key shipment_id < shipments.jsonl"
    ))]
    Produce(ProduceArguments),
    /// Print events as JSON lines, from now on.
    #[command(after_help = examples!(
        "headwater tail",
        "headwater tail 'shipment.*' --from-beginning --limit 10 | jq .data"
    ))]
    Tail(TailArguments),
    /// Check or print the configuration.
    #[command(after_help = examples!("headwater config check", "headwater --config shop.toml config show"))]
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell's completions of commands and options.
    #[command(after_help = examples!(
        "headwater completions bash > /etc/bash_completion.d/headwater",
        "headwater completions zsh > ~/.zfunc/_headwater",
        "headwater completions fish > ~/.config/fish/completions/headwater.fish"
    ))]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, of the program or of one command, as roff.
    #[command(after_help = examples!(
        "headwater man | man -l -",
        "headwater man dlq redrive > headwater-dlq-redrive.1"
    ))]
    Man {
        /// The command; the program as a whole by default.
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

impl BuiltIn {
    /// Whether it runs until it is stopped and tells of itself meanwhile.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Run(_))
    }
}

/// What `dev` takes.
#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Also produce sample events, print what became of them, and stop.
    #[arg(long, conflicts_with = "stack_only")]
    pub(crate) demo: bool,
    /// `apache`, or the address of a cluster that is running.
    #[arg(long, default_value = "apache", value_name = "apache|HOST:PORT")]
    pub(crate) kafka: String,
    /// `auto`, or the address of a database that is there.
    #[arg(long, default_value = "auto", value_name = "auto|URL")]
    pub(crate) postgres: String,
    /// `auto`, or the address of a schema registry that is running.
    #[arg(long, default_value = "auto", value_name = "auto|URL")]
    pub(crate) registry: String,
    /// Where health, metrics and state are answered.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub(crate) http: SocketAddr,
    /// Where the stack keeps its data and `endpoints.env`.
    #[arg(long, default_value = ".headwater", value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Start the stack, apply the topology, and run no group.
    #[arg(long)]
    pub(crate) stack_only: bool,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// A group to run; may be repeated. All by default.
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Vec<String>,
    /// Where health, metrics and state are answered, instead of `http.addr`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
}

/// What `topology` does.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Print or draw what the pipeline needs; asks no server.
    #[command(after_help = examples!(
        "headwater topology show",
        "headwater topology show --format dot | dot -Tsvg > topology.svg"
    ))]
    Show {
        /// As text, or as a picture of what flows where: Mermaid's language, or Graphviz's.
        #[arg(long, value_enum, default_value_t)]
        format: TopologyFormat,
    },
    /// Create topics, register schemas, run migrations and create the sinks' tables. Changes nothing twice.
    #[command(after_help = examples!("headwater topology apply --dry-run", "headwater topology apply"))]
    Apply {
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print what has to be set up on the cluster by who may do that; asks no server.
    #[command(after_help = examples!(
        "headwater topology export --format acls",
        "headwater topology export --format acls --principal User:CN={group}"
    ))]
    Export(ExportArguments),
}

/// What `topology export` takes.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// `acls`: what each principal has to be allowed on a cluster that denies by default, a permission a line.
    #[arg(long, value_enum)]
    pub(crate) format: ExportFormat,
    /// As whom a group logs in; `{group}` stands for its id. Without that all groups share one principal.
    #[arg(long, default_value = "User:{group}", value_name = "TYPE:NAME", value_parser = principal)]
    pub(crate) principal: String,
    /// As whom `topology apply` logs in.
    #[arg(long, default_value = "User:topology", value_name = "TYPE:NAME", value_parser = principal)]
    pub(crate) apply_principal: String,
    /// As whom they log in who look after the groups.
    #[arg(long, default_value = "User:operator", value_name = "TYPE:NAME", value_parser = principal)]
    pub(crate) operator_principal: String,
}

/// What `topology export` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Acls,
}

fn principal(text: &str) -> Result<String, String> {
    let (kind, name) = text.split_once(':').unwrap_or_default();
    let is_one = !kind.is_empty() && !name.is_empty() && !text.contains(char::is_control);
    let why = || "not a principal such as User:orders or User:CN={group}".to_owned();
    is_one.then(|| text.to_owned()).ok_or_else(why)
}

/// How `topology show` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopologyFormat {
    #[default]
    Text,
    Mermaid,
    Dot,
}

/// What `groups` takes.
#[derive(Debug, Args)]
pub(crate) struct GroupsArguments {
    /// Groups, with or without the prefix; all by default.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Also every member: its instance, its address, its partitions.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print JSON, a line per group.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `offsets` does.
#[derive(Debug, Subcommand)]
pub(crate) enum OffsetsCommand {
    /// Print how far a group has read every partition, and why one stands still.
    #[command(after_help = examples!(
        "headwater offsets show GROUP",
        "headwater offsets show GROUP --json"
    ))]
    Show {
        /// The group, with or without the prefix.
        group: String,
        /// Print JSON, a line per partition.
        #[arg(long)]
        json: bool,
    },
    /// Let a group that is stopped go on from elsewhere. A sink's offsets are moved in Postgres too; of a group that keeps
    /// state what becomes of that has to be said.
    #[command(after_help = examples!(
        "headwater offsets reset GROUP --to earliest --with-state",
        "headwater offsets reset GROUP --to 2026-01-01T00:00:00Z --dry-run",
        "headwater offsets reset GROUP --to 42 --topic TOPIC --partition 0"
    ))]
    Reset(ResetArguments),
}

/// What `offsets reset` takes.
#[derive(Debug, Args)]
pub(crate) struct ResetArguments {
    /// The group, with or without the prefix.
    pub(crate) group: String,
    /// Where it goes on: at the oldest record, behind the newest, at the first one of a time or later, or at an offset.
    #[arg(long, value_name = "earliest|latest|TIME|OFFSET", value_parser = ResetTarget::parse)]
    pub(crate) to: ResetTarget,
    /// Only this topic, which may be one of the group's retry topics or its redrive topic; else its inputs.
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Only this partition of the topic.
    #[arg(long, value_name = "N", requires = "topic")]
    pub(crate) partition: Option<i32>,
    /// Of a group that keeps state: wipe all of it, so that what is read again is counted from nothing.
    #[arg(long, conflicts_with_all = ["keep_state", "topic"])]
    pub(crate) with_state: bool,
    /// Of a group that keeps state: leave it as it is. What is read again is counted onto it, or skipped at least once.
    #[arg(long)]
    pub(crate) keep_state: bool,
    /// Only print what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON, a line per partition.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a group goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetTarget {
    /// At an end of the log, or at a time.
    Start(Start),
    /// At an offset.
    Offset(i64),
}

impl ResetTarget {
    fn parse(text: &str) -> Result<Self, String> {
        let offset = || text.parse().ok().filter(|offset| *offset >= 0).map(Self::Offset);
        let time = || Time::parse(text).map(|time| Self::Start(Start::At(time)));
        match text {
            "earliest" => Ok(Self::Start(Start::Earliest)),
            "latest" => Ok(Self::Start(Start::Latest)),
            _ => offset().or_else(time).ok_or_else(|| {
                "neither earliest, latest, a time such as 2026-01-01T00:00:00Z, nor an offset from 0 on".to_owned()
            }),
        }
    }
}

/// What `produce` takes.
#[derive(Debug, Args)]
pub(crate) struct ProduceArguments {
    /// The event type, such as shipment.sent.
    #[arg(value_name = "TYPE")]
    pub(crate) event_type: String,
    /// The field whose value is the record's key; by default the key that the type itself has.
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
}

/// What `tail` takes.
#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    /// Event types: `shipment.sent`, `shipment.*` (one segment), `shipment.#` (the rest), `*` (everything).
    #[arg(default_value = "*")]
    pub(crate) pattern: String,
    /// From the oldest event on, instead of from now.
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// Stop after so many events.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// What `config` does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Name every problem of configuration and pipeline; exit code 2 when there is one.
    #[command(after_help = examples!("headwater config check", "headwater --config shop.toml config check"))]
    Check,
    /// Print the whole configuration as TOML, secrets as ***.
    #[command(after_help = examples!("headwater config show", "HEADWATER__PREFIX=shop. headwater config show"))]
    Show,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Red when a number is not an offset, a negative one is taken, or a time without its offset from UTC is guessed.
    #[test]
    fn a_target_is_an_end_a_time_or_an_offset() {
        assert_eq!(ResetTarget::parse("latest"), Ok(ResetTarget::Start(Start::Latest)));
        assert_eq!(ResetTarget::parse("2026"), Ok(ResetTarget::Offset(2026)));
        let time = Time::parse("2026-01-01T00:00:00Z").unwrap();
        assert_eq!(ResetTarget::parse("2026-01-01T02:00:00+02:00"), Ok(ResetTarget::Start(Start::At(time))));
        for wrong in ["-1", "2026-01-01", "2026-01-01T00:00:00", "newest", ""] {
            assert!(ResetTarget::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// Red when what names no type, or nobody, passes for a principal, or the name of a certificate does not.
    #[test]
    fn a_principal_has_a_type_and_a_name() {
        for fine in ["User:orders", "User:CN={group},O=Acme Ltd", "Group:a:b"] {
            assert_eq!(principal(fine).as_deref(), Ok(fine));
        }
        for wrong in ["orders", "User:", ":orders", "User:a\nb", ""] {
            assert!(principal(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Red when a command has no example, or one that the parser refuses.
    #[test]
    fn every_command_has_examples_that_it_takes() {
        let mut left = vec![Arguments::command()];
        while let Some(command) = left.pop() {
            left.extend(command.get_subcommands().cloned());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.split_once("Examples:\n").map(|(_, lines)| lines).unwrap_or_default();
            let lines: Vec<_> = examples.lines().take_while(|line| line.starts_with("  ")).collect();
            assert!(!lines.is_empty(), "{} has no example", command.get_name());
            for line in lines {
                // What a shell would hand over: no example has a blank within quotes.
                let ours = line.split(['|', '<', '>', '&']).next().unwrap_or_default().replace('\'', "");
                let words = ours.split_whitespace().skip_while(|word| *word != "headwater");
                let parsed = Arguments::try_parse_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}

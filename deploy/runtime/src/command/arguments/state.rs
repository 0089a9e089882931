//! What `state` takes.

use clap::{Args, Subcommand};

/// What `state` does.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Print what a key has. Exit code 1 when it has nothing.
    #[command(after_help = examples!(
        "headwater state get GROUP STORE KEY",
        "headwater state get GROUP STORE KEY --json"
    ))]
    Get(StateGetArguments),
    /// List keys in their order, and what each has.
    #[command(after_help = examples!(
        "headwater state list GROUP STORE",
        "headwater state list GROUP STORE --prefix K --limit 10 --json"
    ))]
    List(StateListArguments),
    /// Print how much of each store every instance keeps.
    #[command(after_help = examples!("headwater state stats", "headwater state stats GROUP --json"))]
    Stats(StateStatsArguments),
}

/// What `state get` takes.
#[derive(Debug, Args)]
pub(crate) struct StateGetArguments {
    /// The group, with or without the prefix.
    pub(crate) group: String,
    /// The store; `state stats` names them.
    pub(crate) store: String,
    /// The key.
    pub(crate) key: String,
    /// Print JSON, on one line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `state list` takes.
#[derive(Debug, Args)]
pub(crate) struct StateListArguments {
    /// The group, with or without the prefix.
    pub(crate) group: String,
    /// The store; `state stats` names them.
    pub(crate) store: String,
    /// Only keys that begin so.
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<String>,
    /// So many keys at most, up to 1000.
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) limit: usize,
    /// Print JSON, a line per key.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `state stats` takes.
#[derive(Debug, Args)]
pub(crate) struct StateStatsArguments {
    /// The group, with or without the prefix; all by default.
    pub(crate) group: Option<String>,
    /// Print JSON, a line per partition of a store.
    #[arg(long)]
    pub(crate) json: bool,
}

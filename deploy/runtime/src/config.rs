//! The configuration: one typed tree, parsed once in `main` and handed down by value.
//!
//! Layers, later ones win: the compiled-in `defaults.toml`, then `headwater.toml` in the working folder or `--config
//! FILE`, then `HEADWATER__SECTION__KEY` variables. Every problem is named at once, and no message holds a secret.

mod problems;

mod address;
mod group_config;
mod section;
mod tree;

pub(crate) mod group;
mod show;

mod check;
mod layers;

pub(crate) use address::is_address;
pub(crate) use check::ResolvedConfig;
pub use check::nearest;
pub(crate) use group_config::{Guarantee, Kind};
pub(crate) use layers::{Layers, Overlay, PREFIX};
pub use problems::Problems;
pub(crate) use section::AddedSection;
pub use section::Section;
pub(crate) use show::masked;
pub(crate) use tree::{Config, LogFormat, ServerConfig};

#[cfg(test)]
mod tests;

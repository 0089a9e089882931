//! What a program of pipelines depends on: its pipeline goes in, the whole program comes out.
//!
//! A program of your own is a line of `main`, and has every command for its own processors:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use headwater::{Payload, Pipeline, Sink};
//! use headwater_runtime::{Deps, Program};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct ShipmentSent {
//!     shipment_id: String,
//! }
//!
//! impl Payload for ShipmentSent {
//!     const TYPE: &'static str = "shipment.sent";
//!     const SCHEMA: &'static str = r#"{"type":"record","name":"ShipmentSent","namespace":"shop.shipment",
//!         "fields":[{"name":"shipment_id","type":"string"}]}"#;
//!
//!     fn key(&self) -> &str {
//!         &self.shipment_id
//!     }
//! }
//!
//! fn shop(_: &Deps) -> anyhow::Result<Pipeline> {
//!     Ok(Pipeline::default()
//!         .event::<ShipmentSent>()
//!         .sink("shipments-sink", Sink::of::<ShipmentSent>("shipments").key("shipment_id")))
//! }
//!
//! fn main() -> ExitCode {
//!     Program::new(shop).main()
//! }
//! ```
//!
//! A program may also have sections of the configuration of its own ([`Section`]), commands ([`Command`]), and something to
//! show ([`Demo`]).
//!
//! This crate wires: configuration → clients → groups → drain. It deliberately knows no event, no table and no service of a
//! pipeline, nor how Kafka and Postgres are spoken to.
//!
//! Exit codes: 0 when all went well, 1 when something failed, 2 for wrong usage or configuration (every problem is
//! named), 130 when a second Ctrl-C or SIGTERM cut the draining short.

mod program;

mod app;
mod config;

mod command;

mod auth;
mod clients;
mod groups;
mod http;
mod state;

mod process;

pub use app::Deps;
pub use config::Section;
pub use headwater_dev::Endpoints;
pub use program::Program;

// What commands of a program's own stand on.
pub use app::{App, ConfiguredGroup, Loader};
pub use clients::{
    Clients,
    topic_reader::{DecodedRecord, RecordDecoder, TopicReader},
};
pub use command::{Command, Demo, KeySource, ProduceTarget};
pub use config::{Problems, nearest};
pub use process::{
    output::{Output, OutputState},
    signals::Stop,
    table::{Table, thousands},
};

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The exit code of a command that was ended by a signal before it was done: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

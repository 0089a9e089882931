//! The process: its name, its signals, its log, its traces, and what it prints. Nothing here knows a pipeline.

pub(crate) mod instance;
pub(crate) mod signals;

pub(crate) mod logs;
pub(crate) mod telemetry;

pub(crate) mod output;
pub(crate) mod table;

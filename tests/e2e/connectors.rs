//! What the sinks and the registry connector promise.

mod file_sink;
mod postgres_sink;
mod registry;

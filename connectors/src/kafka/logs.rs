//! librdkafka's own log lines, passed on to `tracing`.

use rdkafka::config::RDKafkaLogLevel;

/// Passes one line on. Only interesting when debugging: properties that another kind of client uses, since consumers and
/// producers share one map of properties, and a producer that asks again for its id while the broker is starting.
pub(crate) fn line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match level {
        _ if matches!(facility, "CONFWARN" | "GETPID") => tracing::debug!(target: "librdkafka", facility, "{text}"),
        Emerg | Alert | Critical | Error => tracing::error!(target: "librdkafka", facility, "{text}"),
        Warning => tracing::warn!(target: "librdkafka", facility, "{text}"),
        Notice | Info => tracing::info!(target: "librdkafka", facility, "{text}"),
        Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

//! librdkafka's own log lines, passed on to `tracing`.

use rdkafka::config::RDKafkaLogLevel;
use tracing::Level;

/// Passes one line on.
pub(crate) fn line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match severity(level, facility) {
        Level::ERROR => tracing::error!(target: "librdkafka", facility, "{text}"),
        Level::WARN => tracing::warn!(target: "librdkafka", facility, "{text}"),
        Level::INFO => tracing::info!(target: "librdkafka", facility, "{text}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// How serious a line is here.
fn severity(level: RDKafkaLogLevel, facility: &str) -> Level {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match (facility, level) {
        // Only interesting when debugging: properties that another kind of client uses, since consumers and producers share
        // one map of properties, a producer that asks again for its id while the broker is starting, and each connection that
        // fails: whoever needs it says once why the brokers cannot be talked to.
        ("CONFWARN" | "GETPID" | "FAIL", _) => Level::DEBUG,
        // A transaction that has to be aborted, a client that has to be replaced: that is done, and where it does not help
        // the group says so itself.
        ("TXNERR" | "ADDPARTS" | "ADDOFFSETS" | "FATAL", Emerg | Alert | Critical | Error | Warning) => Level::WARN,
        (_, Emerg | Alert | Critical | Error) => Level::ERROR,
        (_, Warning) => Level::WARN,
        (_, Notice | Info) => Level::INFO,
        (_, Debug) => Level::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when an operator is called for what heals by itself, or not for the rest.
    #[test]
    fn what_heals_by_itself_is_no_error() {
        use RDKafkaLogLevel::{Emerg, Error, Notice};
        for facility in ["TXNERR", "ADDPARTS", "ADDOFFSETS"] {
            assert_eq!(severity(Error, facility), Level::WARN);
        }
        assert_eq!((severity(Emerg, "FATAL"), severity(Notice, "FATAL")), (Level::WARN, Level::INFO));
        assert_eq!((severity(Error, "GETPID"), severity(Error, "FAIL")), (Level::DEBUG, Level::DEBUG));
        assert_eq!(severity(Error, "PARTCNT"), Level::ERROR);
    }
}

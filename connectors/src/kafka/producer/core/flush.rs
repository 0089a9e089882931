//! Waits for what was handed over. All of them block.

use std::time::{Duration, Instant};

use rdkafka::producer::{Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};

use crate::kafka::librdkafka;

/// Between two looks whether what is waited for is lost.
const LOOK: Duration = Duration::from_millis(200);
/// How long reports may take of what was purged.
const REPORTS: Duration = Duration::from_secs(1);

/// Waits until every record has its fate; whether that is so when the time is over. Once `is_lost` says so, what is not on its
/// way is given up: librdkafka keeps what came back behind a record that was refused, and sends it no more.
pub(crate) fn flush<C: ProducerContext + 'static>(
    client: &ThreadedProducer<C>,
    deadline: Instant,
    is_lost: impl Fn() -> bool,
) -> bool {
    while !librdkafka::transactions::flush(client.client(), left(deadline).min(LOOK)) {
        if is_lost() {
            client.purge(PurgeConfig::default().queue());
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
    true
}

/// Gives up what has no fate yet: purging reports every record of it, and this waits for the reports.
pub(crate) fn give_up<C: ProducerContext + 'static>(client: &ThreadedProducer<C>) {
    client.purge(PurgeConfig::default().queue().inflight());
    let _ = client.flush(REPORTS);
}

/// What is left of the time.
pub(crate) fn left(deadline: Instant) -> Duration {
    // Zero is not "at once" everywhere.
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

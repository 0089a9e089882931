//! Keyed state, exactly once: a count of the records of each key beside Kafka Streams that does the same, and how fast
//! that state is restored: `cargo bench -p headwater-benches --bench engine -- state`.
//!
//! Everybody reads the same topic, which is partitioned as Java's clients do it, so that nobody keys it anew, keeps a long
//! for each key, writes a changelog, and emits an event for each record, in transactions of 100 ms. Where they differ the
//! engine has more to do: it decodes each payment, and encodes an event with CloudEvents headers of its own; Kafka Streams
//! decodes nothing, and hands on the headers that it got. `kafka-streams-cached` has its record cache, which lets all but
//! a key's last event of a commit go. `headwater-at-least-once` is the engine without transactions, with units of the same
//! time: what exactly once costs it.
//!
//! Whoever has counted is compared, key by key, with what the payments were made to be.

mod count_step;
mod keys;
mod restore;
mod streams;

pub(crate) use self::{
    count_step::{Counted, pipeline},
    restore::{read, restore},
};

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use self::{keys::Keys, streams::Streams};
use crate::{
    contender::Contender,
    equality,
    ground::Ground,
    meter::Measurement,
    place::Place,
    rounds::{head, line, median, say},
};

/// How much is counted.
#[derive(Clone, Debug, Args)]
pub(crate) struct Size {
    /// Keys that payments are spread over.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Payments that everybody reads.
    #[arg(long, default_value_t = 3_000_000)]
    records: u64,
    /// How often each does.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of memory for the engine's state, where it is not the default.
    #[arg(long)]
    cache: Option<usize>,
    /// Without Kafka Streams.
    #[arg(long)]
    alone: bool,
}

impl Size {
    /// Of the check.
    const CHECKED: Self = Self { keys: 1_000, records: 5_000, rounds: 1, cache: None, alone: false };

    /// How long one may take: at 10,000 records a second, and what it needs to start.
    fn limit(&self) -> Duration {
        Duration::from_secs(60 + self.records / 10_000)
    }
}

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    Streams,
    StreamsCached,
    Headwater,
    HeadwaterAtLeastOnce,
}

impl Counter {
    /// The first is the reference.
    const ALL: &[Self] = &[Self::Streams, Self::StreamsCached, Self::Headwater, Self::HeadwaterAtLeastOnce];

    fn name(self) -> &'static str {
        match self {
            Self::Streams => "kafka-streams",
            Self::StreamsCached => "kafka-streams-cached",
            Self::Headwater => "headwater",
            Self::HeadwaterAtLeastOnce => "headwater-at-least-once",
        }
    }

    /// Whether it is the engine.
    fn is_ours(self) -> bool {
        matches!(self, Self::Headwater | Self::HeadwaterAtLeastOnce)
    }

    /// Does the work in a process of its own; then everything that it emitted is compared.
    async fn measure(self, work: &Work, place: &Place) -> Result<Measurement> {
        let output = if self.is_ours() { "events.count" } else { streams::OUTPUT };
        let before = equality::ends(place, output)?;
        let measured = match (self, &work.streams) {
            (Self::Headwater, _) => Contender::Count.measure(place, "", work.size.limit()).await?,
            (Self::HeadwaterAtLeastOnce, _) => {
                Contender::CountAtLeastOnce.measure(place, "", work.size.limit()).await?
            }
            (of, Some(streams)) => streams.measure(place, of == Self::StreamsCached, work.size.limit()).await?,
            (_, None) => anyhow::bail!("kafka streams was not built"),
        };
        let read = if self.is_ours() { count_step::read } else { streams::read };
        work.keys.compare(self.name(), place, (output, &before), read)?;
        Ok(measured)
    }
}

/// What is done, by all.
struct Work {
    size: Size,
    keys: Keys,
    streams: Option<Streams>,
}

/// Lets everybody count, and restores; gives the table, which says nothing where it was only a check.
pub(crate) async fn run(ground: &mut Ground, size: &Size, check: bool, bare: bool) -> Result<String> {
    let size = if check { Size { alone: size.alone, ..Size::CHECKED } } else { size.clone() };
    let streams = if size.alone { None } else { Some(Streams::build().await?) };
    if let Some(cache) = size.cache {
        ground.cache = cache;
    }
    say(&format!("{} payments of {} keys are produced", size.records, size.keys));
    let keys = Keys::new(size.keys, size.records);
    ground.fill_with(size.records, bare, keys.of()).await?;
    let work = Work { size, keys, streams };
    let mut table = head();
    let counters: Vec<Counter> =
        Counter::ALL.iter().copied().filter(|of| of.is_ours() || work.streams.is_some()).collect();
    let mut counts = vec![Vec::new(); counters.len()];
    let (mut reads, mut restores) = (Vec::new(), Vec::new());
    for round in 0..work.size.rounds {
        for turn in 0..counters.len() {
            let index = (turn + round) % counters.len();
            let (counter, place) = (counters[index], ground.next());
            counts[index].push(told(counter.name(), counter.measure(&work, &place).await?));
            if counter == Counter::Headwater {
                for (contender, results) in
                    [(Contender::ReadChangelog, &mut reads), (Contender::Restore, &mut restores)]
                {
                    let measured = contender.measure(&place, "", work.size.limit()).await?;
                    results.push(told(&contender.name(), measured));
                }
            }
            std::fs::remove_dir_all(&place.state)?;
        }
    }
    let medians: Vec<Measurement> = counts.into_iter().map(median).collect();
    counters.iter().zip(&medians).for_each(|(of, median)| line(&mut table, of.name(), median, &medians[0]));
    let (read_alone, restored) = (median(reads), median(restores));
    line(&mut table, &Contender::ReadChangelog.name(), &read_alone, &read_alone);
    line(&mut table, &Contender::Restore.name(), &restored, &read_alone);
    Ok(if check { String::new() } else { table })
}

fn told(name: &str, measured: Measurement) -> Measurement {
    let (rate, cpu, peak) = (measured.rate(), measured.cpu_per_million(), measured.peak_bytes >> 20);
    say(&format!("{name}: {rate:.0} records/s, {cpu:.2} CPU-s/M, {peak} MiB"));
    measured
}

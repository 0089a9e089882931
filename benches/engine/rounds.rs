//! The contenders in turn, and the table of what they cost.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    contender::{Contender, PROCESSORS, SINKS},
    equality,
    ground::Ground,
    memory,
    meter::Measurement,
};

/// Payments of the check.
const CHECKED: u64 = 5_000;
const CHECK_LIMIT: Duration = Duration::from_secs(30);
/// How long the whole program works before its memory is looked at.
const WORK: Duration = Duration::from_secs(30);
const CHECK_WORK: Duration = Duration::from_secs(5);

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Payments that every contender reads.
    pub(crate) records: u64,
    /// How often each does.
    rounds: usize,
    /// How long one may take.
    limit: Duration,
}

impl Size {
    /// Minutes.
    pub(crate) const USUAL: Self = Self { records: 1_000_000, rounds: 3, limit: Duration::from_mins(2) };
    /// A quarter of an hour.
    pub(crate) const FULL: Self = Self { records: 4_000_000, rounds: 3, limit: Duration::from_mins(8) };
}

/// A line of progress.
pub(crate) fn say(text: &str) {
    eprintln!("engine: {text}");
}

/// Everybody once, on few records: fails where one does not do what the reference does.
pub(crate) async fn check(ground: &mut Ground, bare: bool) -> Result<()> {
    ground.fill(CHECKED, bare).await?;
    let mut by_hand = None;
    for &contender in PROCESSORS {
        say(&format!("check {}", contender.name()));
        let place = ground.fresh().await?;
        let before = equality::ends(&place, contender.output(&place))?;
        contender.measure(&place, &ground.back_end, CHECK_LIMIT).await?;
        let receipts = equality::since(&place, contender.output(&place), &before)?;
        match &by_hand {
            None => by_hand = Some(receipts),
            Some(by_hand) if contender.sampled().is_none() => equality::same_records(by_hand, &receipts)?,
            Some(by_hand) => {
                let without = equality::without_trace(by_hand.clone());
                equality::same_records(&without, &equality::without_trace(receipts))?;
            }
        }
        ground.clear(&place).await?;
    }
    let mut by_hand = None;
    for &contender in SINKS {
        say(&format!("check {}", contender.name()));
        let place = ground.fresh().await?;
        contender.measure(&place, &ground.back_end, CHECK_LIMIT).await?;
        let reference = by_hand.get_or_insert(place.table.clone());
        equality::same_rows(&place.database, reference, &place.table, CHECKED).await?;
    }
    say("check headwater run");
    memory::run(ground, CHECK_WORK).await?;
    Ok(())
}

/// Measures everybody and shows it.
pub(crate) async fn run(ground: &mut Ground, size: Size, bare: bool) -> Result<String> {
    say(&format!("{} payments are produced", size.records));
    ground.fill(size.records, bare).await?;
    let mut table = head();
    for class in [PROCESSORS, SINKS] {
        let mut results = vec![Vec::new(); class.len()];
        for round in 0..size.rounds {
            for turn in 0..class.len() {
                let index = (turn + round) % class.len();
                results[index].push(one(ground, class[index], size, round).await?);
            }
        }
        let medians: Vec<Measurement> = results.into_iter().map(median).collect();
        class.iter().zip(&medians).for_each(|(contender, of)| line(&mut table, &contender.name(), of, &medians[0]));
    }
    say(&format!("so far\n{table}"));
    say(&format!("headwater run works for {} s", WORK.as_secs()));
    let (peak, limit) = (memory::run(ground, WORK).await? / 1_000_000, memory::LIMIT / 1_000_000);
    // Writing to a string cannot fail.
    let _ =
        writeln!(table, "headwater run, orders pipeline: {peak} MB at its highest, which should be below {limit} MB");
    Ok(table)
}

async fn one(ground: &mut Ground, contender: Contender, size: Size, round: usize) -> Result<Measurement> {
    let (place, began) = (ground.fresh().await?, Instant::now());
    let measured = contender.measure(&place, &ground.back_end, size.limit).await?;
    say(&format!(
        "round {} {}: {:.0} records/s, {:.2} CPU-s/M, {:.1} s in all",
        round + 1,
        contender.name(),
        measured.rate(),
        measured.cpu_per_million(),
        began.elapsed().as_secs_f64()
    ));
    ground.clear(&place).await?;
    Ok(measured)
}

/// Of each figure its own median.
pub(crate) fn median(results: Vec<Measurement>) -> Measurement {
    let middle = |of: fn(&Measurement) -> f64| {
        let mut values: Vec<f64> = results.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut peaks: Vec<u64> = results.iter().map(|result| result.peak_bytes).collect();
    peaks.sort_unstable();
    Measurement {
        records: results[0].records,
        seconds: middle(|result| result.seconds),
        cpu_seconds: middle(|result| result.cpu_seconds),
        peak_bytes: peaks[peaks.len() / 2],
    }
}

/// The table's first line.
pub(crate) fn head() -> String {
    format!(
        "{:<22} {:>10} {:>8} {:>10} {:>7} {:>7} {:>7}\n",
        "contender", "records/s", "CPU-s/M", "peak MiB", "speed", "CPU", "memory"
    )
}

/// A contender's line: its figures, and how often they are those of the reference.
pub(crate) fn line(table: &mut String, name: &str, of: &Measurement, reference: &Measurement) {
    let speed = of.rate() / reference.rate();
    let cpu = of.cpu_per_million() / reference.cpu_per_million();
    let memory = of.peak_ratio(reference);
    let (rate, per_million, mib) = (of.rate(), of.cpu_per_million(), of.peak_bytes >> 20);
    // Writing to a string cannot fail.
    let _ =
        writeln!(table, "{name:<22} {rate:>10.0} {per_million:>8.2} {mib:>10} {speed:>7.2} {cpu:>7.2} {memory:>7.2}");
}

/// Prints how each contender is run alone, twice: a group reads only once.
pub(crate) async fn commands(ground: &mut Ground) -> Result<()> {
    let program = std::env::current_exe()?;
    for contender in PROCESSORS.iter().chain(SINKS) {
        for _ in 0..2 {
            let arguments = ground.fresh().await?.arguments().join(" ");
            say(&format!("{} contend {} {arguments}", program.display(), contender.name()));
        }
    }
    Ok(())
}

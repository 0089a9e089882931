//! `load TYPE`: generated events at a set rate or as fast as possible, and how long they take. A program has the command by
//! `Program::command::<Load>()`.
//!
//! An open loop: when a record is due follows from the rate alone, and its latency counts from then. So what a stall holds
//! up is in the figures, all of it, and not only the one record that met it (coordinated omission). How long it takes is
//! measured to the acknowledgement and, where that is wanted, to the event or the row that the record caused.
//!
//! This crate deliberately knows no event: what it sends follows from a schema.

mod arguments;

mod meter;
mod random;
mod schedule;

mod plan;
mod template;
mod values;

mod sender;
mod watch;

mod report;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use headwater::Time;
use headwater_connectors::kafka::KafkaConfig;
use headwater_runtime::{App, Clients, Command, INTERRUPTED, Loader, Output, Problems, ProduceTarget, Stop};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout_at},
};
use uuid::Uuid;

pub use self::arguments::Load;
use self::{
    meter::Meter,
    plan::Plan,
    report::Progress,
    schedule::{End, ProducerShare, Schedule},
    sender::{Job, LoadProducer},
    watch::Watch,
};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// How long the producers may take to connect.
const CONNECT: Duration = Duration::from_secs(15);
/// How often it is looked whether all has arrived.
const LOOK: Duration = Duration::from_millis(20);
/// How long what is under way may take after Ctrl-C.
const HURRY: Duration = Duration::from_secs(5);

impl Command for Load {
    const NAME: &'static str = "load";

    fn run(self, loader: &Loader, stop: Stop) -> impl Future<Output = Result<ExitCode>> {
        run(loader, self, stop)
    }
}

async fn run(loader: &Loader, arguments: Load, mut stop: Stop) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let clients = Clients::new(&app)?;
    let prepared = tokio::select! {
        prepared = prepare(&app, &clients, &arguments) => prepared?,
        () = stop.requested() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let (load, watches) = prepared;
    let meter = &load.job.meter;
    let mut watching = JoinSet::new();
    for (number, watch) in watches.into_iter().enumerate() {
        watching.spawn(watch.run(Arc::clone(meter), number));
    }
    let wires = connect(&clients.kafka, &load).await?;
    load.work(wires, &mut watching, &stop, arguments.wait).await?;
    let interrupted = stop.is_requested();
    let summary = report::summary(&load, interrupted);
    if arguments.json {
        let mut out = Output::new();
        out.line(&summary)?;
        out.flush()?;
    } else {
        report::print(&summary)?;
    }
    let unfinished: u64 = meter.destinations.iter().map(meter::Destination::pending).sum();
    Ok(match unfinished + summary["failed"].as_u64().unwrap_or_default() {
        _ if interrupted => ExitCode::from(INTERRUPTED),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A load that is ready to begin.
struct LoadRun {
    job: Arc<Job>,
    producers: u64,
}

/// Finds out what is sent and where it is looked for; asks every server that the load needs.
async fn prepare(app: &App, clients: &Clients, arguments: &Load) -> Result<(LoadRun, Vec<Watch>)> {
    let producers = arguments.producers;
    if let Some(keys) = arguments.keys.filter(|keys| *keys < producers) {
        return Err(
            Problems::one(format!("--keys {keys} are fewer than --producers {producers}: each needs one")).into()
        );
    }
    let end = arguments.count.map_or(End::After(arguments.duration), End::Count);
    if matches!(end, End::After(duration) if duration <= arguments.warm_up) {
        return Err(Problems::one("--warm-up leaves nothing of --duration to measure".to_owned()).into());
    }
    let mut target = ProduceTarget::find(app, clients, arguments.event_type.clone(), arguments.key.clone()).await?;
    let plan = Plan::new(&target, arguments.template.as_deref())?;
    if let Some(topic) = &arguments.topic {
        target.topic = topic.as_str().into();
    }
    target.require_topic(&clients.cluster).await?;
    let (watches, destinations) = watch::start(app, clients, arguments).await?.into_iter().unzip();
    let meter = Meter::new(producers, arguments.warm_up, destinations)?;
    let job = Job {
        schedule: Schedule { rate: arguments.rate, end },
        plan,
        topic: target.topic,
        event_type: target.event_type,
        seed: arguments.seed.unwrap_or_else(any_seed),
        keys: arguments.keys,
        zipf: arguments.zipf,
        run: arguments.headers.then(Uuid::new_v4),
        tracing: target.tracing,
        meter: Arc::new(meter),
    };
    Ok((LoadRun { job: Arc::new(job), producers }, watches))
}

/// Another one each time.
fn any_seed() -> u32 {
    let [a, b, c, d, ..] = Time::now().micros().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The producers, connected.
async fn connect(kafka: &KafkaConfig, load: &LoadRun) -> Result<Vec<LoadProducer>> {
    let mut connecting = JoinSet::new();
    for producer in 0..usize::try_from(load.producers)? {
        let (kafka, job) = (kafka.clone(), Arc::clone(&load.job));
        connecting.spawn_blocking(move || {
            let wire = sender::wire(&kafka, producer, &job.topic, &job.meter)?;
            wire.connect(&job.topic, CONNECT).map(|()| (producer, wire))
        });
    }
    let wires: Result<Vec<_>, _> = connecting.join_all().await.into_iter().collect();
    let mut wires = wires?;
    wires.sort_by_key(|(producer, _)| *producer);
    Ok(wires.into_iter().map(|(_, wire)| wire).collect())
}

impl LoadRun {
    /// Sends everything, and waits until it is acknowledged and has arrived, or `wait` is over.
    async fn work(
        &self,
        wires: Vec<LoadProducer>,
        watching: &mut JoinSet<Result<()>>,
        stop: &Stop,
        wait: Duration,
    ) -> Result<()> {
        let mut sending = JoinSet::new();
        self.job.meter.start();
        for (producer, wire) in (0..).zip(wires) {
            let (job, share, stop) =
                (Arc::clone(&self.job), ProducerShare { producer, of: self.producers }, stop.clone());
            sending.spawn_blocking(move || {
                sender::run(&job, &wire, share, || stop.is_requested());
                let end = Instant::now();
                wire.close(|| end.elapsed() < if stop.is_requested() { wait.min(HURRY) } else { wait });
            });
        }
        let mut progress = Progress::new();
        let mut tick = interval_at(Instant::now() + TELL, TELL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let sent = async {
            while let Some(sent) = sending.join_next().await {
                sent?;
            }
            let mut end = Instant::now() + wait;
            while self.waits() && Instant::now() < end {
                if stop.is_requested() {
                    end = end.min(Instant::now() + HURRY);
                }
                let _ = timeout_at(end, tokio::time::sleep(LOOK)).await;
            }
            anyhow::Ok(())
        };
        tokio::pin!(sent);
        let outcome = loop {
            tokio::select! {
                outcome = &mut sent => break outcome,
                Some(ended) = watching.join_next() => break ended.map_err(Into::into).and_then(|ended| ended),
                _ = tick.tick() => progress.line(&self.job.meter),
            }
        };
        progress.end();
        outcome
    }

    /// Whether something that was sent has not arrived.
    fn waits(&self) -> bool {
        self.job.meter.destinations.iter().any(|destination| destination.pending() > 0)
    }
}

//! The engine of one consumer group: takes records in, keeps them in order per key, commits what they ask for.
//!
//! Delivery: a position is committed only when every record before it has left its effects durable. Order: per key, in
//! lanes. A record that fails holds its partition and runs again with back-off; one that nobody can process stops it.
//! Shutdown and rebalance: nothing new begins, what is under way ends within the drain deadline, then the position is
//! committed; late completions of a partition that is gone are dropped.

mod assembly;
mod partition;
mod step;

use std::{collections::BTreeMap, future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use self::{
    assembly::{Answer, Assembly, Finished},
    partition::{Life, Partition},
    step::{Begun, Job, Outcome, Step},
};
use crate::{
    backoff::Backoff,
    catalogue::Catalogue,
    emit::Encoders,
    failure::Kind,
    metrics::{GroupState, Metric},
    pipeline::{Group, Work},
    ports::{BoxFuture, Clock, Committer, Control, Fetched, From, SchemaError, Source},
    record::{Position, TopicPartition},
    schemas::SchemaCache,
    unit::{CommitError, Committed},
};

/// Records begun in a row before the worker looks around for commits and control events.
const TURN: usize = 1_000;
/// A partition may be this many times the records in flight ahead of a record that is slow: each costs memory until the
/// position passes it, published or not.
const AHEAD: usize = 4;

/// The bounds of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Processors that run side by side.
    pub concurrency: usize,
    /// Records that are under way at most: begun, or finished and not yet durable.
    pub in_flight: usize,
    /// Records read ahead of those, at most, but for the last batch.
    pub prefetch: usize,
    /// How long one attempt may take.
    pub time_limit: Duration,
    /// The largest event that may be emitted, bytes.
    pub max_event_bytes: usize,
    /// A unit of work is committed when it holds this many records.
    pub batch_records: usize,
    /// A unit of work is committed when it holds this many bytes.
    pub batch_bytes: usize,
    /// A unit of work is committed this long after its first record at the latest.
    pub linger: Duration,
    /// Pauses between attempts, and after an outage.
    pub backoff: Backoff,
    /// How long what is under way may take when a partition leaves or the process stops.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            in_flight: 10_000,
            prefetch: 5_000,
            time_limit: Duration::from_secs(60),
            max_event_bytes: 1_000_000,
            batch_records: 5_000,
            batch_bytes: 8 << 20,
            linger: Duration::ZERO,
            backoff: Backoff::default(),
            drain: Duration::from_secs(20),
        }
    }
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The schema of something it emits is not registered.
    #[error("{group}: {why}")]
    Schemas {
        /// The group.
        group: String,
        /// What is missing, and how to mend it.
        why: String,
    },
    /// The source or the store cannot go on.
    #[error("{group}: {why}")]
    Failed {
        /// The group.
        group: String,
        /// What happened, and how to mend it.
        why: String,
    },
}

/// What a worker works with.
pub struct Parts {
    /// The group.
    pub group: Group,
    /// Event types and bindings.
    pub catalogue: Arc<Catalogue>,
    /// The group's bounds.
    pub settings: Settings,
    /// Where records come from.
    pub source: Box<dyn Source>,
    /// Where effects go.
    pub committer: Box<dyn Committer>,
    /// The schemas.
    pub schemas: Arc<SchemaCache>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What others see of the group.
    pub state: Arc<GroupState>,
}

/// The engine of one consumer group in one process.
pub struct Worker {
    settings: Settings,
    step: Arc<Step>,
    source: Box<dyn Source>,
    assembly: Assembly,
    clock: Arc<dyn Clock>,
    state: Arc<GroupState>,
    partitions: BTreeMap<TopicPartition, Partition>,
    running: FuturesUnordered<BoxFuture<'static, (Job, Outcome)>>,
    /// Positions that are durable and not yet told to the source.
    moved: BTreeMap<TopicPartition, i64>,
    starts: u64,
    /// Set once the process is to stop: when it gives up.
    stopping: Option<Duration>,
    closing: bool,
}

impl Worker {
    /// Looks up what the group emits in the registry and waits through its outages.
    pub async fn build(parts: Parts) -> Result<Self, WorkerError> {
        let Parts { group, catalogue, settings, source, committer, schemas, clock, state } = parts;
        let encoders = encoders(&group, &settings, &schemas, clock.as_ref(), &state).await?;
        let interest = group.work.interest();
        let time_limit = settings.time_limit;
        let step = Step {
            group,
            interest,
            catalogue,
            schemas,
            encoders: Arc::new(encoders),
            state: state.clone(),
            clock: clock.clone(),
            time_limit,
        };
        Ok(Self {
            assembly: Assembly::new(committer, &settings),
            settings,
            step: Arc::new(step),
            source,
            clock,
            state,
            partitions: BTreeMap::new(),
            running: FuturesUnordered::new(),
            moved: BTreeMap::new(),
            starts: 0,
            stopping: None,
            closing: false,
        })
    }

    /// Runs until `stop` resolves and everything under way is committed, or the group cannot go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let mut stop = pin!(stop);
        loop {
            let more = self.turn();
            let (now, records) = (self.clock.elapsed(), self.has_room());
            let wake = self.next_wake().map(|at| at.saturating_sub(now));
            let sleep = wake.map_or_else(|| std::future::pending().boxed(), |d| self.clock.sleep(d));
            tokio::select! {
                biased;
                () = &mut stop, if self.stopping.is_none() => self.stop(),
                done = self.assembly.done() => self.stored(done)?,
                Some((job, outcome)) = self.running.next(), if !self.running.is_empty() => {
                    self.completed(job, outcome);
                    while let Some(Some((job, outcome))) = self.running.next().now_or_never() {
                        self.completed(job, outcome);
                    }
                }
                fetched = self.source.next(records) => {
                    if self.fetched(fetched)? {
                        return Ok(());
                    }
                }
                () = std::future::ready(()), if more => {}
                () = sleep => {
                    if self.closing && self.gave_up() {
                        tracing::warn!(group = %self.step.group.id, "the source did not close in time; its last positions may be read again");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does all that can be done now without waiting; true when there is more to begin at once.
    fn turn(&mut self) -> bool {
        self.release_holds();
        let more = self.dispatch();
        self.let_leavers_go();
        if self.stopping.is_some() && !self.closing && (self.gave_up() || self.is_quiet()) {
            self.report_moves();
            self.closing = true;
            self.stopping = Some(self.clock.elapsed() + self.settings.drain);
            self.source.control(Control::Close);
        }
        let (now, flush) = (self.clock.elapsed(), self.must_flush());
        self.assembly.advance(now, flush, &self.partitions);
        self.report_moves();
        self.state.set(Metric::InFlight, self.under_way() as u64);
        more
    }

    /// Begins what may begin, a partition after the other; true when it stopped only to look around.
    fn dispatch(&mut self) -> bool {
        if self.stopping.is_some() {
            return false;
        }
        let room = self.settings.in_flight.saturating_sub(self.under_way());
        let mut left = room.min(TURN);
        let ahead = self.settings.in_flight.saturating_mul(AHEAD);
        let flowing = |p: &Partition| p.flows() && !p.pending.is_empty() && p.open() < ahead;
        let ids: Vec<_> = self.partitions.iter().filter(|(_, p)| flowing(p)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            while left > 0 && self.running.len() < self.settings.concurrency {
                let Some(partition) = self.partitions.get_mut(&id).filter(|p| flowing(p)) else { break };
                let Some(job) = partition.next_job(&id) else { break };
                left -= 1;
                job.into_iter().for_each(|job| self.begin(job));
            }
        }
        left == 0 && room > TURN
    }

    /// Begins a job, and every job of its lane that it frees at once.
    fn begin(&mut self, job: Job) {
        let mut next = Some(job);
        while let Some(job) = next {
            next = match self.step.begin(job) {
                Begun::Running(running) => {
                    self.running.push(running);
                    None
                }
                Begun::Over(job, outcome) => self.settle(job, outcome),
            };
        }
    }

    fn completed(&mut self, job: Job, outcome: Outcome) {
        if let Some(next) = self.settle(job, outcome) {
            self.begin(next);
        }
    }

    /// Books what became of an attempt; gives the next job of the lane, to begin now.
    fn settle(&mut self, job: Job, outcome: Outcome) -> Option<Job> {
        let partition = self.partitions.get_mut(&job.partition).filter(|p| p.start == job.start)?;
        match outcome {
            Outcome::Done(effects) => {
                partition.begun -= 1;
                if job.blocks {
                    partition.blocks -= 1;
                    if partition.blocks == 0 && partition.life == Life::Running {
                        self.state.trouble(&job.partition.to_string(), None);
                        self.source.control(Control::Resume(vec![job.partition.clone()]));
                    }
                }
                let next = partition.lanes.leave(job.lane);
                self.assembly.finish(Finished::new(job, effects, self.clock.elapsed()), partition);
                next
            }
            Outcome::Retry(why) => {
                self.state.add(Metric::Failures, 1);
                let attempt = job.attempt + 1;
                let pause = self.settings.backoff.after(attempt);
                tracing::warn!(
                    group = %self.step.group.id, partition = %job.partition, offset = job.record.offset, attempt,
                    retry_in = ?pause, error = %why, "a record failed; its partition waits and tries it again"
                );
                self.hold(Job { attempt, ..job }, pause);
                None
            }
            Outcome::Wait(pause, why) => {
                // The reason of a partition that stands still is the more important one.
                if partition.life == Life::Running && self.state.trouble(&job.partition.to_string(), Some(&why)) {
                    tracing::warn!(group = %self.step.group.id, partition = %job.partition, reason = %why, "a partition waits");
                }
                self.hold(job, pause);
                None
            }
            Outcome::Poison(kind, why) => {
                self.poison(&job, kind, &why);
                None
            }
        }
    }

    /// Keeps a job for another attempt and holds its partition until then.
    fn hold(&mut self, mut job: Job, pause: Duration) {
        let Some(partition) = self.partitions.get_mut(&job.partition) else { return };
        if !partition.keeps(&job) || self.stopping.is_some() {
            partition.begun -= 1;
            partition.blocks -= usize::from(job.blocks);
            return;
        }
        if partition.blocks == 0 {
            self.source.control(Control::Pause(vec![job.partition.clone()]));
        }
        partition.blocks += usize::from(!job.blocks);
        job.blocks = true;
        // Whoever asks to wait may name any time.
        partition.hold_until = partition.hold_until.max(self.clock.elapsed().saturating_add(pause));
        partition.held.push(job);
    }

    fn poison(&mut self, job: &Job, kind: Kind, why: &str) {
        let Some(partition) = self.partitions.get_mut(&job.partition) else { return };
        partition.begun -= 1;
        partition.blocks -= usize::from(job.blocks);
        self.state.add(Metric::Poison, 1);
        tracing::error!(
            group = %self.step.group.id, partition = %job.partition, offset = job.record.offset, kind = kind.as_str(),
            error = %why, "a record cannot be processed, and its partition stops before it: mend the processor, or move the \
            group's offset past the record, and restart"
        );
        let reason = format!("stopped at offset {} ({}): {why}", job.record.offset, kind.as_str());
        self.stop_partition(&job.partition, job.record.offset, &reason);
    }

    /// Stops a partition at an offset until a person acts; what came before still runs and is committed, or a person who
    /// moves the group past the offset would skip it.
    fn stop_partition(&mut self, id: &TopicPartition, at: i64, reason: &str) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        if matches!(partition.life, Life::Running | Life::Stopped) && at < partition.end {
            partition.let_go_from(at);
            (partition.life, partition.end) = (Life::Stopped, at);
            self.state.trouble(&id.to_string(), Some(reason));
            self.source.control(Control::Pause(vec![id.clone()]));
        }
        self.count_partitions();
    }

    /// Runs held jobs again whose pause is over.
    fn release_holds(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.clock.elapsed();
        let due = |p: &&mut Partition| !p.held.is_empty() && p.hold_until <= now;
        let jobs: Vec<Job> =
            self.partitions.values_mut().filter(due).flat_map(|p| std::mem::take(&mut p.held)).collect();
        jobs.into_iter().for_each(|job| self.begin(job));
    }

    /// Handles what the source reports; true once it has closed.
    fn fetched(&mut self, fetched: Fetched) -> Result<bool, WorkerError> {
        match fetched {
            Fetched::Records(batch) => {
                let ours = self.partitions.get_mut(&batch.partition).filter(|p| p.start == batch.start);
                if let Some(partition) = ours.filter(|p| p.life == Life::Running) {
                    partition.receive(batch.records);
                }
            }
            Fetched::Assigned(partitions) => {
                self.state.joined();
                partitions.into_iter().for_each(|id| self.restart(id, Duration::ZERO));
            }
            Fetched::Revoked(partitions) => self.leave(partitions),
            Fetched::Lost(partitions) => self.forget(&partitions),
            Fetched::Connected(state) => {
                let why = state.as_ref().err().map(String::as_str);
                if self.state.trouble("kafka", why) {
                    match why {
                        Some(why) => tracing::warn!(group = %self.step.group.id, error = why, "kafka does not answer"),
                        None => tracing::info!(group = %self.step.group.id, "kafka answers again"),
                    }
                }
            }
            Fetched::Failed(why) => return Err(self.failed(why)),
            Fetched::Closed if self.closing => return Ok(true),
            Fetched::Closed => return Err(self.failed("the consumer closed by itself".to_owned())),
        }
        Ok(false)
    }

    /// Starts a partition, or starts it anew, from where the store says.
    fn restart(&mut self, id: TopicPartition, after: Duration) {
        self.starts += 1;
        self.state.trouble(&id.to_string(), None);
        self.partitions.insert(id, Partition::new(self.starts, self.clock.elapsed() + after));
        self.count_partitions();
    }

    fn leave(&mut self, partitions: Vec<TopicPartition>) {
        let deadline = self.clock.elapsed() + self.settings.drain;
        let mut unknown = Vec::new();
        for id in partitions {
            match self.partitions.get_mut(&id) {
                Some(partition) => {
                    partition.let_go();
                    partition.life = Life::Leaving(deadline);
                    self.state.trouble(&id.to_string(), None);
                }
                None => unknown.push(id),
            }
        }
        if !unknown.is_empty() {
            self.source.control(Control::Released(unknown));
        }
    }

    /// Gives back the partitions of which nothing is under way any more, or whose time is up.
    fn let_leavers_go(&mut self) {
        let now = self.clock.elapsed();
        let gone = |p: &Partition| matches!(p.life, Life::Leaving(by) if p.is_quiet() || by <= now);
        let gone: Vec<_> = self.partitions.iter().filter(|(_, p)| gone(p)).map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            self.report_moves();
            self.forget(&gone);
            self.source.control(Control::Released(gone));
        }
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        for id in partitions {
            self.partitions.remove(id);
            self.moved.remove(id);
            self.state.trouble(&id.to_string(), None);
        }
        self.assembly.forget(partitions);
        self.count_partitions();
    }

    /// Books what the store has answered.
    fn stored(&mut self, done: Answer) -> Result<(), WorkerError> {
        let now = self.clock.elapsed();
        let error = match done {
            Answer::Started(starts, Ok(froms)) => {
                self.recovered();
                starts.into_iter().zip(froms).for_each(|((id, start), from)| self.begin_partition(id, start, from));
                return Ok(());
            }
            Answer::Committed(unit, Ok(committed)) => {
                self.recovered();
                let fenced = match committed {
                    Committed::Done => Vec::new(),
                    Committed::Fenced(partitions) => partitions,
                };
                self.assembly.book(unit, &fenced, &mut self.partitions, &mut self.moved, &self.state);
                self.fenced(fenced);
                return Ok(());
            }
            Answer::Committed(unit, Err(CommitError::Refused(why))) => {
                self.recovered();
                if let Some((id, start)) = self.assembly.refused(unit) {
                    self.stop_refused(&id, start, &why);
                }
                return Ok(());
            }
            Answer::Committed(unit, Err(error)) => {
                self.assembly.keep(unit);
                error
            }
            Answer::Started(_, Err(error)) => error,
        };
        match error {
            CommitError::Outage(why) => {
                let pause = self.assembly.outage(now, &self.settings.backoff);
                self.state.add(Metric::CommitFailures, 1);
                if self.state.trouble("store", Some(&why)) {
                    tracing::warn!(group = %self.step.group.id, error = %why, retry_in = ?pause, "nothing can be committed; the group waits");
                }
                Ok(())
            }
            CommitError::Fatal(why) | CommitError::Refused(why) => Err(self.failed(why)),
        }
    }

    fn recovered(&mut self) {
        self.assembly.recovered();
        if self.state.trouble("store", None) {
            tracing::info!(group = %self.step.group.id, "the store answers again");
        }
    }

    fn stop_refused(&mut self, id: &TopicPartition, start: u64, why: &str) {
        let ours = self.partitions.get(id).filter(|p| p.start == start);
        let Some(life) = ours.map(|p| p.life) else { return };
        self.state.add(Metric::Poison, 1);
        tracing::error!(group = %self.step.group.id, partition = %id, kind = Kind::Row.as_str(), error = %why,
            "the database refuses a row, and its partition stops before the batch: mend the row or the table, and restart");
        if matches!(life, Life::Leaving(_)) {
            // Its next owner meets the row again.
            self.release(id);
            return;
        }
        // Whatever else of it is under way lies behind the refused row: a new start makes it stale.
        self.restart(id.clone(), Duration::ZERO);
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.life = Life::Running;
        }
        self.stop_partition(id, i64::MIN, &format!("stopped ({}): {why}", Kind::Row.as_str()));
    }

    /// Gives a partition back at once, whatever of it is under way.
    fn release(&mut self, id: &TopicPartition) {
        self.forget(std::slice::from_ref(id));
        self.source.control(Control::Released(vec![id.clone()]));
    }

    fn begin_partition(&mut self, id: TopicPartition, start: u64, from: From) {
        let starting = |p: &&mut Partition| p.start == start && matches!(p.life, Life::Starting(_));
        let Some(partition) = self.partitions.get_mut(&id).filter(starting) else { return };
        partition.life = Life::Running;
        if let From::Offset(next) = from {
            partition.durable = next;
        }
        self.source.control(Control::Begin { partition: id.clone(), from, start });
        // A partition that starts anew may have been held before.
        self.source.control(Control::Resume(vec![id]));
    }

    /// Another owner has these partitions. If the group still gives them to us we take them again, with back-off.
    fn fenced(&mut self, partitions: Vec<TopicPartition>) {
        for id in partitions {
            self.state.add(Metric::Fenced, 1);
            tracing::warn!(group = %self.step.group.id, partition = %id, "another owner has committed this partition; starting it anew");
            match self.partitions.get(&id).map(|p| p.life) {
                // Gone already, or about to take possession again.
                None | Some(Life::Starting(_)) => {}
                Some(Life::Leaving(_)) => self.release(&id),
                Some(Life::Running | Life::Stopped) => {
                    self.source.control(Control::Pause(vec![id.clone()]));
                    self.restart(id, self.settings.backoff.after(1));
                }
            }
        }
    }

    /// Tells the source which positions are durable.
    fn report_moves(&mut self) {
        if !self.moved.is_empty() {
            let position = |(partition, next)| Position { partition, next };
            let positions = std::mem::take(&mut self.moved).into_iter().map(position).collect();
            self.source.control(Control::Commit(positions));
        }
    }

    fn stop(&mut self) {
        self.stopping = Some(self.clock.elapsed() + self.settings.drain);
        self.partitions.values_mut().for_each(Partition::let_go);
    }

    fn gave_up(&self) -> bool {
        self.stopping.is_some_and(|by| by <= self.clock.elapsed())
    }

    fn is_quiet(&self) -> bool {
        self.partitions.values().all(Partition::is_quiet)
    }

    fn must_flush(&self) -> bool {
        self.stopping.is_some() || self.partitions.values().any(|p| matches!(p.life, Life::Leaving(_)))
    }

    fn has_room(&self) -> bool {
        let waiting: usize = self.partitions.values().filter(|p| p.flows()).map(|p| p.pending.len()).sum();
        self.stopping.is_none() && waiting < self.settings.prefetch
    }

    fn under_way(&self) -> usize {
        // What a transaction must hold back until the position reaches it is under way still.
        let atomic = self.assembly.is_atomic();
        let records = |p: &Partition| if atomic { p.open() } else { p.begun };
        self.partitions.values().map(records).sum::<usize>() + self.assembly.waiting()
    }

    /// When something is due that no event announces.
    fn next_wake(&self) -> Option<Duration> {
        let lives = self.partitions.values().filter_map(|p| match p.life {
            Life::Leaving(by) => Some(by),
            _ => (!p.held.is_empty()).then_some(p.hold_until),
        });
        lives.chain(self.stopping).chain(self.assembly.next_wake(&self.partitions)).min()
    }

    fn count_partitions(&self) {
        let stopped = self.partitions.values().filter(|p| p.life == Life::Stopped).count();
        self.state.set(Metric::Partitions, self.partitions.len() as u64);
        self.state.set(Metric::Stopped, stopped as u64);
    }

    fn failed(&self, why: String) -> WorkerError {
        self.state.trouble("group", Some(&why));
        WorkerError::Failed { group: self.step.group.id.clone(), why }
    }
}

async fn encoders(
    group: &Group,
    settings: &Settings,
    schemas: &SchemaCache,
    clock: &dyn Clock,
    state: &GroupState,
) -> Result<Encoders, WorkerError> {
    let Work::Process(processor) = &group.work else { return Ok(Encoders::default()) };
    let mut attempt = 0;
    loop {
        match schemas.encoders(&processor.emits(), settings.max_event_bytes).await {
            Ok(encoders) => {
                state.trouble("registry", None);
                return Ok(encoders);
            }
            Err(SchemaError::Unknown(why)) => {
                let why = format!("{why}: register what the pipeline emits with `headwater topology apply`");
                state.trouble("group", Some(&why));
                return Err(WorkerError::Schemas { group: group.id.clone(), why });
            }
            Err(SchemaError::Outage(why)) => {
                attempt += 1;
                if state.trouble("registry", Some(&why)) {
                    tracing::warn!(group = %group.id, error = %why, "the schema registry does not answer; waiting for it");
                }
                clock.sleep(settings.backoff.after(attempt)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;

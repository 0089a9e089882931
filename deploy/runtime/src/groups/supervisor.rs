//! Keeps one group at work: what fails is started anew with growing pauses, for as long as the process runs. Only what a
//! person must decide stands still; it is said, and shows in the metrics. Whose clients are to be made anew drains and is
//! started again at once, which is no failure.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use headwater::{
    Time,
    spi::{AfterFailure, Backoff, BoxFuture, Clock, Down, GroupMetrics, Metric, WorkerError},
};
use tokio::sync::{mpsc, oneshot, watch};

/// A pause is never longer, however long an outage lasts: what is mended is noticed within it.
const LONGEST: Duration = Duration::from_secs(5);
/// A group that has worked for so long since it was started is well: the next pause is the shortest again.
const STEADY: Duration = Duration::from_secs(60);

/// Why a group ended before it was told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupFailure {
    /// Started anew it may work.
    Failed(String),
    /// Only a person can decide what comes next.
    Halted(String),
}

/// What is supervised.
pub(crate) trait SupervisedTask: Send {
    /// Builds everything that the group needs and works until it is told to stop.
    fn work(&mut self, stop: watch::Receiver<bool>) -> BoxFuture<'_, Result<(), GroupFailure>>;

    /// Waits until nothing of the last attempt is left: a group has one member here, and one folder.
    fn release(&mut self) -> BoxFuture<'_, ()>;
}

/// Asks for clients that are made anew; answered once they are being made.
pub(crate) type RenewalRequest = oneshot::Sender<()>;

/// Keeps one group at work.
pub(crate) struct Supervisor {
    pub(crate) group: String,
    pub(crate) state: Arc<GroupMetrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) backoff: Backoff,
}

impl Supervisor {
    /// Until the process stops; who asks for it has the group drained and started again in between.
    ///
    /// # Errors
    /// Why the group failed while it was to stop: not all that was under way is done.
    pub(crate) async fn run(
        self,
        mut attempts: impl SupervisedTask,
        mut stop: watch::Receiver<bool>,
        mut renewals: mpsc::Receiver<RenewalRequest>,
    ) -> Result<(), String> {
        let (mut failures, mut since) = (0, None);
        loop {
            // What begins now is made anew.
            while let Ok(asked) = renewals.try_recv() {
                answer(asked);
            }
            let began = self.clock.elapsed();
            let ended = attempt(&mut attempts, &mut stop, &mut renewals).await;
            if self.state.has_joined() && self.clock.elapsed().saturating_sub(began) >= STEADY {
                (failures, since) = (0, None);
            }
            let failure = match ended {
                Ok(Some(asked)) if !*stop.borrow() => {
                    tokio::select! {
                        () = self.renew(&mut attempts) => {}
                        _ = stop.wait_for(|stopped| *stopped) => return Ok(()),
                    }
                    answer(asked);
                    continue;
                }
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            self.state.add(Metric::GroupFailures, 1);
            let why = match failure {
                GroupFailure::Failed(why) | GroupFailure::Halted(why) if *stop.borrow() => return Err(why),
                GroupFailure::Halted(why) => {
                    self.halt(why, since);
                    let _ = stop.wait_for(|stopped| *stopped).await;
                    return Ok(());
                }
                GroupFailure::Failed(why) => why,
            };
            failures += 1;
            let down = Down { since: *since.get_or_insert_with(|| self.clock.now()), why, next: AfterFailure::Now };
            tokio::select! {
                () = self.pause(failures, &down, &mut attempts) => {}
                _ = stop.wait_for(|stopped| *stopped) => return Ok(()),
            }
        }
    }

    fn halt(&self, why: String, since: Option<Time>) {
        tracing::error!(
            group = self.group,
            error = why,
            "the group stands still until a person acts; the others go on"
        );
        self.state.set_down(Down { why, since: since.unwrap_or_else(|| self.clock.now()), next: AfterFailure::Person });
    }

    /// Between an attempt that was ended for it and the next one.
    async fn renew(&self, attempts: &mut impl SupervisedTask) {
        tracing::info!(group = self.group, "the group is drained, and its clients are made anew");
        self.state.set_renewing();
        attempts.release().await;
    }

    /// Between two attempts.
    async fn pause(&self, failures: u32, down: &Down, attempts: &mut impl SupervisedTask) {
        let pause = self.backoff.after(failures).min(LONGEST);
        tracing::warn!(group = self.group, error = down.why, retry_in = ?pause, "the group failed and is started anew; the others go on");
        self.state.set_down(Down { next: AfterFailure::At(self.clock.now().plus(pause)), ..down.clone() });
        self.clock.sleep(pause).await;
        attempts.release().await;
        self.state.set_down(down.clone());
    }
}

/// One attempt, until it ends by itself, at the stop, or for a renewal, which is given back then.
async fn attempt(
    attempts: &mut impl SupervisedTask,
    stop: &mut watch::Receiver<bool>,
    renewals: &mut mpsc::Receiver<RenewalRequest>,
) -> Result<Option<RenewalRequest>, GroupFailure> {
    let (end, ended) = watch::channel(false);
    let mut work = pin!(caught(attempts.work(ended)));
    let asked = tokio::select! {
        ended = &mut work => return ended.map(|()| None),
        _ = stop.wait_for(|stopped| *stopped) => None,
        Some(asked) = renewals.recv() => Some(asked),
    };
    end.send_replace(true);
    work.await.map(|()| asked)
}

/// Nobody may wait any more.
fn answer(asked: RenewalRequest) {
    let _ = asked.send(());
}

/// A panic ends the attempt, and nothing else.
async fn caught(work: BoxFuture<'_, Result<(), GroupFailure>>) -> Result<(), GroupFailure> {
    // What it may have left half done is thrown away as a whole.
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(GroupFailure::of_panic(&*panic)))
}

impl GroupFailure {
    /// A fault of the program.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Self::Failed(format!("a fault of the program: {text}"))
    }
}

impl From<WorkerError> for GroupFailure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Schemas { why, .. } | WorkerError::Failed { why, .. } => Self::Failed(why),
            WorkerError::Halted { why, .. } => Self::Halted(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use headwater::spi::Activity;

    use super::*;

    /// Passes at once, and knows how long each sleep was.
    #[derive(Default)]
    struct SleepRecorder(Mutex<(Duration, Vec<u64>)>);

    impl SleepRecorder {
        fn pass(&self, time: Duration) {
            self.0.lock().unwrap().0 += time;
        }

        fn pauses(&self) -> Vec<u64> {
            self.0.lock().unwrap().1.clone()
        }
    }

    impl Clock for SleepRecorder {
        fn now(&self) -> Time {
            Time::from_millis(0).plus(self.elapsed())
        }

        fn elapsed(&self) -> Duration {
            self.0.lock().unwrap().0
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            let mut slept = self.0.lock().unwrap();
            slept.0 += duration;
            slept.1.push(u64::try_from(duration.as_millis()).unwrap());
            Box::pin(std::future::ready(()))
        }
    }

    /// What one attempt does.
    enum Script {
        Fails,
        Halts,
        Panics,
        /// Joins, works for so long, and fails.
        Works(Duration),
        UntilStopped,
        FailsWhenStopped,
    }

    struct Scripted {
        clock: Arc<SleepRecorder>,
        state: Arc<GroupMetrics>,
        script: VecDeque<Script>,
        /// What was said while each attempt began, and whether the one before was gone.
        seen: Arc<Mutex<Vec<String>>>,
        held: bool,
    }

    impl SupervisedTask for Scripted {
        fn work(&mut self, mut stop: watch::Receiver<bool>) -> BoxFuture<'_, Result<(), GroupFailure>> {
            Box::pin(async move {
                let held = if std::mem::replace(&mut self.held, true) { "beside the attempt before: " } else { "" };
                self.seen.lock().unwrap().push(format!("{held}{}", self.state.troubles().join("; ")));
                let failed = || Err(GroupFailure::Failed("no schema".to_owned()));
                match self.script.pop_front().unwrap_or(Script::UntilStopped) {
                    Script::Fails => failed(),
                    Script::Halts => Err(GroupFailure::Halted("decide".to_owned())),
                    Script::Panics => panic!("index out of bounds"),
                    Script::Works(time) => {
                        self.state.joined();
                        self.clock.pass(time);
                        failed()
                    }
                    Script::UntilStopped => {
                        self.state.joined();
                        let _ = stop.wait_for(|stopped| *stopped).await;
                        Ok(())
                    }
                    Script::FailsWhenStopped => {
                        let _ = stop.wait_for(|stopped| *stopped).await;
                        failed()
                    }
                }
            })
        }

        fn release(&mut self) -> BoxFuture<'_, ()> {
            self.held = false;
            Box::pin(std::future::ready(()))
        }
    }

    struct ScriptedRun {
        clock: Arc<SleepRecorder>,
        state: Arc<GroupMetrics>,
        seen: Arc<Mutex<Vec<String>>>,
        stop: watch::Sender<bool>,
        renewals: mpsc::Sender<RenewalRequest>,
        task: tokio::task::JoinHandle<Result<(), String>>,
    }

    fn run(script: impl IntoIterator<Item = Script>) -> ScriptedRun {
        let (clock, state) = (Arc::new(SleepRecorder::default()), Arc::new(GroupMetrics::default()));
        let seen = Arc::default();
        let attempts = Scripted {
            clock: clock.clone(),
            state: state.clone(),
            script: script.into_iter().collect(),
            seen: Arc::clone(&seen),
            held: false,
        };
        let backoff = Backoff::try_new(Duration::from_millis(500), Duration::from_secs(30)).unwrap();
        let supervisor = Supervisor { group: "g".to_owned(), state: state.clone(), clock: clock.clone(), backoff };
        let (stop, stopped) = watch::channel(false);
        let (renewals, asked) = mpsc::channel(1);
        #[expect(clippy::disallowed_methods, reason = "the test awaits it")]
        let task = tokio::spawn(supervisor.run(attempts, stopped, asked));
        ScriptedRun { clock, state, seen, stop, renewals, task }
    }

    impl ScriptedRun {
        async fn becomes(&self, activity: Activity) {
            for _ in 0..10_000 {
                if self.state.activity() == activity {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("it is {:?}: {:?}", self.state.activity(), self.state.troubles());
        }

        async fn renewed(&self) {
            let (asked, begun) = oneshot::channel();
            self.renewals.send(asked).await.unwrap();
            begun.await.unwrap();
        }

        async fn stopped(self) -> Result<(), String> {
            self.stop.send_replace(true);
            self.task.await.unwrap()
        }
    }

    /// Red when a group is not started anew, a panic ends its supervisor, a pause does not grow or grows without an end, the
    /// next attempt begins while the last one holds on, or the reason and its time are not said while it is tried again.
    #[tokio::test]
    async fn what_fails_is_started_anew_with_growing_pauses() {
        let run = run([Script::Fails, Script::Panics, Script::Fails, Script::Fails, Script::Fails, Script::Fails]);
        run.becomes(Activity::Working).await;
        assert_eq!(run.clock.pauses(), [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        let seen = run.seen.lock().unwrap().clone();
        assert_eq!(seen[0], "joining its consumer group");
        assert_eq!(seen[1], "failed since 1970-01-01T00:00:00Z, is being started anew: no schema");
        assert!(seen[2].contains("since 1970-01-01T00:00:00Z") && seen[2].contains("index out of bounds"), "{seen:?}");
        assert_eq!(run.state.troubles(), Vec::<String>::new());
        assert_eq!(run.state.get(Metric::GroupFailures), 6);
        assert_eq!(run.stopped().await, Ok(()));
    }

    /// Red when the pauses of a group that worked for a while go on where they were, or those of one that failed at once begin anew.
    #[tokio::test]
    async fn pauses_begin_anew_once_the_group_has_worked_for_a_while() {
        let (soon, late) = (Script::Works(Duration::from_secs(59)), Script::Works(Duration::from_secs(61)));
        let run = run([Script::Fails, soon, late, Script::Fails]);
        run.becomes(Activity::Working).await;
        assert_eq!(run.clock.pauses(), [500, 1_000, 500, 1_000]);
        let since = "since 1970-01-01T00:02:01.500Z";
        assert!(run.seen.lock().unwrap()[4].contains(since), "{:?}", run.seen.lock().unwrap());
        assert_eq!(run.stopped().await, Ok(()));
    }

    /// Red when what only a person can decide is tried again, is not said or not measured, or holds up the stop.
    #[tokio::test]
    async fn what_a_person_must_decide_stands_still() {
        let run = run([Script::Halts]);
        run.becomes(Activity::Halted).await;
        assert_eq!(run.state.troubles(), ["stands still since 1970-01-01T00:00:00Z until a person acts: decide"]);
        assert_eq!((run.state.get(Metric::Halted), run.seen.lock().unwrap().len()), (1, 1));
        assert_eq!(run.stopped().await, Ok(()));
    }

    /// Red when a group that fails while it stops is started anew, or counts as stopped well.
    #[tokio::test]
    async fn a_failure_at_the_stop_is_told() {
        let run = run([Script::FailsWhenStopped]);
        assert_eq!(run.stopped().await, Err("no schema".to_owned()));
    }

    /// Red when a renewal does not end the attempt, counts as a failure, pauses, begins the next attempt while the last one holds on, or
    /// shows as a trouble; or when the group cannot be stopped any more.
    #[tokio::test]
    async fn a_renewal_starts_a_group_that_works_anew_and_is_no_failure() {
        let run = run([]);
        run.becomes(Activity::Working).await;
        run.renewed().await;
        run.becomes(Activity::Working).await;
        assert_eq!(*run.seen.lock().unwrap(), ["joining its consumer group", ""]);
        assert_eq!((run.state.get(Metric::GroupFailures), run.clock.pauses()), (0, Vec::new()));
        assert_eq!(run.stopped().await, Ok(()));
    }

    /// Red when a group that fails while it drains for a renewal is not started anew, its failure is not counted, or who asked waits
    /// for ever.
    #[tokio::test]
    async fn a_group_that_fails_over_a_renewal_is_started_anew() {
        let run = run([Script::FailsWhenStopped]);
        while run.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (asked, begun) = oneshot::channel();
        run.renewals.send(asked).await.unwrap();
        run.becomes(Activity::Working).await;
        assert!(begun.await.is_err(), "it failed over it");
        assert_eq!((run.state.get(Metric::GroupFailures), run.seen.lock().unwrap().len()), (1, 2));
        assert_eq!(run.stopped().await, Ok(()));
    }
}

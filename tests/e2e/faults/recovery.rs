//! How long it takes from the end of a fault until everything that waited is through.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use headwater_dev::Stack;
use headwater_tests::{ForeignClient, Payments, Process, SharedStack, Space, eventually, full};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    PROGRAM,
    faults::outage::{own_stack, ready},
};

const SOON: Duration = Duration::from_mins(1);
/// Between two payments.
const PACE: Duration = Duration::from_millis(20);
/// Payments that are through to their ends, by end.
const ENDS: [(&str, &str); 3] = [
    ("orders", "select count(*) from orders"),
    ("receipts", "select count(*) from receipts"),
    ("totals", "select coalesce(sum(payments), 0)::int8 from customer_totals"),
];

/// Payments that flow until the scene ends.
struct Flow {
    sent: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Flow {
    async fn start(space: &Space) -> Self {
        let (foreign, payments) = (ForeignClient::new(space), Payments::register(space, "events.payment").await);
        let sent: Arc<AtomicI64> = Arc::default();
        let count = sent.clone();
        #[expect(clippy::disallowed_methods, reason = "aborted with the scene")]
        let task = tokio::spawn(async move {
            for n in 0.. {
                let order = format!("o{n}");
                let value = payments.value_of(&format!("c{}", n % 40), &order, 1, Some("a@example.org"));
                foreign.send("events.payment", Some(&order), Some(&value), &[]);
                count.store(n + 1, Ordering::Relaxed);
                sleep(PACE).await;
            }
        });
        Self { sent, task }
    }

    fn sent(&self) -> i64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// What a fault does to the servers, for how long it lasts.
enum Fault {
    BrokerFrozen(u64),
    BrokerDown(u64),
    DatabaseDown(u64),
}

impl Fault {
    async fn pass(&self, stack: &mut Stack) {
        match self {
            Self::BrokerFrozen(seconds) => {
                let broker = stack.kafka().and_then(|kafka| kafka.pid()).map(u32::cast_signed).and_then(Pid::from_raw);
                let broker = broker.expect("it runs");
                kill_process(broker, Signal::STOP).expect("frozen");
                sleep(Duration::from_secs(*seconds)).await;
                kill_process(broker, Signal::CONT).expect("thawed");
            }
            Self::BrokerDown(seconds) => {
                // Not killed: a broker alone that dies amid a transaction's end, and is fenced when it starts again, drops the
                // markers ("couldn't find leader endpoint"), and what stands behind them is never read (Kafka 4.3).
                stack.kafka().expect("its own").stop().await.expect("stopped");
                sleep(Duration::from_secs(*seconds)).await;
                stack.kafka().expect("its own").start().await.expect("started");
            }
            Self::DatabaseDown(seconds) => {
                stack.postgres().expect("its own").kill().await.expect("killed");
                sleep(Duration::from_secs(*seconds)).await;
                stack.postgres().expect("its own").start().await.expect("started");
            }
        }
    }
}

/// The broker freezes for longer than a session, it is restarted, and the database is away, while payments flow. After each
/// fault every group goes on by itself, and what waited is through; how soon is printed (`--nocapture`), and measured on a
/// quiet machine. Red when a group does not come back after one of them: when a fenced member does not ask again, for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fault_everything_goes_on_by_itself() {
    let mut stack = own_stack("recovery", |_| {}).await;
    let at = SharedStack::at(stack.endpoints().clone(), Path::new(env!("CARGO_TARGET_TMPDIR")).join("recovery"));
    let space = Space::new(&at, "recovery").await;
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let session = [("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "10s")];
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &session);
    let http = process.address().await;
    let flow = Flow::start(&space).await;
    for (_, through) in ENDS {
        eventually("it works", SOON, async || space.count(through).await >= 50).await;
    }
    let faults = [
        ("broker frozen", Fault::BrokerFrozen(14)),
        ("broker restarted", Fault::BrokerDown(5)),
        ("database restarted", Fault::DatabaseDown(if full() { 60 } else { 10 })),
    ];
    for (name, fault) in faults {
        fault.pass(&mut stack).await;
        let (begin, sent) = (Instant::now(), flow.sent());
        for (end, through) in ENDS {
            eventually(&format!("{name}: all {end}"), SOON, async || space.count(through).await >= sent).await;
            println!("{name}: {end} after {:.1} s", begin.elapsed().as_secs_f64());
        }
        eventually(&format!("{name}: every group is well"), SOON, async || ready(&http).await.0 == 200).await;
        println!("{name}: ready after {:.1} s", begin.elapsed().as_secs_f64());
    }
    flow.task.abort();
    assert!(process.stop().await.success(), "{}", process.log());
    space.pool.close().await;
    stack.stop().await.expect("stopped");
}

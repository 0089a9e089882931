//! Processes that have nothing to do, and a broker that goes away and comes back under them.

use std::time::{Duration, Instant};

use headwater_dev::PostgresChoice;
use headwater_tests::{Process, Proxy, SharedStack, Space, eventually, full};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::{
    PROGRAM,
    failure::retry::applied,
    faults::outage::{own_stack, ready},
    shared, space,
};

const SOON: Duration = Duration::from_mins(1);
/// How long what a broker that has come back sets off is waited for.
const AFTER: Duration = Duration::from_secs(8);

/// Asks every process for state that it has or somebody else has, and for its metrics, for so long: all of them live.
async fn live(processes: &mut [(String, Process)], time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for (http, process) in &mut *processes {
            assert!(process.ended().is_none(), "a process ended, {:?}:\n{}", process.ended(), process.log());
            for path in ["v1/state/customer-totals/totals/nobody", "metrics"] {
                // While the broker is away the answer may be that nobody knows.
                let ask = reqwest::Client::new().get(format!("{http}/{path}")).timeout(Duration::from_secs(1));
                _ = ask.send().await;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// What a process asks of its own accord while it idles (where its groups stand, and who is in them) must
/// survive that the broker freezes for longer than a session, or dies: an admin request to a coordinator aborts the process
/// when its connection goes at the wrong moment.
/// Red when lag or the owners of state are asked for with such requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_ends_no_idle_process() {
    let (count, frozen): (usize, &[u64]) = if full() { (6, &[14, 14, 25, 14]) } else { (3, &[9, 9]) };
    let mut stack = own_stack("idle_frozen", |config| {
        config.postgres = PostgresChoice::At(shared().endpoints.database_url.clone());
    })
    .await;
    let at = SharedStack::at(stack.endpoints().clone(), shared().data.clone());
    let space = Space::new(&at, "idle_frozen").await;
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let session = if full() { "10s" } else { "5s" };
    let mut processes = Vec::new();
    for n in 0..count {
        let instance = format!("idle-{n}");
        let env =
            [("HEADWATER__INSTANCE", instance.as_str()), ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", session)];
        let process = Process::start(PROGRAM, &space, &instance, &["run"], &env);
        processes.push((process.address().await, process));
    }
    for (http, _) in &processes {
        eventually("it is ready", Duration::from_mins(1), async || ready(http).await.0 == 200).await;
    }
    for seconds in frozen {
        let broker = stack.kafka().and_then(|kafka| kafka.pid()).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let broker = broker.expect("it runs");
        kill_process(broker, Signal::STOP).expect("frozen");
        live(&mut processes, Duration::from_secs(*seconds)).await;
        kill_process(broker, Signal::CONT).expect("thawed");
        live(&mut processes, AFTER).await;
    }
    stack.kafka().expect("its own").kill().await.expect("killed");
    live(&mut processes, Duration::from_secs(1)).await;
    stack.kafka().expect("its own").start().await.expect("started");
    live(&mut processes, AFTER).await;
    for (http, _) in &processes {
        eventually("it is ready again", Duration::from_mins(1), async || ready(http).await.0 == 200).await;
    }
    drop(processes);
    space.pool.close().await;
    stack.stop().await.expect("stopped");
}

/// A broker that lost touch with its controller says that the cluster has no brokers: librdkafka then forgets them all, the
/// bootstrap servers too, asks nobody any more, and does not always say so. The process comes back by itself, and what it
/// publishes gets through.
/// Red when sources that reach no broker are not told the bootstrap servers again (`BrokerHealth::probe`); in one round of ten when
/// they ask only once librdkafka has said that no broker is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_were_told_of_no_broker_come_back() {
    let space = space("idle_brokerless").await;
    // Its own: others count what is on the common one.
    let (topic, foreign, payments) = applied(&space, 2, "").await;
    let proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
    let env = [("HEADWATER__KAFKA__BOOTSTRAP", proxy.address())];
    let process = Process::start(PROGRAM, &space, "run", &["run"], &env);
    let http = process.address().await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;
    let works = async |orders: i64| {
        let order = format!("brokerless-{orders}");
        let payment = payments.value_of("brokerless", &order, 1, Some("a@example.org"));
        foreign.send(&topic, Some(&order), Some(&payment), &[]);
        foreign.flush();
        // Other tests pay as well.
        let totals = "select coalesce(sum(payments), 0)::int8 from customer_totals where customer_id = 'brokerless'";
        eventually("everything is through", SOON, async || {
            space.count("select count(*) from orders where order_id like 'brokerless-%'").await == orders
                && space.count(totals).await == orders
        })
        .await;
    };
    works(1).await;
    // Which of its clients ask meanwhile, and who is told first, differs from time to time.
    for round in 2..=if full() { 8 } else { 3 } {
        proxy.hide_brokers(true);
        if round == 2 {
            eventually("it reaches nobody", SOON, async || ready(&http).await.0 == 503).await;
        }
        sleep(Duration::from_secs(2)).await;
        proxy.hide_brokers(false);
        works(round).await;
    }
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
}

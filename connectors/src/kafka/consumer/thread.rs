//! The polling thread's own life: it polls until the engine closes the source, nobody listens any more, or it cannot go on;
//! then it commits what is durable, leaves the group and closes the consumer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::SourceEvent};
use rdkafka::{Message as _, consumer::Consumer as _};

use super::{
    fetch::ROUND,
    membership::{
        Membership,
        group_consumer::{GroupConsumer, MemberConsumer},
    },
    outlets::ThreadEnd,
    poll_loop::PollLoop,
};

/// Events that one round serves at most.
const EVENTS: usize = 64;
/// How long the last commit may take when the source closes.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// How long leaving the group may take.
const CLOSING: Duration = Duration::from_secs(5);

/// Polls until the engine closes the source, nobody listens any more, or it cannot go on.
pub(crate) fn run(consumer: Arc<MemberConsumer>, member: &Mutex<PollLoop>, topics: &[String], membership: &Membership) {
    let mailbox = lock(member).equip(&consumer);
    mailbox.opened();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    // One that nobody listens to any more joins nothing.
    if !mailbox.is_abandoned()
        && let Err(error) = consumer.subscribe(&topics)
    {
        lock(member).outlets.fail(format!("cannot subscribe: {error}"));
    }
    let end = loop {
        let mut looping = lock(member);
        if let Some(end) = looping.tick(&consumer) {
            break end;
        }
        let must_wait = looping.outlets.must_wait();
        drop(looping);
        if must_wait {
            mailbox.wait(ROUND);
        } else {
            poll(&consumer, member);
        }
    };
    match &end {
        ThreadEnd::Failed(reason) => lock(member).outlets.report(SourceEvent::Failed(reason.clone())),
        ThreadEnd::Halted(reason) => lock(member).outlets.report(SourceEvent::Halted(reason.clone())),
        ThreadEnd::Closed | ThreadEnd::Abandoned => {}
    }
    membership.end();
    leave(consumer, member, &end);
    if end == ThreadEnd::Closed {
        lock(member).outlets.report(SourceEvent::Closed);
    }
}

/// The member; never held across a `poll`.
fn lock(member: &Mutex<PollLoop>) -> MutexGuard<'_, PollLoop> {
    member.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what there is, up to one batch, and serves librdkafka's callbacks.
fn poll(consumer: &GroupConsumer, member: &Mutex<PollLoop>) {
    let mut wait = ROUND;
    loop {
        serve(consumer, member);
        if lock(member).fetch(consumer, wait) {
            return;
        }
        wait = Duration::ZERO;
    }
}

/// Serves what librdkafka has to say: rebalances, errors, lines for the log. Of many things each round a few.
fn serve(consumer: &GroupConsumer, member: &Mutex<PollLoop>) {
    for _ in 0..EVENTS {
        if !lock(member).has_events() {
            return;
        }
        match consumer.poll(Duration::ZERO) {
            Some(Err(error)) => lock(member).trouble(consumer, &error, &consumer.context().reason()),
            // Where it stands among the others of its partition nobody knows any more.
            Some(Ok(record)) => {
                let place = TopicPartition::new(record.topic(), record.partition());
                let text = format!("a record of {place} came past its queue, which is a defect of this program");
                lock(member).outlets.fail(text);
            }
            None => {}
        }
    }
}

/// Commits what is durable and leaves the group.
fn leave(consumer: Arc<MemberConsumer>, member: &Mutex<PollLoop>, end: &ThreadEnd) {
    lock(member).outlets.leaving = true;
    if *end != ThreadEnd::Abandoned && consumer.client().fatal_error().is_none() {
        let deadline = Instant::now() + LAST_COMMIT;
        lock(member).hurry();
        while !lock(member).commit(&consumer) {
            if Instant::now() > deadline {
                tracing::warn!(
                    group = lock(member).outlets.group,
                    "the last positions were not committed in time: some records will be read again"
                );
                break;
            }
            // Records that still come are nobody's: nothing is begun any more.
            consumer.poll(ROUND);
        }
    }
    // What borrows from the consumer may not outlive it.
    lock(member).end();
    let group = lock(member).outlets.group.clone();
    close(consumer, &group);
}

/// Closes the consumer, which serves the callbacks that give up its partitions. While the brokers are away librdkafka
/// waits for a commit as long as a session lasts: then the rest is left to a thread that the process need not wait for.
fn close(consumer: Arc<MemberConsumer>, group: &str) {
    let (closed, wait) = mpsc::sync_channel(1);
    let drop_it = move || {
        // The last one: the membership, which borrows it for a moment, has ended before.
        drop(consumer);
        // Nobody may wait any more.
        let _ = closed.send(());
    };
    let spawned = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(drop_it);
    // Without a thread the closure, and the consumer with it, is dropped right here.
    if spawned.is_ok() && wait.recv_timeout(CLOSING).is_err() {
        tracing::warn!(group, "the kafka consumer does not close: its partitions move after the session time-out");
    }
}

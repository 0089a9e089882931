//! Records that fail and are tried again: how often, when, and in what order.

use crate::{
    failure::DeadLetterKind,
    pipeline::{policy::Policy, settings::Order},
    worker::tests::*,
};

/// Red when a delay is left out or begins elsewhere, the source position waits, an attempt is not counted, or the
/// event is another one after a hop.
#[test]
fn a_record_that_fails_twice_succeeds_at_its_third_attempt() {
    let failing = Failing::first(2);
    let mut driver = Driver::new(Pipeline::default().on("play", with(failing.clone(), fail)));
    driver.send(ping("a", 1));
    assert_eq!(driver.committed("play", "events.net", place("a")), Some(1), "the source goes on at once");
    for (delay, attempts) in [(SECOND, &[0, 1][..]), (10 * SECOND, &[0, 1, 2])] {
        driver.advance(delay - MS);
        assert_eq!(failing.attempts(), attempts[..attempts.len() - 1]);
        driver.advance(MS);
        assert_eq!(failing.attempts(), attempts);
    }
    driver.advance(3600 * SECOND);
    let (seen, pongs) = (failing.seen(), driver.emitted::<Pong>());
    for later in &seen {
        assert_eq!(Meta { attempt: 0, ..later.clone() }, seen[0]);
    }
    assert_eq!((pongs.len(), pongs[0].meta.causation_id.as_deref()), (1, Some(seen[0].id.as_str())));
    assert_eq!(pongs[0].meta.id, crate::wire::ids::emitted_id(&seen[0].source, &seen[0].id, "play", 0));
    for topic in ["play.retry.1s", "play.retry.10s"] {
        assert_eq!(driver.committed("play", topic, place("a")), Some(1));
    }
    let state = driver.metrics("play");
    assert_eq!((state.get(Metric::Failures), state.get(Metric::Retries)), (2, 2));
    assert!(driver.letters("play").is_empty() && state.troubles().is_empty());
}

/// Red when a record has an attempt more or less than the ladder says, wherever it waits for them.
#[test]
fn a_record_is_a_letter_after_one_attempt_more_than_the_ladder_has_delays() {
    for order in [Order::None, Order::Partition, Order::Key] {
        for delays in [&[][..], &[1], &[1, 10, 60, 600]] {
            let failing = Failing::first(99);
            let policy = Policy::new().order(order).ladder(ladder(delays));
            let pipeline = Pipeline::default().on("play", with(failing.clone(), fail)).policy("play", policy);
            let mut driver = Driver::new(pipeline);
            driver.advance(5 * SECOND).send(ping("a", 1)).advance(Duration::from_secs(delays.iter().sum::<u64>()));
            let wanted: Vec<u32> = (0..).take(delays.len() + 1).collect();
            assert_eq!(failing.attempts(), wanted, "{order:?}");
            let letters = driver.letters("play");
            let [letter] = &letters[..] else { panic!("{order:?}: {letters:?}") };
            assert_eq!((letter.kind.as_str(), letter.attempts as usize), ("exhausted", delays.len() + 1));
            assert_eq!(letter.message, format!("failure {}", delays.len() + 1));
            assert_eq!(letter.first_failed_ms, BEGIN_MS + 5_000);
            assert_eq!(
                letter.dead_lettered_ms,
                BEGIN_MS + 5_000 + 1_000 * i64::try_from(delays.iter().sum::<u64>()).unwrap()
            );
            let retries = if order == Order::Partition { 0 } else { delays.len() as u64 };
            let state = driver.metrics("play");
            assert_eq!((state.get(Metric::Retries), state.letters(DeadLetterKind::Exhausted)), (retries, 1));
            assert_eq!(driver.advance(3600 * SECOND).letters("play").len(), 1);
        }
    }
}

/// Red when any attempt past its time makes the kind, or the last one does not.
#[test]
fn only_a_last_attempt_past_its_time_makes_a_timeout() {
    async fn hang(hangs: Arc<Mutex<VecDeque<bool>>>, _: Ping) -> Result<()> {
        let hang = hangs.lock().unwrap().pop_front();
        if hang == Some(true) { std::future::pending().await } else { Err(Failure::retry("no")) }
    }
    for (hangs, kind) in [([true, false], DeadLetterKind::Exhausted), ([false, true], DeadLetterKind::Timeout)] {
        let policy = Policy::new().ladder(ladder(&[1])).time_limit(3 * SECOND);
        let hangs = Arc::new(Mutex::new(VecDeque::from(hangs)));
        let mut driver = Driver::new(Pipeline::default().on("play", with(hangs, hang)).policy("play", policy));
        driver.send(ping("a", 1)).advance(4 * SECOND - MS);
        assert_eq!(driver.letters("play").len(), 0);
        let letters = driver.advance(MS).letters("play");
        assert_eq!((letters.len(), letters[0].kind.as_str(), letters[0].attempts), (1, kind.as_str(), 2));
        assert_eq!(driver.metrics("play").letters(kind), 1);
    }
}

/// Red when a failed record's followers run before it under `partition` or `key` or wait for it under `none`, when
/// another key waits with them but under `partition`, one is lost, or the order has no effect.
#[test]
fn the_order_says_what_overtakes_a_failed_record() {
    let in_order = [1, 2, 3, 4, 5];
    for (order, wanted) in [(Order::Partition, in_order), (Order::Key, in_order), (Order::None, [1, 3, 4, 5, 2])] {
        async fn second(failures: Arc<Mutex<u32>>, ping: Ping) -> Result<Pong> {
            let mut left = failures.lock().unwrap();
            if (ping.id.as_str(), ping.seq) == ("k", 2) && *left > 0 {
                *left -= 1;
                return Err(Failure::retry("not yet"));
            }
            Ok(Pong { id: ping.id, seq: ping.seq })
        }
        let processor = with(Arc::new(Mutex::new(2)), second);
        let policy = Policy::new().order(order);
        let mut driver = Driver::new(Pipeline::default().on("play", processor).policy("play", policy));
        let beside = key_beside("k");
        (1..=5).for_each(|seq| _ = driver.send(ping("k", seq)).send(ping(&beside, seq)));
        let others: &[i64] = if order == Order::Partition { &[1] } else { &in_order };
        assert_eq!(seqs(&driver.emitted(), &beside), others, "{order:?}");
        driver.advance(11 * SECOND);
        assert_eq!(seqs(&driver.emitted(), "k"), wanted, "{order:?}");
        assert_eq!(seqs(&driver.emitted(), &beside), in_order, "{order:?}");
        assert_eq!(driver.committed("play", "events.net", place("k")), Some(10));
    }
}

/// Under `partition` a failing record is tried again in place, what its partition holds after it.
/// Red when the pause is not kept, when another partition waits too, or when the source is not paused and the partition
/// takes what it reads on.
#[test]
fn a_failing_record_holds_its_partition_and_no_other() {
    let script = Script::of([Failure::retry("once"), Failure::retry("twice")]);
    let pipeline = Pipeline::default().on("play", with(script.clone(), play));
    let mut driver = Driver::new(pipeline.policy("play", Policy::new().order(Order::Partition)));
    let beside = key_beside("bad");
    for seq in 1..=3 {
        driver.send(ping("bad", seq)).send(ping("good", seq)).send(ping(&beside, seq));
    }
    assert_eq!(seqs(&driver.emitted(), "good"), [1, 2, 3]);
    assert_eq!(driver.emitted::<Pong>().len(), 3);
    assert_eq!(driver.committed("play", "events.net", place("bad")), None);
    assert_eq!(driver.metrics("play").troubles(), Vec::<String>::new(), "a record's failure is not the group's");
    for (delay, tries) in [(SECOND, 2), (10 * SECOND, 5)] {
        let tried = || script.seen().iter().filter(|(id, _)| id == "bad").count();
        let before = tried();
        driver.advance(delay - MS);
        assert_eq!(tried(), before, "the pause is {delay:?}");
        driver.advance(MS);
        assert_eq!(tried(), tries);
    }
    assert_eq!(seqs(&driver.emitted(), "bad"), [1, 2, 3]);
    assert_eq!(seqs(&driver.emitted(), &beside), [1, 2, 3]);
    assert_eq!(driver.metrics("play").get(Metric::Failures), 2);
    assert_eq!(driver.metrics("play").troubles(), Vec::<String>::new());
}

/// Red when a group reads another one's retry topics, or shares its counters.
#[test]
fn a_group_that_always_fails_affects_no_other() {
    let failing = Failing::first(usize::MAX);
    let pipeline =
        Pipeline::default().on("works", with(Script::default(), play)).on("fails", with(failing.clone(), fail));
    let mut driver = Driver::new(pipeline);
    (0..100).for_each(|seq| _ = driver.send(ping(&format!("k{}", seq % 9), seq)));
    assert_eq!(driver.emitted::<Pong>().len(), 100);
    driver.advance(3600 * SECOND);
    let (works, fails) = (driver.metrics("works"), driver.metrics("fails"));
    assert_eq!((driver.emitted::<Pong>().len(), driver.letters("fails").len()), (100, 100));
    assert_eq!((works.get(Metric::Records), works.get(Metric::Failures)), (100, 0));
    assert_eq!((driver.letters("works").len(), fails.letters(DeadLetterKind::Exhausted)), (0, 100));
    assert_eq!(failing.seen().len(), 500);
}

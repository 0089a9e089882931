//! Retries that are due together, as after a pause, an outage or a redrive: what they say of a dependency is not believed.

use std::collections::BTreeMap;

use crate::{
    BreakerWindow,
    failure::{
        breaker::{BreakerSettings, CircuitState},
        dead_letter::DeadLetter,
    },
    pipeline::policy::Policy,
    worker::tests::*,
};

/// A dependency that is down, or well but for the first calls of some records, or all of others.
#[derive(Clone, Default)]
struct Shop(Arc<Mutex<Moods>>);

#[derive(Default)]
struct Moods {
    down: bool,
    calls: BTreeMap<(String, i64), u32>,
}

async fn call(shop: Shop, ping: Ping) -> Result<Pong> {
    let mut moods = shop.0.lock().unwrap();
    let down = moods.down;
    let calls = moods.calls.entry((ping.id.clone(), ping.seq)).or_default();
    *calls += 1;
    let fails = match &*ping.id {
        "flaky" => *calls <= 2,
        "doomed" => true,
        _ => false,
    };
    if down || fails { Err(Failure::retry("503")) } else { Ok(Pong { id: ping.id, seq: ping.seq }) }
}

fn shopping(shop: &Shop) -> Driver {
    let window = BreakerSettings { window: BreakerWindow::Calls(20), failure_rate: 0.8, ..BreakerSettings::default() };
    let policy = Policy::new().ladder(ladder(&[1, 2, 4, 8])).breaker("shop", window);
    Driver::new(Pipeline::default().on("play", with(shop.clone(), call)).policy("play", policy))
}

fn is_closed(driver: &Driver) -> bool {
    driver.metrics("play").circuits()["shop"] == CircuitState::Closed.as_u64()
}

/// A second of forty records, of which every twentieth fails at first; how often the circuit was seen not closed.
fn a_second(driver: &mut Driver, seq: &mut i64) -> usize {
    let mut bad = 0;
    for _ in 0..40 {
        driver.send(ping(if *seq % 20 == 0 { "flaky" } else { "good" }, *seq));
        driver.advance(25 * MS);
        *seq += 1;
        bad += usize::from(!is_closed(driver));
    }
    bad
}

/// An outage of fifteen seconds, while a part of the records fails at first: what piled up behind it fails together when it
/// is over, and the circuit stays closed, with load and without; an outage opens it at once, before and after. Red when retries
/// are weighed with first calls.
#[test]
fn retries_that_have_piled_up_behind_an_outage_do_not_open_the_circuit_again() {
    let shop = Shop::default();
    let mut driver = shopping(&shop);
    let mut seq = 0;
    (0..20).for_each(|_| _ = a_second(&mut driver, &mut seq));
    for _ in 0..2 {
        assert!(is_closed(&driver));
        shop.0.lock().unwrap().down = true;
        assert!(a_second(&mut driver, &mut seq) > 0, "an outage is seen at once");
        (0..14).for_each(|_| _ = a_second(&mut driver, &mut seq));
        shop.0.lock().unwrap().down = false;
        // Open for five seconds at most, and a probe is there at once.
        (0..6).for_each(|_| _ = a_second(&mut driver, &mut seq));
        let bad = (0..30).map(|_| a_second(&mut driver, &mut seq)).sum::<usize>();
        assert_eq!(bad, 0, "closed for good, whatever fails again");
    }
    driver.advance(60 * SECOND);
    assert_eq!((driver.emitted::<Pong>().len(), driver.letters("play").len()), (usize::try_from(seq).unwrap(), 0));
}

/// A hundred letters that nobody can process are sent back while others are processed. Red when what was sent back is
/// weighed as a first call.
#[test]
fn letters_that_are_sent_back_in_vain_do_not_open_the_circuit() {
    let shop = Shop::default();
    let mut driver = shopping(&shop);
    let mut seq = 0;
    for _ in 0..100 {
        driver.send(ping("doomed", seq));
        a_second(&mut driver, &mut seq);
    }
    (0..20).for_each(|_| _ = a_second(&mut driver, &mut seq));
    let letters = driver.letters("play");
    assert_eq!((letters.len(), is_closed(&driver)), (100, true));
    let mut bad = 0;
    for chunk in letters.chunks(20) {
        chunk.iter().map(DeadLetter::redriven).for_each(|record| _ = driver.send_record(record));
        bad += a_second(&mut driver, &mut seq);
    }
    (0..20).for_each(|_| bad += a_second(&mut driver, &mut seq));
    assert_eq!((bad, driver.letters("play").len()), (0, 200));
}

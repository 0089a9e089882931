use serde::{Deserialize, Serialize};

use super::KeyedBy;
use crate::{
    driver::Driver,
    event::{Event, payload::Payload},
    failure::{DeadLetterKind, Failure, OrRetry, Result, dead_letter::DeadLetter},
    pipeline::{Pipeline, steps::Group},
    processor::{state::State, stateless::with},
    telemetry::metrics::Metric,
    wire::{
        ids::foreign_id,
        record::{Headers, Outgoing},
    },
};

/// A payment of a customer, keyed by its order.
#[derive(Clone, Serialize, Deserialize)]
struct Paid {
    order: String,
    customer: String,
    cents: i64,
}

impl Payload for Paid {
    const TYPE: &'static str = "shop.paid";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Paid","namespace":"shop","fields":[
        {"name":"order","type":"string"},{"name":"customer","type":"string"},{"name":"cents","type":"long"}]}"#;

    fn key(&self) -> &str {
        &self.order
    }
}

/// A customer's payments so far.
#[derive(Debug, Serialize, Deserialize)]
struct Spent {
    customer: String,
    cents: i64,
}

impl Payload for Spent {
    const TYPE: &'static str = "shop.spent";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Spent","namespace":"shop","fields":[
        {"name":"customer","type":"string"},{"name":"cents","type":"long"}]}"#;

    fn key(&self) -> &str {
        &self.customer
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spend {
    cents: i64,
    payments: u32,
}

impl State for Spend {
    const NAME: &'static str = "spend";
}

fn spend(spend: &mut Spend, paid: Paid) -> Result<Option<Spent>> {
    spend.payments += 1;
    spend.cents += paid.cents;
    if paid.cents < 0 {
        return Err(Failure::reject("no money"));
    }
    if paid.cents == 13 {
        "thirteen".parse::<i64>()?;
    }
    Ok((paid.cents > 0).then_some(Spent { customer: paid.customer, cents: spend.cents }))
}

fn paid(order: &str, customer: &str, cents: i64) -> Paid {
    Paid { order: order.to_owned(), customer: customer.to_owned(), cents }
}

fn by_customer() -> Driver {
    Driver::new(Pipeline::default().on("spend", spend.keyed_by(|paid: &Paid| paid.customer.clone())))
}

/// Red when the state is kept by the record's own key, is lost between two records, or is not saved.
#[test]
fn state_is_kept_by_the_key_that_the_function_says() {
    let mut driver = by_customer();
    driver.send(paid("o1", "ann", 300)).send(paid("o2", "bob", 5)).send(paid("o3", "ann", 400));
    assert_eq!(driver.state_of::<Spend>("spend", "ann"), Some(Spend { cents: 700, payments: 2 }));
    assert_eq!(driver.state_of::<Spend>("spend", "bob"), Some(Spend { cents: 5, payments: 1 }));
    assert_eq!(driver.state_of::<Spend>("spend", "o1"), None);
    let mut sums: Vec<_> =
        driver.emitted::<Spent>().iter().map(|spent| (spent.customer.clone(), spent.cents)).collect();
    sums.sort();
    assert_eq!(sums, [("ann".to_owned(), 300), ("ann".to_owned(), 700), ("bob".to_owned(), 5)]);
}

/// A record that is repartitioned is the same event: id, source, time and subject are those of its first place.
/// Red when `headers::moved` leaves one of them to the place where the record stands then.
#[test]
fn a_record_that_is_repartitioned_stays_the_same_event() {
    fn tell(_: &mut Spend, paid: Event<Paid>) -> Result<Spent> {
        let meta = &paid.meta;
        let text = format!("{} {} {} {:?}", meta.id, meta.source, meta.time.millis(), meta.subject);
        Ok(Spent { customer: text, cents: 0 })
    }
    let mut driver = Driver::new(Pipeline::default().on("tell", tell.keyed_by(|paid| paid.customer.clone())));
    driver.advance(std::time::Duration::from_secs(5)).send(paid("o1", "ann", 1));
    let first = driver.records("events.shop").into_iter().find(|r| r.key.as_deref() == Some(b"o1")).unwrap();
    assert_eq!(driver.records("tell.tell.repartition")[0].key.as_deref(), Some(&b"ann"[..]));
    let id = foreign_id(&first.topic, first.partition, first.offset, first.timestamp_ms);
    let told = driver.emitted::<Spent>().remove(0);
    assert_eq!(told.customer, format!("{id} kafka://events.shop {} Some(\"o1\")", first.timestamp_ms));
    assert_eq!((told.meta.causation_id.as_deref(), told.meta.source.as_str()), (Some(&*id), "headwater/tell"));
    // What a producer says of itself goes on as it is, but for delivery headers.
    let said = [("ce_id", "mine"), ("ce_source", "shop"), ("x", "1"), ("hw_attempt", "9")];
    let headers: Headers = said.iter().map(|(name, value)| (*name, Some(value.as_bytes()))).collect();
    driver.send_with(paid("o2", "bob", 1), headers);
    let moved = driver.records("tell.tell.repartition").into_iter().find(|r| r.key.as_deref() == Some(b"bob")).unwrap();
    assert_eq!(moved.headers.get("ce_id"), Some(Some(&b"mine"[..])));
    assert_eq!(moved.headers.get("x"), Some(Some(&b"1"[..])));
    assert_eq!(moved.headers.get("hw_attempt"), None);
}

/// Red when a failed record leaves what it did to the state behind, when `?` of a pure function is tried again, or when a
/// letter has not its place on the step's own topic as its origin.
#[test]
fn a_failure_changes_no_state_and_is_final() {
    let mut driver = by_customer();
    driver
        .send(paid("o1", "ann", 300))
        .send(paid("o2", "ann", -1))
        .send(paid("o3", "ann", 13))
        .send(paid("o4", "ann", 1));
    assert_eq!(driver.state_of::<Spend>("spend", "ann"), Some(Spend { cents: 301, payments: 2 }));
    let letters = driver.letters("spend");
    let kinds: Vec<_> = letters.iter().map(|letter| (letter.kind.clone(), letter.attempts)).collect();
    assert_eq!(
        kinds,
        [(DeadLetterKind::Rejected.as_str().to_owned(), 1), (DeadLetterKind::Rejected.as_str().to_owned(), 1)]
    );
    assert_eq!(&*letters[0].origin.partition.topic, "spend.spend.repartition");
}

/// Red when the state of a redriven letter is another partition's, or no marker says that it succeeded.
#[test]
fn a_letter_that_is_sent_back_changes_the_state_of_its_key() {
    fn mend(spend: &mut Spend, paid: Event<Paid>) -> Result<()> {
        if paid.meta.origin.partition.topic.ends_with("repartition") && spend.payments == 0 && paid.cents == 0 {
            return Err(Failure::reject("not yet"));
        }
        spend.payments += 1;
        Ok(())
    }
    let mut driver = Driver::new(Pipeline::default().on("mend", mend.keyed_by(|paid| paid.customer.clone())));
    driver.send(paid("o1", "ann", 0)).send(paid("o2", "ann", 1));
    let letter = driver.letters("mend").remove(0);
    driver.send_record(letter.redriven());
    assert_eq!(driver.state_of::<Spend>("mend", "ann"), Some(Spend { cents: 0, payments: 2 }));
    assert_eq!(driver.records("mend.dlq").iter().filter(|record| record.value.is_none()).count(), 1, "a marker");
}

/// A letter of a record that failed before it was repartitioned, such as one whose schema nobody knew.
/// Red when it is settled by the keying, before its step has run; when the step's failure is another letter; or when its
/// record is repartitioned for ever.
#[test]
fn a_letter_that_is_repartitioned_is_settled_once_its_step_has_run() {
    fn mend(spend: &mut Spend, paid: Paid) -> Result<()> {
        if spend.payments == 0 && paid.cents == 0 {
            return Err(Failure::reject("not yet"));
        }
        spend.payments += 1;
        Ok(())
    }
    let mut driver = Driver::new(Pipeline::default().on("mend", mend.keyed_by(|paid: &Paid| paid.customer.clone())));
    let mut letter = driver.send(paid("o1", "ann", 0)).letters("mend").remove(0);
    letter.origin = driver.records("events.shop")[0].origin();
    let of =
        |letters: Vec<DeadLetter>, redrives| letters.into_iter().find(|letter| letter.redrives == redrives).unwrap();
    let second = of(driver.send_record(letter.redriven()).letters("mend"), 1);
    assert_eq!((second.resolved, &second.origin, driver.letters("mend").len()), (false, &letter.origin, 2));
    let marker = of(driver.send(paid("o2", "ann", 1)).send_record(second.redriven()).letters("mend"), 2);
    assert_eq!((marker.resolved, &marker.origin, driver.letters("mend").len()), (true, &letter.origin, 3));
    assert_eq!(driver.state_of::<Spend>("mend", "ann"), Some(Spend { cents: 0, payments: 2 }));
    assert_eq!(driver.records("mend.mend.repartition").len(), 4);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cart {
    orders: Vec<String>,
}

impl State for Cart {
    const NAME: &'static str = "cart";
}

/// Red when `None` is saved, or two steps with one `State::NAME` do not see each other's.
#[test]
fn steps_of_a_group_share_a_store_and_forget() {
    fn open(cart: &mut Option<Cart>, paid: Paid) -> Result<()> {
        cart.get_or_insert(Cart { orders: Vec::new() }).orders.push(paid.order);
        Ok(())
    }
    fn close(cart: &mut Option<Cart>, spent: Spent) -> Result<()> {
        let orders = cart.take().map_or(0, |cart| cart.orders.len());
        (i64::try_from(orders) == Ok(spent.cents)).then_some(()).or_retry("not all orders are there")
    }
    let group =
        Group::new().on("open", open.keyed_by(|paid: &Paid| paid.customer.clone())).on("close", close.co_partitioned());
    let mut driver = Driver::new(Pipeline::default().group("cart", group));
    driver.send(paid("o1", "ann", 1)).send(paid("o2", "ann", 1)).send(paid("o3", "bob", 1));
    assert_eq!(driver.state_of::<Cart>("cart", "ann").map(|cart| cart.orders.len()), Some(2));
    driver.send(Spent { customer: "ann".to_owned(), cents: 2 });
    assert_eq!(driver.state_of::<Cart>("cart", "ann"), None);
    assert_eq!(driver.state_of::<Cart>("cart", "bob").map(|cart| cart.orders.len()), Some(1));
}

/// Red when the settings of a step do not reach it.
#[test]
fn a_step_has_settings() {
    fn limited(limit: &i64, spend: &mut Spend, paid: Paid) -> Result<()> {
        spend.cents += paid.cents.min(*limit);
        Ok(())
    }
    let step = with(10_i64, limited).keyed_by(|paid: &Paid| paid.customer.clone());
    let mut driver = Driver::new(Pipeline::default().on("limited", step));
    driver.send(paid("o1", "ann", 300)).send(paid("o2", "ann", 3));
    assert_eq!(driver.state_of::<Spend>("limited", "ann").map(|spend| spend.cents), Some(13));
}

/// Red when a record without a key, or with one that is no text, is kept under some other.
#[test]
fn a_key_that_cannot_be_read_is_a_broken_contract() {
    let mut driver = Driver::new(Pipeline::default().on("spend", spend));
    driver.send(paid("o1", "ann", 1));
    let record = driver.records("events.shop").into_iter().find(|r| r.key.as_deref() == Some(b"o1")).unwrap();
    for key in [None, Some(vec![0xff])] {
        let (topic, value) = (record.topic.clone(), record.value.clone());
        driver.send_record(Outgoing { topic, partition: None, key, value, headers: Headers::default() });
    }
    let kinds: Vec<_> = driver.letters("spend").iter().map(|letter| letter.kind.clone()).collect();
    assert_eq!(kinds, ["contract", "contract"]);
    assert_eq!(driver.state_of::<Spend>("spend", "o1").map(|spend| spend.payments), Some(1));
}

/// Red when a state that the program cannot read makes dead letters, or is written over.
#[test]
fn a_state_of_a_newer_program_waits_for_it() {
    #[derive(Default, Serialize, Deserialize)]
    struct Newer {
        cents: i64,
    }
    impl State for Newer {
        const NAME: &'static str = "spend";
        const VERSION: u32 = 2;
    }
    fn newer(newer: &mut Newer, spent: Spent) -> Result<()> {
        newer.cents = spent.cents;
        Ok(())
    }
    let group =
        Group::new().on("newer", newer.co_partitioned()).on("older", spend.keyed_by(|p: &Paid| p.customer.clone()));
    let mut driver = Driver::new(Pipeline::default().group("both", group).allow_loop("both"));
    driver.send(Spent { customer: "ann".to_owned(), cents: 5 }).send(paid("o1", "ann", 1));
    driver.advance(std::time::Duration::from_secs(10));
    assert_eq!(driver.letters("both").len(), 0);
    assert_eq!(driver.state_of::<Newer>("both", "ann").map(|newer| newer.cents), Some(5));
    let why = driver.metrics("both").troubles().join("\n");
    assert!(why.contains("newer program"), "{why}");
}

/// Red when a state that is as it was is written again: each would be a record of the changelog.
#[test]
fn what_does_not_change_is_not_written() {
    fn look(_: &mut Spend, _: Paid) -> Result<()> {
        Ok(())
    }
    let mut driver = Driver::new(Pipeline::default().on("look", look.keyed_by(|paid| paid.customer.clone())));
    driver.send(paid("o1", "ann", 1)).send(paid("o2", "ann", 1));
    assert_eq!(driver.metrics("look").get(Metric::Changes), 1, "the default, once");
}

/// Red when one of these mistakes is accepted, or hides the others.
#[test]
fn mistakes_of_a_group_are_named() {
    async fn stateless(_: Paid) -> Result<()> {
        Ok(())
    }
    let group = Group::new().on("spend", spend).on("again", spend).on("stateless", stateless).on("Bad", spend);
    let pipeline = Pipeline::default().group("none", Group::new()).group("all", group).on("one", spend);
    let pipeline = pipeline.group("two", Group::new().on("one", spend));
    let problems = pipeline.problems().join("\n");
    for part in
        ["no steps", "two of its steps take `shop.paid`", "keeps no state", "cannot have that name", "named `one`"]
    {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
}

/// Red when a record that is to be tried again lets a later one of its key overtake it, or goes to a retry topic.
#[test]
fn a_retry_holds_the_partition() {
    #[derive(Clone, Default)]
    struct Fails(std::sync::Arc<std::sync::atomic::AtomicU32>);
    fn flaky(fails: &Fails, spend: &mut Spend, paid: Paid) -> Result<Spent> {
        if paid.cents == 7 && fails.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
            return Err(Failure::retry("not yet"));
        }
        spend.cents = spend.cents * 10 + paid.cents;
        Ok(Spent { customer: paid.customer, cents: spend.cents })
    }
    let step = with(Fails::default(), flaky).keyed_by(|paid: &Paid| paid.customer.clone());
    let mut driver = Driver::new(Pipeline::default().on("flaky", step));
    driver.send(paid("o1", "ann", 1)).send(paid("o2", "ann", 7)).send(paid("o3", "ann", 3));
    assert_eq!(driver.state_of::<Spend>("flaky", "ann").map(|spend| spend.cents), Some(1));
    driver.advance(std::time::Duration::from_secs(20));
    assert_eq!(driver.state_of::<Spend>("flaky", "ann").map(|spend| spend.cents), Some(173));
    assert_eq!(driver.letters("flaky").len(), 0);
}

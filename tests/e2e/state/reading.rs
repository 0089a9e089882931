//! Keyed state read from outside: over HTTP from any instance, and by command.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use headwater_tests::{Process, eventually, patience};
use serde_json::{Value as Json, json};

use crate::{
    PROGRAM,
    state::{SOON, STATEFUL, Shop},
};

/// A character of every kind that a path or a query writes otherwise.
const ODD: &str = "ä/b c?d&e#f%g+h";

fn start(shop: &Shop, instance: &str, addr: &str) -> Process {
    let args: Vec<&str> = ["run"].into_iter().chain(STATEFUL.into_iter().flat_map(|g| ["--group", g])).collect();
    let env = [("HEADWATER__INSTANCE", instance), ("HEADWATER__HTTP__ADDR", addr)];
    Process::start(PROGRAM, &shop.space, instance, &args, &env)
}

/// Status and body of an answer.
async fn ask(at: &str, path: &str) -> (u16, Json) {
    let answer = reqwest::get(format!("{at}/v1/state{path}")).await.expect("it answers");
    (answer.status().as_u16(), answer.json().await.expect("json"))
}

/// Text as a part of an address.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
        .collect()
}

/// Waits until every customer's total is listed by this instance, and this many instances have some; gives the list.
/// Until then each answer is a refusal with its reason, or a list.
pub(crate) async fn all_of(shop: &Shop, at: &str, instances: usize) -> Vec<Json> {
    let (began, path) = (Instant::now(), format!("/customer-totals/totals?limit=1000&prefix={}-", shop.space.name));
    loop {
        let (status, body) = ask(at, &path).await;
        let entries = body["entries"].as_array().cloned().unwrap_or_default();
        let owners: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["owner"].as_str()).collect();
        if entries.len() == shop.paid.len() && owners.len() == instances {
            return entries;
        }
        assert!(status == 200 || (status == 503 && body["error"].is_string()), "{status} {body}");
        assert!(began.elapsed() < patience(SOON), "not all totals are listed: {status} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The numbers of the partitions of a store that an instance says it has.
async fn partitions(at: &str, group: &str, store: &str) -> BTreeSet<i64> {
    let (status, body) = ask(at, "").await;
    assert_eq!(status, 200, "{body}");
    let groups = body["groups"].as_array().expect("groups");
    let group = groups.iter().find(|of| of["group"] == *group).expect("the group");
    let store = group["stores"].as_array().expect("stores").iter().find(|of| of["store"] == *store).expect("the store");
    store["partitions"].as_array().expect("partitions").iter().filter_map(|of| of["partition"].as_i64()).collect()
}

/// Two instances share the state, and both answer for every key alike, with the owner that has it; what there is
/// not is said, lists are sorted and bounded, and the command prints the same.
/// Red when an instance answers only for what it has itself, a key's path is not decoded, the limit counts for each owner
/// alone, or a forwarded question says the wrong owner.
#[tokio::test(flavor = "multi_thread")]
async fn every_instance_answers_for_every_key() {
    let mut shop = Shop::new("state_reading").await;
    let odd = format!("{}-{ODD}", shop.space.name);
    // One is found by the address that it is bound to, the other by where it connects from.
    let (mut one, mut two) = (start(&shop, "one", "127.0.0.1:0"), start(&shop, "two", "0.0.0.0:0"));
    shop.pay_one(&odd, 250);
    shop.pay(400, 30);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let (first, second) = (one.address().await, two.address().await.replace("0.0.0.0", "127.0.0.1"));
    let listed = all_of(&shop, &first, 2).await;
    assert_eq!(listed, all_of(&shop, &second, 2).await);
    let keys: Vec<&str> = listed.iter().filter_map(|entry| entry["key"].as_str()).collect();
    assert_eq!(keys, shop.paid.keys().collect::<Vec<_>>(), "in their order");

    let group = shop.group("customer-totals");
    let has = [partitions(&first, &group, "totals").await, partitions(&second, &group, "totals").await];
    assert!(has[0].is_disjoint(&has[1]) && has[0].union(&has[1]).count() == 6, "{has:?}");
    for (entry, (customer, (payments, cents))) in listed.iter().zip(&shop.paid) {
        assert_eq!((&entry["key"], &entry["version"]), (&json!(customer), &json!(1)));
        assert_eq!(entry["value"], json!({"payments": payments, "cents": cents}));
        let owner = if entry["owner"] == "one" { 0 } else { 1 };
        assert!(has[owner].contains(&entry["partition"].as_i64().expect("a number")), "{entry} {has:?}");
        let mut wanted = entry.clone();
        (wanted["group"], wanted["store"]) = (json!(group), json!("totals"));
        for at in [&first, &second] {
            let path = format!("/{group}/totals/{}", encoded(customer));
            assert_eq!(ask(at, &path).await, (200, wanted.clone()), "{at}");
        }
    }
    for at in [&first, &second] {
        refuses(at, &shop).await;
    }
    prints(&shop, &group, &listed).await;
    for process in [&mut one, &mut two] {
        assert!(process.stop().await.success());
    }
}

/// What there is not, and what is too much.
async fn refuses(at: &str, shop: &Shop) {
    let name = &shop.space.name;
    for (path, wanted) in [
        (format!("/customer-totals/totals/{name}-nobody"), "has no state of key"),
        ("/customer-totals/total/x".to_owned(), "did you mean `totals`?"),
        ("/nothing/totals/x".to_owned(), "flag-big-spender"),
        ("/nothing/totals".to_owned(), "there is no group `nothing`"),
    ] {
        let (status, body) = ask(at, &path).await;
        let why = body["error"].as_str().unwrap_or_default();
        assert!(status == 404 && why.contains(wanted), "{path}: {status} {body}");
    }
    let first: Vec<String> = shop.paid.keys().take(3).cloned().collect();
    let listed = async || {
        let (status, body) = ask(at, &format!("/flag-big-spender/spend?limit=3&prefix={name}-")).await;
        let entries = body["entries"].as_array().expect("entries");
        let keys: Vec<String> = entries.iter().filter_map(|e| e["key"].as_str().map(str::to_owned)).collect();
        (status, keys) == (200, first.clone())
    };
    // Only the other group is known to be through.
    eventually("the first keys are listed", SOON, listed).await;
    for wrong in ["limit=0", "limit=1001", "limit=x", "lmit=3"] {
        assert_eq!(ask(at, &format!("/flag-big-spender/spend?{wrong}")).await.0, 400, "{wrong}");
    }
}

/// The command prints what the instances answer.
async fn prints(shop: &Shop, group: &str, listed: &[Json]) {
    let prefix = format!("{}-", shop.space.name);
    let run = async |args: &[&str]| Process::run(PROGRAM, &shop.space, args, &[], "").await;
    let entry = listed.last().expect("an entry");
    let key = entry["key"].as_str().expect("a key");
    let mut whole = entry.clone();
    (whole["group"], whole["store"]) = (json!(group), json!("totals"));
    let (code, out, err) = run(&["state", "get", "customer-totals", "totals", key, "--json"]).await;
    assert_eq!((code, serde_json::from_str(&out).ok()), (0, Some(whole)), "{err}");
    let (code, out, _) = run(&["state", "list", group, "totals", "--prefix", &prefix, "--json"]).await;
    let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    let keys = |entries: &[Json]| entries.iter().map(|e| (e["key"].clone(), e["value"].clone())).collect::<Vec<_>>();
    assert_eq!((code, keys(&lines)), (0, keys(listed)));
    let (code, out, err) = run(&["state", "list", group, "totals", "--prefix", &prefix, "--limit", "2"]).await;
    assert!(code == 0 && out.starts_with("KEY ") && out.lines().count() == 3, "{out}{err}");
    assert!(err.contains("there may be more than 2"), "{err}");
    let (code, out, err) = run(&["state", "get", "customer-totals", "totals", "nobody"]).await;
    assert_eq!((code, out.as_str(), err.contains("has no state of key `nobody`")), (1, "", true), "{err}");
    let (code, _, err) = run(&["state", "get", "customer-total", "totals", "x"]).await;
    assert!(code == 2 && err.contains("did you mean `customer-totals`?"), "{code} {err}");
    let (code, out, err) = run(&["state", "stats", "customer-totals", "--json"]).await;
    let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    let parts: Vec<_> = lines.iter().map(|line| (line["store"].as_str(), line["partition"].as_i64())).collect();
    let all =
        ["totals", "waiting"].iter().flat_map(|store| (0..6).map(|number| (Some(*store), Some(number)))).collect();
    assert_eq!((code, parts), (0, all), "{out}{err}");
}

/// An instance that is killed: as long as Kafka counts it in, its keys are refused with the reason, and a list is refused as
/// a whole; then the other one has them.
/// Red when a list leaves out the partitions of an owner that does not answer, or who has what is asked for only once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_owner_leaves_no_gap() {
    let mut shop = Shop::new("state_reading_gap").await;
    let (mut one, mut two) = (start(&shop, "one", "127.0.0.1:0"), start(&shop, "two", "127.0.0.1:0"));
    shop.pay(200, 30);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let at = one.address().await;
    let before = all_of(&shop, &at, 2).await;
    let lost = before.iter().find(|entry| entry["owner"] == "two").expect("one of its keys");
    let key = lost["key"].as_str().expect("a key");
    two.kill().await;
    let (status, body) = ask(&at, &format!("/customer-totals/totals/{key}")).await;
    let why = body["error"].as_str().unwrap_or_default();
    assert!(status == 502 && why.contains("instance two") && why.contains("does not answer"), "{status} {body}");
    let (status, body) = ask(&at, &format!("/customer-totals/totals?limit=1000&prefix={}-", shop.space.name)).await;
    let why = body["error"].as_str().unwrap_or_default();
    assert!(status == 503 && why.contains(&format!("{}", lost["partition"])), "{status} {body}");
    let began = Instant::now();
    let after = loop {
        let (status, body) = ask(&at, &format!("/customer-totals/totals?limit=1000&prefix={}-", shop.space.name)).await;
        if status == 200 {
            break body["entries"].as_array().expect("entries").clone();
        }
        assert!(status == 503 && body["error"].is_string() && began.elapsed() < patience(SOON), "{status} {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let values = |entries: &[Json]| entries.iter().map(|e| (e["key"].clone(), e["value"].clone())).collect::<Vec<_>>();
    assert_eq!(values(&after), values(&before), "the first list that is given is whole");
    assert!(after.iter().all(|entry| entry["owner"] == "one"), "{after:?}");
    let (status, body) = ask(&at, &format!("/customer-totals/totals/{key}")).await;
    assert_eq!((status, &body["owner"], &body["value"]), (200, &json!("one"), &lost["value"]));
    assert!(one.stop().await.success());
}

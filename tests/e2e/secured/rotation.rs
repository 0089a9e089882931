//! Certificates that are replaced while the program runs.

use std::time::{Duration, Instant};

use headwater_tests::{
    Process, Space, eventually, patience,
    secured::{Acl, KafkaLogin},
};

use tokio::time::sleep;

use super::secured;
use crate::{
    PROGRAM,
    faults::outage::ready,
    state::{SOON, STATEFUL, Shop, all_of},
};

const AT_LEAST_ONCE: &str = "send-receipt";
const DONE: &str = "the groups work with the new kafka certificates";

/// Everything that a user may do.
fn everything(user: &str) -> Vec<Acl> {
    let resources = [("topic", "*"), ("group", "*"), ("transactional-id", "*"), ("cluster", "kafka-cluster")];
    let acl = |(resource, name): (&str, &str)| Acl {
        user: user.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        prefixed: false,
        operation: "all".to_owned(),
    };
    resources.into_iter().map(acl).collect()
}

/// How many of the shop's payments are dead letters of the group that is at least once, which rejects each.
fn letters(shop: &Shop) -> usize {
    let key = format!("{}-order-", shop.space.name);
    let letters = shop.foreign.read(&format!("{}.dlq", shop.group(AT_LEAST_ONCE)));
    letters.iter().filter(|letter| letter.key.as_ref().is_some_and(|own| own.starts_with(key.as_bytes()))).count()
}

/// Under load the certificate of another user is written where the one in use was, and then that one's user may do nothing any
/// more. Groups that are exactly once with state, and one that is at least once, go on without a restart of the process, a failure,
/// or a moment in which it is not ready; nothing is lost and nothing is there twice.
/// Red when groups are not made anew (`RenewableGroup::renew` asks nobody), when the producer that groups share is not
/// (`ProcessClients::renew` keeps it) or the client that asks the cluster (`AdminClients::renew` keeps it), or when a renewal counts
/// as a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_certificate_is_used_without_a_restart() {
    let (secured, [before, after]) = (secured(), ["rotation-before", "rotation-after"]);
    let admin = secured.broker_admin();
    admin.allow(&[everything(before), everything(after)].concat()).await;
    let mut shop = Shop::of(Space::new(&secured.stack, "rotation").await).await;
    let files = secured.authority.client("rotation", before);
    let [cert, key] = [&files.cert, &files.key].map(|file| file.display().to_string());
    let mut env = secured.kafka_env(KafkaLogin::Certificate);
    env.extend(
        [("TLS__CERT", cert), ("TLS__KEY", key)].map(|(name, file)| (format!("HEADWATER__KAFKA__{name}"), file)),
    );
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let groups = || STATEFUL.into_iter().chain([AT_LEAST_ONCE]);
    let args: Vec<&str> = ["run"].into_iter().chain(groups().flat_map(|group| ["--group", group])).collect();
    let mut process = Process::start(PROGRAM, &shop.space, "run", &args, &env);
    let http = process.address().await;
    shop.pay(500, 40);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;

    // The certificate is there before its key is.
    secured.authority.client("rotation", after);
    let began = Instant::now();
    while !process.log().contains(DONE) {
        shop.pay(20, 40);
        let (status, why) = ready(&http).await;
        assert_eq!(status, 200, "{why}");
        assert!(began.elapsed() < patience(SOON), "the groups have the old certificate: {}", process.log());
        sleep(Duration::from_millis(50)).await;
    }
    admin.forbid_all(before).await;
    shop.pay(500, 40);
    let sent: i64 = shop.paid.values().map(|(payments, _)| payments).sum();
    let sent = usize::try_from(sent).expect("a count");
    eventually("everything has gone through", SOON, async || shop.is_through() && letters(&shop) >= sent).await;
    shop.check();
    assert_eq!(letters(&shop), sent, "each once");
    // Who has them the cluster is asked for.
    all_of(&shop, &http, 1).await;
    assert_eq!(process.group_failures().await, 0.0, "{}", process.log());
    assert_eq!(ready(&http).await.0, 200);
    assert!(process.stop().await.success(), "{}", process.log());
    shop.check();
}

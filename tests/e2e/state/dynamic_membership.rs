//! Members without a name in their group, which leave it when they stop.

use std::time::Duration;

use headwater_tests::eventually;
use serde_json::Value as Json;

use super::{SOON, Shop, all_of};
use crate::faults::supervision;

/// One of two processes stops amid work, and the other goes on with its partitions at once: far sooner than a session, after
/// which a member with a name would be given up. While both run each answers for what the other has.
/// Red when the setting is not heeded (`GroupContext::static_member` always names one): the members have names; or when a process
/// does not know itself among the members (`LocalMember::is` of a dynamic one).
#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_a_dynamic_member_that_stops_move_at_once() {
    let mut shop = Shop::new("state_dynamic").await;
    // Longer than is ever waited for.
    let env = [
        ("HEADWATER__KAFKA__CONSUMER__MEMBERSHIP", "dynamic"),
        ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "20min"),
        ("HEADWATER__KAFKA__CONSUMER__MAX_POLL_INTERVAL", "20min"),
    ];
    let (mut one, mut two) = (shop.start_with("one", &env), shop.start_with("two", &env));
    shop.pay(400, 40);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let http = two.address().await;
    all_of(&shop, &http, 2).await;
    let said = supervision::group(&shop.space, "customer-totals", &http).await;
    let members = said["members"].as_array().expect("members");
    assert!(members.len() == 2 && members.iter().all(|member| member["instance"] == Json::Null), "{said}");

    shop.pay(1_000, 40);
    assert!(one.stop().await.success(), "{}", one.log());
    shop.pay(400, 40);
    eventually("the other has everything", Duration::from_mins(1), async || shop.is_through()).await;
    shop.check();
    all_of(&shop, &http, 1).await;
    assert!(two.stop().await.success(), "{}", two.log());
    shop.check();
}

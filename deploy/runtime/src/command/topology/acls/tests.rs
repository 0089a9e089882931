use headwater::{KeyedBy as _, Result, State, matching};
use headwater_schemas::{CustomerTotalled, PaymentCompleted};
use serde::{Deserialize, Serialize};

use super::{
    super::graph::tests::{app, audit, small},
    *,
};
use crate::command::arguments::ExportFormat;

#[derive(Default, Serialize, Deserialize)]
struct Total {
    cents: i64,
}

impl State for Total {
    const NAME: &'static str = "total";
}

fn total(total: &mut Total, payment: PaymentCompleted) -> Result<CustomerTotalled> {
    total.cents += payment.amount_cents;
    Ok(CustomerTotalled { customer_id: payment.customer_id, total_cents: total.cents, payments: 1 })
}

fn acls(pipeline: headwater::Pipeline, config: &str, principal: &str) -> Vec<PrincipalAcls> {
    let arguments = ExportArguments {
        format: ExportFormat::Acls,
        principal: principal.to_owned(),
        apply_principal: "User:topology".to_owned(),
        operator_principal: "User:operator".to_owned(),
    };
    of(&app(pipeline, config), &arguments)
}

/// The rows of one part without what aligns them.
fn part(all: &[PrincipalAcls], title: &str) -> Vec<String> {
    let text = list(all);
    let begins = text.lines().skip_while(|line| *line != format!("# {title}")).skip(1);
    begins
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Red when a stateless processor may write its input or read its output, may do more than read and write on what it owns, has
/// transactional ids without transactions, its own lines lack its prefix, or the group of dead letters may write.
#[test]
fn a_group_may_read_its_inputs_and_write_its_outputs() {
    let all = acls(small(), "prefix = 'shop.'", "User:CN={group}");
    assert_eq!(
        part(&all, "group shop.fulfil"),
        [
            "topic events.order literal Write,Describe User:CN=shop.fulfil",
            "topic events.payment literal Read,Describe User:CN=shop.fulfil",
            "topic shop.fulfil. prefixed Read,Write,Describe User:CN=shop.fulfil",
            "group shop.fulfil literal Read,Describe User:CN=shop.fulfil",
        ]
    );
    assert_eq!(
        part(&all, "group shop.orders"),
        [
            "topic events.order literal Read,Describe User:CN=shop.orders",
            "topic shop.orders. prefixed Read,Write,Describe User:CN=shop.orders",
            "group shop.orders literal Read,Describe User:CN=shop.orders",
        ]
    );
    assert_eq!(
        part(&all, "group shop.dead-letters"),
        [
            "topic shop.fulfil.dlq literal Read,Describe User:CN=shop.dead-letters",
            "topic shop.orders.dlq literal Read,Describe User:CN=shop.dead-letters",
            "group shop.dead-letters literal Read,Describe User:CN=shop.dead-letters",
        ]
    );
}

/// Red when a group that keeps state may not delete what it has repartitioned and processed, or more than that; may not see how
/// its changelogs are kept; or has no transactional ids where it commits by transactions, and has some where it does not.
#[test]
fn a_group_that_keeps_state_needs_more_and_no_more_than_that() {
    let keyed = || headwater::Pipeline::default().on("count", total.keyed_by(|payment| payment.customer_id.clone()));
    let rows = [
        "topic count. prefixed Read,Write,Describe User:count",
        "topic count.count.repartition literal Delete User:count",
        "topic count.total.changelog literal DescribeConfigs User:count",
        "topic count.waiting.changelog literal DescribeConfigs User:count",
        "topic events.customer literal Write,Describe User:count",
        "topic events.payment literal Read,Describe User:count",
        "group count literal Read,Describe User:count",
        "transactional-id count. prefixed Write,Describe User:count",
    ];
    assert_eq!(part(&acls(keyed(), "", "User:{group}"), "group count"), rows);
    let at_least_once = acls(keyed(), "[groups.count]\ndelivery = 'at-least-once'", "User:{group}");
    // Then it retries in place, and no record waits in a store.
    assert_eq!(part(&at_least_once, "group count"), [&rows[..3], &rows[4..7]].concat());
}

/// Red when a group that reads every topic of events may read only those that there are now, one of a domain may read more
/// than that, or a bound topic is forgotten.
#[test]
fn a_pattern_is_a_prefix_where_it_takes_every_domain() {
    let pipeline = small().on("audit", matching("*", audit)).on("watch", matching("payment.#", audit));
    let all = acls(pipeline, "[topics.legacy]\ntype = 'shipment.sent'", "User:all");
    let inputs = |group: &str| {
        let rows = part(&all, &format!("group {group}")).into_iter();
        rows.filter(|row| row.contains(" Read,Describe ") && row.starts_with("topic ")).collect::<Vec<_>>()
    };
    assert_eq!(
        inputs("audit"),
        ["topic events. prefixed Read,Describe User:all", "topic legacy literal Read,Describe User:all",]
    );
    assert_eq!(inputs("watch"), ["topic events.payment literal Read,Describe User:all"]);
}

/// Red when who applies the topology may read or write records, or lacks what `apply` asks for; or when who looks after the groups
/// may write more than redrives and, of groups that keep state, what wipes it.
#[test]
fn who_applies_and_who_looks_after_the_groups_have_parts_of_their_own() {
    let pipeline = small().on("count", total.keyed_by(|payment| payment.customer_id.clone()));
    let all = acls(pipeline, "", "User:{group}");
    assert_eq!(
        part(&all, "topology apply, which runs before the groups do"),
        [
            "topic count. prefixed Create,Describe,DescribeConfigs User:topology",
            "topic events.customer literal Create,Describe,DescribeConfigs User:topology",
            "topic events.order literal Create,Describe,DescribeConfigs User:topology",
            "topic events.payment literal Create,Describe,DescribeConfigs User:topology",
            "topic fulfil. prefixed Create,Describe,DescribeConfigs User:topology",
            "topic orders. prefixed Create,Describe,DescribeConfigs User:topology",
        ]
    );
    let operator = part(&all, "groups, offsets, dlq, state and tail, for who looks after the groups");
    let writes: Vec<&String> = operator.iter().filter(|row| row.contains("Write")).collect();
    assert_eq!(
        writes,
        [
            "topic count.redrive literal Write User:operator",
            "topic count.total.changelog literal Write User:operator",
            "topic count.waiting.changelog literal Write User:operator",
            "topic fulfil.redrive literal Write User:operator",
            "topic orders.redrive literal Write User:operator",
            "transactional-id count.reset literal Write,Describe User:operator",
        ]
    );
    for row in [
        "topic orders. prefixed Read,Describe User:operator",
        "group headwater-reader- prefixed Read,Describe User:operator",
    ] {
        assert!(operator.iter().any(|other| other == row), "{row} is missing in {operator:#?}");
    }
}

/// Red when a line has other columns than a script reads, or a blank in a certificate's name cuts it.
#[test]
fn a_script_reads_five_columns() {
    let text = list(&acls(small(), "", "User:CN={group},O=Acme Ltd"));
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert!(["topic", "group", "transactional-id"].contains(&columns[0]), "{line}");
        assert!(["literal", "prefixed"].contains(&columns[2]), "{line}");
        assert!(columns[4].starts_with("User:"), "{line}");
    }
    assert!(text.lines().any(|line| line.ends_with("  User:CN=dead-letters,O=Acme Ltd")), "{text}");
}

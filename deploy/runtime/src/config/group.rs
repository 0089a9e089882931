//! The bounds of a group, as they are configured.

use headwater::{
    Order, Policy,
    spi::{Backoff, GroupSettings},
};
use headwater_connectors::kafka;

use super::{
    group_config::{GroupConfig, Guarantee, Kind},
    tree::Config,
};

/// Connections over which the sink of this name writes.
pub(crate) fn sink_connections(config: &Config, name: &str) -> usize {
    let own = config.groups.get(name).and_then(|own| own.sink_connections);
    own.or(config.defaults.sink_connections).unwrap_or(1)
}

/// What is wrong with the connections of a sink that writes over none.
pub(crate) fn needless_connections(config: &Config, name: &str) -> Option<String> {
    config.groups.get(name)?.sink_connections?;
    Some(format!("groups.{name}.sink_connections: of sinks into postgres only; leave it out"))
}

/// The order under retry of a group of this name.
fn order(config: &Config, name: &str, kind: Kind, policy: &Policy) -> Order {
    let own = config.groups.get(name).and_then(|own| own.order).or(policy.order);
    // What is said for all says nothing to a stateful group where it cannot hold.
    let fits = |order: &Order| kind != Kind::Stateful || *order != Order::None;
    let standard = match kind {
        // What waits is kept in transactions.
        Kind::Stateful if says_at_least_once(config, name) => Order::Partition,
        Kind::Stateful => Order::Key,
        Kind::Stateless | Kind::Sink => Order::None,
    };
    own.or(config.defaults.order.filter(fits)).unwrap_or(standard)
}

fn says_at_least_once(config: &Config, name: &str) -> bool {
    config.groups.get(name).and_then(|own| own.delivery) == Some(Guarantee::AtLeastOnce)
}

/// What the effects of a group of this name are promised.
pub(crate) fn guarantee(config: &Config, name: &str, kind: Kind, order: Order) -> Guarantee {
    let own = config.groups.get(name).and_then(|own| own.delivery);
    match kind {
        // What waits is kept in the transaction that passes its offset.
        Kind::Stateless if order == Order::Key => Guarantee::ExactlyOnce,
        Kind::Stateless => own.or(config.defaults.delivery).unwrap_or(Guarantee::AtLeastOnce),
        Kind::Stateful => own.unwrap_or(Guarantee::ExactlyOnce),
        Kind::Sink => Guarantee::AtLeastOnce,
    }
}

/// What is set here and cannot hold of a group of this kind.
fn problems_of_kind(config: &Config, name: &str, kind: Kind, own: &GroupConfig, place: &str) -> Vec<String> {
    let mut problems = match kind {
        Kind::Sink => return problems_of_sink(config, name, own, place),
        Kind::Stateful => own.unfit_for_state(place),
        Kind::Stateless => Vec::new(),
    };
    if own.sink_connections.is_some() {
        problems.push(format!("{place}.sink_connections: of sinks only; a processor writes no rows"));
    }
    problems
}

fn problems_of_sink(config: &Config, name: &str, own: &GroupConfig, place: &str) -> Vec<String> {
    let processors = own.of_processors_only().map(|key| {
        format!("{place}.{key}: of processors only; a row that is refused is a dead letter at once, and an outage is waited for")
    });
    let (connections, most) = (sink_connections(config, name), config.postgres.max_connections);
    let fits = u32::try_from(connections).is_ok_and(|all| (1..=most).contains(&all));
    let misfit = (!fits).then(|| {
        format!("{place}.sink_connections is {connections}: it must be at least 1, and at most postgres.max_connections, {most}")
    });
    processors.chain(misfit).collect()
}

/// The bounds of a group and where it starts: as `[groups.NAME]` says, or its code, or `[defaults]`.
///
/// # Errors
/// What is wrong with them, a sentence each.
pub(crate) fn bounds(
    config: &Config,
    name: &str,
    kind: Kind,
    policy: &Policy,
) -> Result<(GroupSettings, kafka::Start), Vec<String>> {
    let none = GroupConfig::default();
    let (own, all) = (config.groups.get(name).unwrap_or(&none), &config.defaults);
    let standard = GroupSettings::default();
    let place = if config.groups.contains_key(name) { format!("groups.{name}") } else { "defaults".to_owned() };
    let mut problems = Vec::new();
    let first = own.backoff_first.or(all.backoff_first).unwrap_or(Backoff::FIRST);
    let longest = own.backoff_max.or(all.backoff_max).unwrap_or(Backoff::LONGEST);
    let backoff = Backoff::try_new(first, longest).unwrap_or_else(|why| {
        problems.push(format!("{place}: {why}"));
        standard.backoff
    });
    let (breakers, wrong) = own.breakers_over(&policy.breakers, &place);
    problems.extend(wrong);
    let order = order(config, name, kind, policy);
    let all = &all.of_kind(kind, guarantee(config, name, kind, order));
    let settings = GroupSettings {
        concurrency: own.concurrency.or(policy.concurrency).or(all.concurrency).unwrap_or(standard.concurrency),
        in_flight: own.in_flight.or(all.in_flight).unwrap_or(standard.in_flight),
        prefetch: own.prefetch.or(all.prefetch).unwrap_or(standard.prefetch),
        in_flight_bytes: own.in_flight_bytes.or(all.in_flight_bytes).unwrap_or(standard.in_flight_bytes),
        time_limit: own.time_limit.or(policy.time_limit).or(all.time_limit).unwrap_or(standard.time_limit),
        max_event_bytes: usize::try_from(config.kafka.producer.message_max_bytes).unwrap_or(usize::MAX),
        batch_records: own.batch_records.or(all.batch_records).unwrap_or(standard.batch_records),
        batch_bytes: own.batch_bytes.or(all.batch_bytes).unwrap_or(standard.batch_bytes),
        linger: own.linger.or(all.linger).unwrap_or(standard.linger),
        ladder: own.ladder().or(policy.ladder.clone()).or(all.ladder()).unwrap_or(standard.ladder),
        order,
        waiting_records: own.waiting_records.or(all.waiting_records).unwrap_or(standard.waiting_records),
        waiting_bytes: own.waiting_bytes.or(all.waiting_bytes).unwrap_or(standard.waiting_bytes),
        breakers,
        max_record_bytes: usize::try_from(config.kafka.max_record_bytes).unwrap_or(usize::MAX),
        backoff,
        // The source waits as long as `kafka.consumer.drain`: the engine gives up before it, so that what is
        // done by then is still committed.
        drain: config.kafka.consumer.drain.mul_f64(0.9),
    };
    for (value, key) in [
        (settings.concurrency, "concurrency"),
        (settings.in_flight, "in_flight"),
        (settings.prefetch, "prefetch"),
        (settings.in_flight_bytes, "in_flight_bytes"),
        (settings.batch_records, "batch_records"),
        (settings.batch_bytes, "batch_bytes"),
        (settings.waiting_records, "waiting_records"),
        (settings.waiting_bytes, "waiting_bytes"),
    ] {
        if value == 0 {
            problems.push(format!("{place}.{key} must be at least 1"));
        }
    }
    if settings.time_limit.is_zero() {
        problems.push(format!("{place}.time_limit must be above 0"));
    }
    problems.extend(own.misplaced(&place));
    problems.extend(problems_of_kind(config, name, kind, own, &place));
    if order == Order::Key && says_at_least_once(config, name) {
        problems.push(format!(
            "{place}.delivery: the order \"key\" is kept in transactions: leave it out, or choose another order"
        ));
    }
    if !all.breakers.is_empty() {
        problems.push(
            "defaults.breakers: a breaker belongs to one group: write [groups.NAME.breakers.DEPENDENCY]".to_owned(),
        );
    }
    let start = own.start.or(all.start).map_or(kafka::Start::Earliest, |start| start.0);
    if problems.is_empty() { Ok((settings, start)) } else { Err(problems) }
}

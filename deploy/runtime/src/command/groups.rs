//! `groups`: what each group is doing, how much waits for it, and what stands still and why.

pub(super) mod group_status;
mod instances;

use std::{collections::BTreeMap, io::Write as _, process::ExitCode};

use anyhow::Result;
use headwater::{TopicPartition, spi::Activity};
use headwater_connectors::kafka::{GroupAdmin, GroupMember};
use serde_json::{Value as Json, json};

use self::{
    group_status::{GroupOverview, Purpose},
    instances::InstanceReports,
};
use super::arguments::GroupsArguments;
use crate::{
    app::Loader,
    clients::Clients,
    process::{output::Output, table::Table},
};

/// Partitions named in one line at most.
const NAMED: usize = 6;

pub(crate) async fn run(loader: &Loader, arguments: &GroupsArguments) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let clients = Clients::new(&app)?;
    let mut chosen = Vec::new();
    for name in &arguments.names {
        chosen.push(group_status::find(&app, name)?.clone());
    }
    let all = if chosen.is_empty() { &app.groups } else { &chosen };
    let overviews = group_status::of(&clients, all, warn).await?;
    let admin = GroupAdmin::of(&clients.cluster);
    // Any member of a process says where that answers, for all of its groups.
    let ids: Vec<&str> = app.groups.iter().map(|configured| configured.group.id.as_str()).collect();
    let all_members = admin.describe(&ids).await?;
    let members = all_members.values().flat_map(|status| &status.members);
    let reports = instances::ask((&app, &clients), members, warn).await?;
    let prefix = &app.config.prefix;
    // Without a prefix every group of the cluster would be one that is not ours.
    let strangers = if chosen.is_empty() && !prefix.is_empty() {
        let known = |name: &String| app.groups.iter().any(|configured| configured.group.id == *name);
        let names = admin.names().await?;
        names.into_iter().filter(|name| name.starts_with(prefix) && !known(name)).collect()
    } else {
        Vec::new()
    };
    let mut out = Output::new();
    if arguments.json {
        for overview in &overviews {
            out.line(as_json(overview, &reports))?;
        }
        for name in strangers {
            out.line(json!({"group": name, "state": STRANGER}))?;
        }
    } else {
        for line in table(&overviews, &reports, &strangers, arguments.verbose).lines() {
            out.line(line)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is said of a group under the prefix that is not the pipeline's.
const STRANGER: &str = "unknown to this pipeline";

/// Says what keeps the answer from being whole; nobody is left to hear of a failure.
pub(super) fn warn(text: String) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
}

fn table(overviews: &[GroupOverview], reports: &InstanceReports, strangers: &[String], verbose: bool) -> Table {
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", ">LAG", ">RETRIES", ">REDRIVES", ">STANDING STILL"]);
    for overview in overviews {
        let number = |lag: Option<i64>| lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        let still = overview.places.iter().filter(|place| place.remark().is_some()).count();
        table.row(vec![
            overview.configured.group.id.clone(),
            state(overview, reports).to_owned(),
            overview.status.members.len().to_string(),
            number(overview.behind()),
            number(overview.lag(Purpose::Retry)),
            number(overview.lag(Purpose::Redrive)),
            format!("{still}/{}", overview.places.len()),
        ]);
        for topic in &overview.missing {
            table.below(&format!("topic {topic} does not exist: run `headwater topology apply`"));
        }
        for (instance, health) in reports.of(&overview.configured.group.id) {
            health.troubles.iter().for_each(|trouble| table.below(&format!("instance {instance}: {trouble}")));
            if health.state == Activity::Renewing.name() {
                table.below(&format!(
                    "instance {instance}: its clients are made anew, with the certificates that are there now"
                ));
            }
        }
        for (reason, partitions) in reasons(overview) {
            table.below(&format!("{}: {reason}", named(&partitions)));
        }
        if verbose {
            overview.status.members.iter().for_each(|member| table.below(&describe(member)));
        }
    }
    for name in strangers {
        let mut cells = vec![name.clone(), STRANGER.to_owned()];
        cells.resize(7, "-".to_owned());
        table.row(cells);
    }
    table
}

/// What a group is doing, in a word.
fn state(overview: &GroupOverview, reports: &InstanceReports) -> &'static str {
    let worse = reports.worse(&overview.configured.group.id, overview.status.members.len());
    worse.unwrap_or_else(|| overview.activity().name())
}

/// Partitions by what is to be said of them.
fn reasons(overview: &GroupOverview) -> BTreeMap<String, Vec<&TopicPartition>> {
    let mut reasons: BTreeMap<String, Vec<&TopicPartition>> = BTreeMap::new();
    for place in &overview.places {
        if let Some(remark) = place.remark() {
            reasons.entry(remark).or_default().push(&place.partition);
        }
    }
    reasons
}

fn named(partitions: &[&TopicPartition]) -> String {
    let mut text = partitions.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if partitions.len() > NAMED {
        text.push_str(&format!(" and {} more", partitions.len() - NAMED));
    }
    text
}

/// A member as an operator looks for it: by its name, where it is, and what it has.
fn describe(member: &GroupMember) -> String {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for name in &member.partitions {
        topics.entry(&name.topic).or_default().push(name.partition);
    }
    let topic = |(topic, mut partitions): (&str, Vec<i32>)| {
        partitions.sort_unstable();
        format!("{topic} {}", ranges(&partitions))
    };
    let has: Vec<String> = topics.into_iter().map(topic).collect();
    let has = if has.is_empty() { "no partition".to_owned() } else { has.join(", ") };
    format!("{}: {has}", who(member))
}

/// "member host-0 at 10.0.0.7".
pub(super) fn who(member: &GroupMember) -> String {
    format!("member {} at {}", member.instance.as_ref().unwrap_or(&member.id), member.host.trim_start_matches('/'))
}

/// Sorted numbers as "0-3, 5".
fn ranges(numbers: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let run = |(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

fn as_json(overview: &GroupOverview, reports: &InstanceReports) -> Json {
    let member = |member: &GroupMember| {
        json!({
            "id": member.id,
            "client": member.client,
            "instance": member.instance,
            "host": member.host.trim_start_matches('/'),
            "partitions": member.partitions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    let still = overview.places.iter().filter_map(|place| {
        let (topic, partition) = (&*place.partition.topic, place.partition.partition);
        place.remark().map(|reason| json!({"topic": topic, "partition": partition, "reason": reason}))
    });
    let instances = reports
        .of(&overview.configured.group.id)
        .iter()
        .map(|(instance, health)| json!({"instance": instance, "state": health.state, "troubles": health.troubles}));
    json!({
        "group": overview.configured.group.id,
        "state": state(overview, reports),
        "members": overview.status.members.iter().map(member).collect::<Vec<_>>(),
        "lag": overview.behind(),
        "retries": overview.lag(Purpose::Retry),
        "redrives": overview.lag(Purpose::Redrive),
        "partitions": overview.places.len(),
        "standing_still": still.collect::<Vec<_>>(),
        "missing_topics": overview.missing,
        "instances": instances.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a run of one is written as a range, or a gap is bridged.
    #[test]
    fn partitions_are_named_by_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
        assert_eq!(ranges(&[]), "");
    }
}

//! `offsets show` and `offsets reset`: how far a group has read, and letting one that is stopped go on from elsewhere.

mod moves;
mod state_reset;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context as _, Result};
use headwater::TopicPartition;
use headwater_connectors::{
    kafka::{GroupAdmin, wipe_state},
    postgres::reset_offsets,
};
use serde_json::{Value as Json, json};

use self::{moves::Move, state_reset::StateReset};
use super::{
    arguments::{OffsetsCommand, ResetArguments, ResetTarget},
    groups::{
        group_status::{self, GroupOverview, PartitionPosition, Purpose},
        warn, who,
    },
};
use crate::{
    app::{App, Loader},
    clients::Clients,
    config::{Problems, nearest},
    process::{output::Output, table::Table},
};

pub(crate) async fn run(loader: &Loader, command: &OffsetsCommand) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let clients = Clients::new(&app)?;
    match command {
        OffsetsCommand::Show { group, json } => show(&stand(&app, &clients, group, warn).await?, *json)?,
        OffsetsCommand::Reset(arguments) => reset(&app, &clients, arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn stand(app: &App, clients: &Clients, group: &str, warn: impl FnOnce(String)) -> Result<GroupOverview> {
    let configured = group_status::find(app, group)?;
    let mut overviews = group_status::of(clients, std::slice::from_ref(configured), warn).await?;
    overviews.pop().context("a group has an overview")
}

fn show(overview: &GroupOverview, as_json: bool) -> Result<()> {
    let mut out = Output::new();
    if as_json {
        for place in &overview.places {
            out.line(json!({
                "group": overview.configured.group.id,
                "topic": &*place.partition.topic,
                "partition": place.partition.partition,
                "committed": place.committed,
                "first": place.first,
                "end": place.end,
                "lag": place.lag(),
                "note": place.remark(),
            }))?;
        }
    } else {
        let mut table = Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", ">FIRST", ">END", ">LAG", "NOTE"]);
        for place in &overview.places {
            table.row(vec![
                place.partition.topic.to_string(),
                place.partition.partition.to_string(),
                offset(place.committed),
                place.first.to_string(),
                place.end.to_string(),
                place.lag().to_string(),
                place.remark().unwrap_or_default(),
            ]);
        }
        table.lines().try_for_each(|line| out.line(line).map(drop))?;
    }
    for topic in &overview.missing {
        warn(format!("topic {topic} does not exist: run `headwater topology apply`"));
    }
    out.flush()?;
    Ok(())
}

fn offset(offset: Option<i64>) -> String {
    offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}

async fn reset(app: &App, clients: &Clients, arguments: &ResetArguments) -> Result<()> {
    let mut silent = None;
    let overview = stand(app, clients, &arguments.group, |why| silent = Some(why)).await?;
    if let Some(why) = silent {
        anyhow::bail!("nothing was changed: {why}");
    }
    let state = StateReset::find(clients, &overview.configured, arguments).await?;
    let mut moves = plan(clients, &overview, arguments).await?;
    moves.extend(state.moves(&overview, arguments));
    let active = active(&overview);
    let done = active.is_none() && !arguments.dry_run;
    if done {
        // Reading state may have taken its time.
        let members = GroupAdmin::of(&clients.cluster).describe(&[overview.configured.group.id.as_str()]).await?;
        if members.values().any(|status| !status.members.is_empty()) {
            anyhow::bail!("a member of group {} has just joined: stop it and try again", overview.configured.group.id);
        }
        carry_out(clients, &overview, &moves, &state).await?;
    }
    if done || arguments.dry_run {
        print(&overview, &moves, &state, arguments)?;
    }
    active.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}

/// Why the group cannot be moved now: a member would go on from where it is, and commit that.
fn active(overview: &GroupOverview) -> Option<String> {
    let (group, members) = (&overview.configured.group.id, &overview.status.members);
    (!members.is_empty()).then(|| {
        let names: Vec<String> = members.iter().map(who).collect();
        format!(
            "group {group} has members, and moves only while it has none: stop every `headwater run` of it ({}); one that \
             has just stopped counts until its session ends (`kafka.consumer.session_timeout`)",
            names.join(", ")
        )
    })
}

async fn plan(clients: &Clients, overview: &GroupOverview, arguments: &ResetArguments) -> Result<Vec<Move>> {
    let places = chosen(overview, arguments)?;
    let names: Vec<TopicPartition> = places.iter().map(|place| place.partition.clone()).collect();
    let asked: BTreeMap<TopicPartition, i64> = match arguments.to {
        ResetTarget::Start(start) => GroupAdmin::of(&clients.cluster).offsets(&names, start).await?,
        ResetTarget::Offset(offset) if names.len() == 1 => names.into_iter().map(|name| (name, offset)).collect(),
        ResetTarget::Offset(offset) => {
            let why = format!(
                "offset {offset} is one partition's, and {} are meant: say which with --topic and --partition",
                names.len()
            );
            return Err(Problems::one(why).into());
        }
    };
    Ok(places.into_iter().filter_map(|place| Some(Move::new(place, *asked.get(&place.partition)?))).collect())
}

/// The partitions that are meant: the group's inputs, or those that the arguments name.
fn chosen<'a>(overview: &'a GroupOverview, arguments: &ResetArguments) -> Result<Vec<&'a PartitionPosition>> {
    let group = &overview.configured.group.id;
    let wanted = |place: &&PartitionPosition| match &arguments.topic {
        Some(topic) => {
            *place.partition.topic == **topic && arguments.partition.is_none_or(|n| n == place.partition.partition)
        }
        None => place.purpose == Purpose::Input,
    };
    let places: Vec<&PartitionPosition> = overview.places.iter().filter(wanted).collect();
    if !places.is_empty() {
        return Ok(places);
    }
    let mut known: Vec<&str> = overview.places.iter().map(|place| &*place.partition.topic).collect();
    known.dedup();
    let why = match (&arguments.topic, arguments.partition) {
        (Some(topic), Some(partition)) if known.contains(&topic.as_str()) => {
            let count = overview.places.iter().filter(|place| *place.partition.topic == **topic).count();
            format!("topic {topic} has no partition {partition}, only 0 to {}", count - 1)
        }
        (Some(topic), _) => {
            let hint = nearest(topic, &known)
                .map_or_else(|| format!("it reads {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
            format!("group {group} does not read topic `{topic}`; {hint}")
        }
        (None, _) => anyhow::bail!("no topic that group {group} reads exists: run `headwater topology apply`"),
    };
    Err(Problems::one(why).into())
}

/// Moves the group: in Postgres where its offsets live there, and in Kafka, which then has the copy.
async fn carry_out(clients: &Clients, overview: &GroupOverview, moves: &[Move], state: &StateReset) -> Result<()> {
    let group = &overview.configured.group.id;
    let places: BTreeMap<TopicPartition, i64> = moves.iter().map(|m| (m.partition.clone(), m.to)).collect();
    if let StateReset::Wiped(changelogs) = state {
        let changelogs: Vec<TopicPartition> = changelogs.keys().cloned().collect();
        return Ok(wipe_state(&clients.kafka, group, &changelogs, &places).await?);
    }
    if !overview.configured.is_stored() {
        return Ok(GroupAdmin::of(&clients.cluster).commit(group, &places).await?);
    }
    let topics: Vec<&str> = places.keys().map(|name| &*name.topic).collect();
    let ids = clients.cluster.topic_ids(&topics).await?;
    reset_offsets(&clients.database, group, &places, &ids).await?;
    GroupAdmin::of(&clients.cluster).commit(group, &places).await.with_context(|| {
        format!(
            "group {group} is reset in postgres, which counts; kafka's copy for lag tools is not, until the group runs"
        )
    })
}

fn print(overview: &GroupOverview, moves: &[Move], state: &StateReset, arguments: &ResetArguments) -> Result<()> {
    let group = &overview.configured.group.id;
    let mut out = Output::new();
    if arguments.json {
        for m in moves {
            out.line(as_json(group, m, state, arguments.dry_run))?;
        }
    } else {
        let mut table = Table::new(&["TOPIC", ">PARTITION", ">FROM", ">TO", "EFFECT"]);
        for m in moves {
            let (topic, partition) = (m.partition.topic.to_string(), m.partition.partition.to_string());
            table.row(vec![topic, partition, offset(m.from), m.to.to_string(), m.effect()]);
        }
        table.lines().try_for_each(|line| out.line(line).map(drop))?;
        let (again, skipped) =
            moves.iter().fold((0, 0), |(again, skipped), m| (again + m.again(), skipped + m.skipped()));
        let will = if arguments.dry_run { "dry run, nothing was changed" } else { "done" };
        out.line(format_args!("{will}: group {group} reads {again} again and skips {skipped}{state}"))?;
    }
    out.flush()?;
    Ok(())
}

fn as_json(group: &str, m: &Move, state: &StateReset, dry_run: bool) -> Json {
    json!({
        "group": group,
        "topic": &*m.partition.topic,
        "partition": m.partition.partition,
        "from": m.from,
        "to": m.to,
        "again": m.again(),
        "skipped": m.skipped(),
        "asked": m.asked,
        "state": state.name(),
        "dry_run": dry_run,
    })
}

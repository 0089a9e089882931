//! The offsets of groups that keep them here, as seen and moved from outside of the group.

use std::collections::BTreeMap;

use headwater::TopicPartition;

use crate::postgres::{
    database::Database,
    error::{PostgresError, is_undefined},
};

/// Where each of these groups goes on; a partition that it has not committed yet is left out, and so is everything of a
/// database that `topology apply` has never seen.
///
/// # Errors
/// [`PostgresError::Outage`] when the server does not answer.
pub async fn stored_offsets(
    database: &Database,
    groups: &[&str],
) -> Result<BTreeMap<String, BTreeMap<TopicPartition, i64>>, PostgresError> {
    let rows: Vec<(String, String, i32, i64)> = database
        .transaction(async |tx| {
            let rows = sqlx::query_as(
                "select consumer_group, topic, partition, next_offset from headwater.consumer_offsets \
                 where consumer_group = any($1) and next_offset >= 0",
            )
            .bind(groups)
            .fetch_all(tx)
            .await;
            match rows {
                Err(error) if is_undefined(&error) => Ok(Vec::new()),
                rows => Ok(rows?),
            }
        })
        .await?;
    let mut stored: BTreeMap<String, BTreeMap<TopicPartition, i64>> = BTreeMap::new();
    for (group, topic, partition, next) in rows {
        stored.entry(group).or_default().insert(TopicPartition::new(topic, partition), next);
    }
    Ok(stored)
}

/// Lets a group go on from these offsets, all of them or none. An owner that still runs is fenced: its next commit
/// changes nothing, and it starts again from here. The offsets then belong to the topics of these ids.
///
/// # Errors
/// [`PostgresError::Config`] when the schema `headwater` is missing; [`PostgresError::Outage`] when the server does not
/// answer.
pub async fn reset_offsets(
    database: &Database,
    group: &str,
    places: &BTreeMap<TopicPartition, i64>,
    ids: &BTreeMap<String, String>,
) -> Result<(), PostgresError> {
    let topics: Vec<&str> = places.keys().map(|name| &*name.topic).collect();
    let partitions: Vec<i32> = places.keys().map(|name| name.partition).collect();
    let next: Vec<i64> = places.values().copied().collect();
    let ids: Vec<Option<&String>> = topics.iter().map(|topic| ids.get(*topic)).collect();
    database
        .transaction(async |tx| {
            // In the order in which owners lock.
            let done = sqlx::query(
                "insert into headwater.consumer_offsets as o \
             (consumer_group, topic, partition, next_offset, owner_epoch, topic_id) \
             select $1, t, p, n, 1, i from unnest($2::text[], $3::int4[], $4::int8[], $5::text[]) as u (t, p, n, i) \
             order by t, p \
             on conflict (consumer_group, topic, partition) do update \
             set next_offset = excluded.next_offset, owner_epoch = o.owner_epoch + 1, \
             topic_id = coalesce(excluded.topic_id, o.topic_id)",
            )
            .bind(group)
            .bind(topics)
            .bind(partitions)
            .bind(next)
            .bind(ids)
            .execute(tx)
            .await;
            match done {
                Ok(_) => Ok(()),
                Err(error) if is_undefined(&error) => Err(PostgresError::Config(
                    "the schema headwater is missing: run `headwater topology apply`".to_owned(),
                )),
                Err(error) => Err(error.into()),
            }
        })
        .await
}

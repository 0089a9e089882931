//! What is said when a topic is not the one that a group's offsets belong to.

/// Why the group stops and what to do: for one partition of the topic, or for all of it.
pub(crate) fn created_anew(group: &str, topic: &str, partition: Option<i32>, what: &str) -> String {
    let (name, option) = match partition {
        Some(partition) => (format!("{topic}/{partition}"), format!("{topic}:{partition}")),
        None => (topic.to_owned(), topic.to_owned()),
    };
    format!(
        "{name}: {what}: the topic was created anew or truncated after group {group} read it. \
         Decide where the group goes on, with every member of it stopped: \
         `kafka-consumer-groups.sh --bootstrap-server … --group {group} --topic {option} --reset-offsets --to-earliest --execute`, \
         and for a sink delete its rows of {name} in headwater.consumer_offsets"
    )
}

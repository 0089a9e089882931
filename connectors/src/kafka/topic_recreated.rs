//! What is said when a topic is not the one that a group's offsets belong to.

/// Why the group stops and what to do: for one partition of the topic, or for all of it.
pub(crate) fn created_anew(group: &str, topic: &str, partition: Option<i32>, what: &str) -> String {
    let (name, narrowed) = match partition {
        Some(partition) => (format!("{topic}/{partition}"), format!(" --partition {partition}")),
        None => (topic.to_owned(), String::new()),
    };
    format!(
        "{name}: {what}: the topic was created anew after group {group} read it, or has lost its end. \
         Decide where the group goes on, with every member of it stopped: \
         `headwater offsets reset {group} --topic {topic}{narrowed} --to earliest` reads all that is there now, as is right for \
         a new topic; `--to latest` goes on at its end, as is right for one that has lost records which the group has read"
    )
}

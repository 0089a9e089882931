//! Rights that we lack, said so that somebody can grant them.

use rdkafka::error::RDKafkaErrorCode as Code;

/// What somebody wanted to do, as Kafka's access control lists name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Read,
    Write,
    Describe,
    DescribeConfigs,
    Create,
    Delete,
}

/// What a refusal may be about, by name; empty where that is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResourceNames<'a> {
    topic: &'a str,
    group: &'a str,
    transactional_id: &'a str,
}

impl<'a> ResourceNames<'a> {
    pub(crate) fn topic(topic: &'a str) -> Self {
        Self { topic, ..Self::default() }
    }

    pub(crate) fn group(group: &'a str) -> Self {
        Self { group, ..Self::default() }
    }

    pub(crate) fn transactional_id(transactional_id: &'a str) -> Self {
        Self { transactional_id, ..Self::default() }
    }
}

/// What a broker has refused for the lack of a right, and which; `None` where it was refused for something else.
pub(crate) fn lacking(code: Code, wanted: Right, subject: ResourceNames<'_>) -> Option<String> {
    let (verb, right) = match wanted {
        Right::Read => ("read", "Read"),
        Right::Write => ("write to", "Write"),
        Right::Describe => ("describe", "Describe"),
        Right::DescribeConfigs => ("read the settings of", "DescribeConfigs"),
        Right::Create => ("create", "Create"),
        Right::Delete => ("delete records of", "Delete"),
    };
    let (verb, kind, name, right) = match code {
        Code::TopicAuthorizationFailed => (verb, "topic", subject.topic, right),
        Code::GroupAuthorizationFailed => ("use", "group", subject.group, "Read"),
        Code::TransactionalIdAuthorizationFailed => ("use", "transactional id", subject.transactional_id, "Write"),
        // What it takes to publish without duplicates, where there is no right to write to any topic.
        Code::ClusterAuthorizationFailed if wanted == Right::Write => (verb, "cluster", "", "IdempotentWrite"),
        Code::ClusterAuthorizationFailed => (verb, "cluster", "", right),
        _ => return None,
    };
    let resource = match (kind, name) {
        ("cluster", _) => "the cluster".to_owned(),
        (_, "") => format!("a {kind}"),
        _ => format!("{kind} \"{name}\""),
    };
    Some(format!(
        "no right to {verb} {resource}: grant {right} on it (`headwater topology export --format acls` lists every right)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a right is not named with what it is for, or another refusal is taken for a lack of rights.
    #[test]
    fn a_right_is_named_with_what_it_is_for() {
        let lacks = |code, subject| lacking(code, Right::Write, subject).unwrap_or_default();
        let topic = lacks(Code::TopicAuthorizationFailed, ResourceNames::topic("x"));
        assert!(topic.starts_with("no right to write to topic \"x\": grant Write on it (`headwater "), "{topic}");
        let group = lacks(Code::GroupAuthorizationFailed, ResourceNames::group("x"));
        assert!(group.starts_with("no right to use group \"x\": grant Read on it"), "{group}");
        let id = lacks(Code::TransactionalIdAuthorizationFailed, ResourceNames::transactional_id("x"));
        assert!(id.starts_with("no right to use transactional id \"x\": grant Write on it"), "{id}");
        let unnamed = lacks(Code::TopicAuthorizationFailed, ResourceNames::group("x"));
        assert!(unnamed.starts_with("no right to write to a topic: grant Write on it"), "{unnamed}");
        assert_eq!(lacking(Code::UnknownTopic, Right::Read, ResourceNames::topic("x")), None);
    }
}

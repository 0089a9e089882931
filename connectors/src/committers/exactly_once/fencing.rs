//! What becomes of a member whose producer is fenced: its transactional id, `<group>.<instance>.0`, was given to another.
//!
//! A member's static name is its instance's with a mark of what it reads. So a second process of one instance that reads the
//! same takes the member's place in the group as well, and the source judges which of the two came later. One that reads other
//! topics is another member beside it, of which the source hears nothing, and the two would fence each other's producers for
//! ever: there the one ends that found the other in the group when it came.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use headwater::spi::{CommitError, GroupMetrics};

use crate::kafka::{Cluster, GroupAdmin, GroupMember, KafkaError, Membership};

/// How long a member may take to learn that another has its name: heartbeats are at most 2 s apart.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// How long the coordinator may take to say who is in the group.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions of that.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a process found another of its instance, which reads other topics, in its group when it came. Clones share it: each
/// member of the group that the process starts gets the same one.
#[derive(Clone, Debug, Default)]
pub struct Arrival(Arc<Mutex<Option<bool>>>);

impl Arrival {
    /// Decides it while it is not decided, or another was there: once that one is gone, this process is the first.
    fn note(&self, competitor: &Competitor) {
        let mut later = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *competitor != Competitor::Unknown && *later != Some(false) {
            *later = Some(matches!(competitor, Competitor::Beside(_)));
        }
    }

    fn is_first(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(false)
    }

    fn is_later(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(true)
    }
}

/// Who else may have the transactional id, by who is in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Competitor {
    /// Nobody who is in it.
    None,
    /// The member of this name, of the same instance.
    Beside(String),
    /// Whoever has the member's own place; or nobody says who is in the group.
    Unknown,
}

impl Competitor {
    /// Of the member with this id.
    fn among(members: &[GroupMember], id: &str, instance: &str) -> Self {
        let Some(own) = members.iter().find(|member| member.id == id) else { return Self::Unknown };
        let Some(name) = &own.instance else { return Self::None };
        let is_beside = |other: &&String| {
            let mark = other.strip_prefix(instance).filter(|mark| mark.starts_with('-'));
            mark.is_some() && other.len() == name.len() && *other != name
        };
        let mut others = members.iter().filter_map(|member| member.instance.as_ref());
        others.find(is_beside).cloned().map_or(Self::None, Self::Beside)
    }
}

/// Judges for one member.
pub(super) struct Fencing {
    pub(super) cluster: Cluster,
    pub(super) group: String,
    pub(super) instance: String,
    pub(super) membership: Membership,
    pub(super) state: Arc<GroupMetrics>,
    /// How long a coordinator keeps a member that has died.
    pub(super) session: Duration,
    pub(super) arrival: Arrival,
}

impl Fencing {
    /// Finds out who was there before; asked again until that is known, and as long as somebody was.
    pub(super) async fn arrive(&self) {
        if !self.arrival.is_first() {
            self.arrival.note(&self.competitor().await);
        }
    }

    /// What the producer that was fenced, for this reason, means for the group.
    pub(super) async fn verdict(&self, why: String) -> CommitError {
        match self.competitor().await {
            Competitor::None => CommitError::Failed(why),
            Competitor::Beside(other) if self.arrival.is_later() => self.outlived_by(&other).await,
            Competitor::Beside(other) => CommitError::Failed(format!(
                "{}: stop it, or give it an `instance` of its own; the transactional id is asked for again",
                self.shared_with(&other)
            )),
            Competitor::Unknown => self.after_the_source(why).await,
        }
    }

    /// Where another process has the member's name the source learns of it as well, and judges which of the two came later;
    /// who failed meanwhile would begin anew as the one that did. So the source speaks first: this waits for longer than it
    /// takes it to learn of the other, and for as long as it judges.
    async fn after_the_source(&self, why: String) -> CommitError {
        tracing::warn!(
            group = self.group,
            reason = why,
            "nothing more can be committed by this producer; whether another process has the member's place is awaited"
        );
        let mut until = Instant::now() + HEARTBEAT;
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            if self.membership.is_fenced() {
                until = Instant::now() + HEARTBEAT;
            }
        }
        CommitError::Failed(why)
    }

    /// The other was there before. It may have died since: then the group forgets it when its session is over.
    async fn outlived_by(&self, other: &str) -> CommitError {
        let shared = self.shared_with(other);
        let waits = format!("{shared}, and was there before this one: whether it lives is looked up for a while");
        tracing::warn!(group = self.group, reason = waits, "the group waits");
        self.state.trouble("group", Some(&waits));
        let longest = self.session + HEARTBEAT;
        let mut until = Instant::now() + longest;
        while Instant::now() < until {
            tokio::time::sleep(PAUSE).await;
            match self.competitor().await {
                Competitor::None => {
                    return CommitError::Failed(format!("member {other} is gone, which had the transactional id"));
                }
                Competitor::Beside(_) => {}
                // What nobody saw is no sign of life.
                Competitor::Unknown => until = Instant::now() + longest,
            }
        }
        CommitError::Fatal(format!(
            "{shared}, and was there before this one: stop one of them, or give this one an `instance` of its own"
        ))
    }

    fn shared_with(&self, other: &str) -> String {
        let Self { group, instance, .. } = self;
        format!(
            "another process runs group {group} as instance {instance}, reads other topics (it is member {other}) and writes under the same transactional id"
        )
    }

    async fn competitor(&self) -> Competitor {
        let Some(id) = self.membership.id() else { return Competitor::Unknown };
        let answer = tokio::time::timeout(ANSWER, GroupAdmin::of(&self.cluster).describe(&[&self.group])).await;
        match answer.unwrap_or_else(|late| Err(KafkaError::Outage(late.to_string()))) {
            Ok(groups) => {
                let members = groups.values().next().map_or(&[][..], |status| &status.members);
                Competitor::among(members, &id, &self.instance)
            }
            Err(error) => {
                tracing::warn!(group = self.group, %error, "who else is in the group cannot be read");
                Competitor::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>) -> GroupMember {
        let (client, host, instance) = (String::new(), String::new(), instance.map(str::to_owned));
        GroupMember { id: id.to_owned(), client, instance, host, partitions: Vec::new() }
    }

    /// Red when the member itself, another instance or a member without a name counts as one beside it, one of the same instance
    /// does not, or somebody who has its place is nobody.
    #[test]
    fn who_reads_other_topics_as_the_same_instance_is_told_apart() {
        let own = member("a", Some("w1-00000001"));
        let others = [member("b", Some("w1-2-00000001")), member("c", Some("w2-00000001")), member("d", None)];
        let among = |members: &[GroupMember]| Competitor::among(members, "a", "w1");
        assert_eq!(among(&[vec![own.clone()], others.to_vec()].concat()), Competitor::None);
        let beside = member("e", Some("w1-00000002"));
        let all = [vec![own.clone(), beside.clone()], others.to_vec()].concat();
        assert_eq!(among(&all), Competitor::Beside("w1-00000002".to_owned()));
        assert_eq!(among(&[member("f", Some("w1-00000001")), beside]), Competitor::Unknown, "its place is another's");
        assert_eq!(among(&[member("a", None)]), Competitor::None);
    }

    /// Red when a process that was the first becomes the later one, one that found another stays the later when that one is
    /// gone, or no answer counts as one.
    #[test]
    fn who_was_there_first_stays_so() {
        let beside = Competitor::Beside("w1-00000002".to_owned());
        let arrival = Arrival::default();
        arrival.note(&Competitor::Unknown);
        assert!(!arrival.is_first() && !arrival.is_later());
        arrival.note(&beside);
        assert!(arrival.clone().is_later());
        arrival.note(&Competitor::Unknown);
        assert!(arrival.is_later());
        arrival.note(&Competitor::None);
        arrival.note(&beside);
        assert!(arrival.is_first());
    }
}

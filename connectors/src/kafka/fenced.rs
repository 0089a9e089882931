//! What becomes of a member whose static name another has in the group.
//!
//! Kafka gives the name to whoever joins with it last, and fences the one before. That alone says nothing of a second
//! process: after an outage a broker may process two joins of one consumer. So a member that was in its place before simply
//! asks for it again, as itself. Of two processes that do so the one that came later is fenced soon after it has joined: it
//! looks whether the other one lives, and ends if so. A join of its own that nobody stands behind is dropped from the group
//! when its session ends, and then it asks again too. Who the other is cannot be read there: Kafka keeps the client id and
//! address of whoever first had the name (KAFKA-15704).

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::{member::Member, rebalance::GroupConsumer};

/// Characters behind a static name in the id that a coordinator gives its member: `-` and a UUID.
const SUFFIX: usize = 37;
/// How long the coordinator may take to say who is in the group.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// How long beyond its session the coordinator may keep a member that has died.
const MARGIN: Duration = Duration::from_secs(5);

/// A member whose name another has.
#[derive(Debug)]
pub(crate) struct Fenced {
    since: Instant,
    /// Not to be asked again before this.
    ask_at: Instant,
    /// It had been in its place for as long as a session.
    settled: bool,
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The name is asked for again.
    Anew,
    /// It is not known yet whether anybody stands behind the one who has it.
    Wait,
    /// Somebody does, and was there before us.
    End,
}

impl Fenced {
    fn new(now: Instant, joined: Option<Instant>, session: Duration) -> Self {
        let settled = joined.is_some_and(|joined| now.duration_since(joined) >= session);
        Self { since: now, ask_at: now, settled }
    }

    /// Judges by whether somebody has the name; `session` is how long a coordinator keeps one that does not answer.
    fn judge(&self, taken: bool, now: Instant, session: Duration) -> Verdict {
        match taken && !self.settled {
            false => Verdict::Anew,
            true if now.duration_since(self.since) > session + MARGIN => Verdict::End,
            true => Verdict::Wait,
        }
    }
}

impl Member {
    /// Another has our name in the group: whatever we had there is not ours any more.
    pub(crate) fn fenced(&mut self) {
        if self.fenced.is_none() {
            self.fenced = Some(Fenced::new(Instant::now(), self.joined, self.config.session_timeout));
            self.lose_all();
        }
    }

    /// Looks who has our name, and ends for that reason or another.
    pub(crate) fn judge(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let Some(fenced) = self.fenced.as_mut().filter(|fenced| now >= fenced.ask_at) else { return };
        fenced.ask_at = now + PAUSE;
        let (group, instance) = (&self.source.group, self.source.instance.as_deref().unwrap_or_default());
        // One that was in its place asks for it whoever has it.
        let taken = if fenced.settled { Ok(true) } else { is_taken(consumer, group, instance) };
        if let Err(error) = &taken {
            tracing::warn!(group, error, "who else is in the group as instance {instance} cannot be read");
        }
        match fenced.judge(taken.unwrap_or_default(), now, self.config.session_timeout) {
            Verdict::Anew => self.fail(format!(
                "the place of instance {instance} in group {group} was given away, to a late join of this member or to another process of that name; it is asked for again"
            )),
            Verdict::Wait => {}
            Verdict::End => self.halt(format!(
                "another process runs group {group} as instance {instance}, and was there before this one: stop one of them, or give this one an `instance` of its own"
            )),
        }
    }
}

/// Whether the group has a member of this static name.
fn is_taken(consumer: &GroupConsumer, group: &str, instance: &str) -> Result<bool, String> {
    // Not the admin request, which takes the process down with it when the connection breaks at the wrong moment.
    let list = consumer.client().fetch_group_list(Some(group), ANSWER).map_err(|error| error.to_string())?;
    let mut members = list.groups().iter().filter(|found| found.name() == group).flat_map(|found| found.members());
    Ok(members.any(|member| static_name(member.id()) == Some(instance)))
}

/// The static name in a member's id; in that of a member without one stands its client id.
fn static_name(id: &str) -> Option<&str> {
    let (name, suffix) = id.split_at_checked(id.len().checked_sub(SUFFIX)?)?;
    suffix.starts_with('-').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);

    /// Red when a member's name is not found in its id.
    #[test]
    fn a_static_name_stands_in_the_members_id() {
        assert_eq!(static_name("w1-0a1b2c3d-6f9619ff-8b86-d011-b42d-00c04fc964ff"), Some("w1-0a1b2c3d"));
        assert_eq!((static_name("short"), static_name("")), (None, None));
        assert_eq!(static_name(&"é".repeat(19)), None, "cut between characters only");
    }

    /// Red when a member that was in its place for a session waits, or ends.
    #[test]
    fn who_was_in_its_place_asks_for_it_again() {
        let now = Instant::now();
        let fenced = Fenced::new(now, now.checked_sub(SESSION), SESSION);
        assert_eq!(fenced.judge(true, now, SESSION), Verdict::Anew);
    }

    /// Red when one that has just come ends before a session has shown that the other lives, waits for nobody, or does not end.
    #[test]
    fn who_has_just_come_ends_when_the_other_lives() {
        let now = Instant::now();
        for joined in [None, now.checked_sub(SESSION / 2)] {
            let fenced = Fenced::new(now, joined, SESSION);
            assert_eq!(fenced.judge(true, now, SESSION), Verdict::Wait);
            assert_eq!(fenced.judge(true, now + SESSION + MARGIN, SESSION), Verdict::Wait);
            assert_eq!(fenced.judge(false, now + SESSION + MARGIN, SESSION), Verdict::Anew, "it was dead");
            assert_eq!(fenced.judge(true, now + SESSION + 2 * MARGIN, SESSION), Verdict::End);
        }
    }
}

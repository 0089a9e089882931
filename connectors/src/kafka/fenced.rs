//! What becomes of a member whose static name another has in the group.
//!
//! Kafka gives the name to whoever joins with it last, and fences the one before. That alone says nothing of a second
//! process: after an outage a broker may process two joins of one consumer. So a member that was in its place before simply
//! asks for it again, as itself. Of two processes that do so the one that came later is fenced soon after it has joined: it
//! looks whether the other one lives, and ends if so. A join of its own that nobody stands behind is dropped from the group
//! when its session ends, and then it asks again too. Who the other is cannot be read there: Kafka keeps the client id and
//! address of whoever first had the name (KAFKA-15704).

use std::{
    ffi::CString,
    time::{Duration, Instant},
};

use rdkafka::consumer::Consumer as _;

use super::{member::Member, native, rebalance::GroupConsumer};

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

    /// Judges by whether somebody has the name, where that is known; `session` is how long a coordinator keeps one that does
    /// not answer.
    fn judge(&self, taken: Option<bool>, now: Instant, session: Duration) -> Verdict {
        let is_over = now.duration_since(self.since) > session + MARGIN;
        match taken {
            _ if self.settled => Verdict::Anew,
            Some(false) => Verdict::Anew,
            Some(true) if is_over => Verdict::End,
            None if is_over => Verdict::Anew,
            Some(true) | None => Verdict::Wait,
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
        match fenced.judge(taken.ok(), now, self.config.session_timeout) {
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
    let name = CString::new(group).map_err(|error| error.to_string())?;
    let status = native::groups::describe(consumer.client(), &name, ANSWER).map_err(|error| error.to_string())?;
    Ok(status.members.iter().any(|member| member.instance.as_deref() == Some(instance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);

    /// Red when a member that was in its place for a session waits, or ends.
    #[test]
    fn who_was_in_its_place_asks_for_it_again() {
        let now = Instant::now();
        let fenced = Fenced::new(now, now.checked_sub(SESSION), SESSION);
        assert_eq!(fenced.judge(Some(true), now, SESSION), Verdict::Anew);
    }

    /// Red when one that has just come ends before a session has shown that the other lives, waits for nobody, does not end, or
    /// takes it for nobody's name that nobody says whose it is.
    #[test]
    fn who_has_just_come_ends_when_the_other_lives() {
        let now = Instant::now();
        for joined in [None, now.checked_sub(SESSION / 2)] {
            let fenced = Fenced::new(now, joined, SESSION);
            assert_eq!(fenced.judge(Some(true), now, SESSION), Verdict::Wait);
            assert_eq!(fenced.judge(Some(true), now + SESSION + MARGIN, SESSION), Verdict::Wait);
            assert_eq!(fenced.judge(Some(false), now + SESSION + MARGIN, SESSION), Verdict::Anew, "it was dead");
            assert_eq!(fenced.judge(Some(true), now + SESSION + 2 * MARGIN, SESSION), Verdict::End);
            assert_eq!(fenced.judge(None, now + SESSION, SESSION), Verdict::Wait, "nobody says who it is");
            assert_eq!(fenced.judge(None, now + SESSION + 2 * MARGIN, SESSION), Verdict::Anew);
        }
    }
}

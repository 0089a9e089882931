//! What becomes of a member whose static name another has in the group.
//!
//! Kafka gives the name to whoever joins with it last, and fences the one before. That alone says nothing of a second
//! process: after an outage a broker may process two joins of one consumer. So a process that was in its place before simply
//! asks for it again, as itself. Of two processes that do so the one that came later is fenced soon after it has joined: it
//! looks whether the other one lives, and ends if so. A join of its own that nobody stands behind is dropped from the group
//! when its session ends, and then it asks again too. Who the other is cannot be read there: Kafka keeps the client id and
//! address of whoever first had the name (KAFKA-15704).

use std::{
    ffi::CString,
    time::{Duration, Instant},
};

use headwater::{Time, spi::SourceEvent};
use rdkafka::consumer::Consumer as _;

use super::{group_consumer::GroupConsumer, tenure::Tenure};
use crate::kafka::{consumer::outlets::Outlets, librdkafka};

/// How long the coordinator may take to say who is in the group.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Answers that are further apart say nothing of the time between them: this process was frozen, and the broker maybe with it.
const GAP: Duration = Duration::from_secs(8);
/// How long beyond its session the coordinator may keep a member that has died.
const MARGIN: Duration = Duration::from_secs(5);

/// A member whose name another has.
#[derive(Debug)]
pub(crate) struct InstanceConflict {
    /// The place was this process's.
    settled: bool,
    /// Not to be asked again before this.
    ask_at: Instant,
    /// The last answer whether somebody has the name, where there was one, and when it came.
    last: (Option<bool>, Instant),
    /// Since when the answers are the same. A coordinator that was away begins a member's session anew.
    same_since: Instant,
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
enum ConflictVerdict {
    /// The name is asked for again.
    Anew,
    /// It is not known yet whether anybody stands behind the one who has it.
    Wait,
    /// Somebody does, and was there before us.
    End,
}

impl InstanceConflict {
    fn new(now: Instant, settled: bool) -> Self {
        Self { settled, ask_at: now, last: (None, now), same_since: now }
    }

    /// Judges by whether somebody has the name, where that is known; `session` is how long a coordinator keeps one that does
    /// not answer.
    fn judge(&mut self, taken: Option<bool>, now: Instant, session: Duration) -> ConflictVerdict {
        let (before, at) = std::mem::replace(&mut self.last, (taken, now));
        if taken != before || now.duration_since(at) > GAP {
            self.same_since = now;
        }
        let is_over = now.duration_since(self.same_since) > session + MARGIN;
        match taken {
            _ if self.settled => ConflictVerdict::Anew,
            Some(false) => ConflictVerdict::Anew,
            Some(true) if is_over => ConflictVerdict::End,
            None if is_over => ConflictVerdict::Anew,
            Some(true) | None => ConflictVerdict::Wait,
        }
    }
}

/// A process's claim to a static name in its group.
pub(crate) struct InstanceClaim {
    /// The name; empty where membership is dynamic.
    instance: String,
    session: Duration,
    /// When the group first gave us our part.
    joined: Option<Instant>,
    /// How long this process has been there.
    tenure: Tenure,
    /// Another has our name in the group.
    conflict: Option<InstanceConflict>,
}

impl InstanceClaim {
    /// Of a member of this name, if it has one, whose session lasts so long.
    pub(crate) fn new(instance: Option<&str>, session: Duration, tenure: Tenure) -> Self {
        Self { instance: instance.unwrap_or_default().to_owned(), session, joined: None, tenure, conflict: None }
    }

    /// The group gives us our part.
    pub(crate) fn joined(&mut self, now: Instant) {
        self.joined.get_or_insert(now);
    }

    /// Another has our name in the group; whether that is news.
    pub(crate) fn fence(&mut self, now: Instant) -> bool {
        if self.conflict.is_some() {
            return false;
        }
        self.stays(now);
        let settled = self.tenure.holds(now, self.session);
        self.conflict = Some(InstanceConflict::new(now, settled));
        true
    }

    /// Tells the engine that somebody else may have a right to the place.
    pub(crate) fn report_displaced(&self, outlets: &Outlets) {
        if self.conflict.as_ref().is_some_and(|conflict| !conflict.settled) && !outlets.leaving {
            let (group, instance) = (&outlets.group, &self.instance);
            outlets.report(SourceEvent::Displaced(format!(
                "the place of instance {instance} in group {group} is another's since {}: whether that is a process which lives is looked up for a while before this one asks for it again, or ends",
                Time::now()
            )));
        }
    }

    /// Looks who has our name, and ends for that reason or another.
    pub(crate) fn judge(&mut self, consumer: &GroupConsumer, outlets: &mut Outlets) {
        let now = Instant::now();
        if self.conflict.is_none() {
            return self.stays(now);
        }
        let Some(conflict) = self.conflict.as_mut().filter(|conflict| now >= conflict.ask_at) else { return };
        conflict.ask_at = now + PAUSE;
        let (group, instance) = (&outlets.group, &self.instance);
        // One that was in its place asks for it whoever has it.
        let taken = if conflict.settled { Ok(true) } else { is_taken(consumer, group, instance) };
        if let Err(error) = &taken {
            tracing::warn!(group, error, "who else is in the group as instance {instance} cannot be read");
        }
        match conflict.judge(taken.ok(), Instant::now(), self.session) {
            ConflictVerdict::Anew => outlets.fail(format!(
                "the place of instance {instance} in group {group} was given away, to a late join of this member or to another process of that name; it is asked for again"
            )),
            ConflictVerdict::Wait => {}
            ConflictVerdict::End => outlets.halt(format!(
                "another process runs group {group} as instance {instance}, and was there before this one: stop one of them, or give this one an `instance` of its own"
            )),
        }
    }

    /// Keeps in mind how long we are in our place.
    fn stays(&self, now: Instant) {
        if let Some(joined) = self.joined {
            self.tenure.stays(joined, now, self.session);
        }
    }
}

/// Whether the group has a member of this static name.
fn is_taken(consumer: &GroupConsumer, group: &str, instance: &str) -> Result<bool, String> {
    let name = CString::new(group).map_err(|error| error.to_string())?;
    let status = librdkafka::groups::describe(consumer.client(), &name, ANSWER).map_err(|error| error.to_string())?;
    Ok(status.members.iter().any(|member| member.instance.as_deref() == Some(instance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);
    /// Of the other's life, and the question after that.
    const ENOUGH: u64 = 16;

    /// Answers a second apart, from this second on; gives the last verdict, and expects to wait until then.
    fn answers(conflict: &mut InstanceConflict, start: Instant, from: u64, taken: &[Option<bool>]) -> ConflictVerdict {
        let mut verdict = ConflictVerdict::Wait;
        for (second, taken) in (from..).zip(taken) {
            assert_eq!(verdict, ConflictVerdict::Wait, "before second {second}");
            verdict = conflict.judge(*taken, start + Duration::from_secs(second), SESSION);
        }
        verdict
    }

    fn times(taken: Option<bool>, count: u64) -> Vec<Option<bool>> {
        (0..count).map(|_| taken).collect()
    }

    /// Red when a process that was in its place for a session waits, or ends.
    #[test]
    fn who_was_in_its_place_asks_for_it_again() {
        let now = Instant::now();
        assert_eq!(InstanceConflict::new(now, true).judge(Some(true), now, SESSION), ConflictVerdict::Anew);
    }

    /// Red when one that has just come ends before a session has shown that the other lives, waits for nobody, or does not end.
    #[test]
    fn who_has_just_come_ends_when_the_other_lives() {
        let now = Instant::now();
        let conflict = || InstanceConflict::new(now, false);
        assert_eq!(answers(&mut conflict(), now, 0, &times(Some(true), ENOUGH)), ConflictVerdict::Wait);
        assert_eq!(answers(&mut conflict(), now, 0, &times(Some(true), ENOUGH + 1)), ConflictVerdict::End);
        let dead: Vec<_> = times(Some(true), 12).into_iter().chain([Some(false)]).collect();
        assert_eq!(answers(&mut conflict(), now, 0, &dead), ConflictVerdict::Anew, "it was dead");
    }

    /// Red when a coordinator that does not answer has one that is fenced end, or ask again before a session is over; or when
    /// it never does.
    #[test]
    fn who_is_told_nothing_waits_and_then_asks_again() {
        let now = Instant::now();
        let mut conflict = InstanceConflict::new(now, false);
        assert_eq!(answers(&mut conflict, now, 0, &times(None, ENOUGH)), ConflictVerdict::Wait);
        assert_eq!(answers(&mut conflict, now, ENOUGH, &[None]), ConflictVerdict::Anew);
    }

    /// A member that nobody stands behind is kept for a session after its coordinator has come back, and while everything is
    /// frozen. Red when time counts for the other's life in which nobody said that it has the name: a group that fenced itself
    /// would end.
    #[test]
    fn what_nobody_saw_is_no_sign_of_life() {
        let now = Instant::now();
        let mut conflict = InstanceConflict::new(now, false);
        assert_eq!(answers(&mut conflict, now, 0, &times(Some(true), 10)), ConflictVerdict::Wait);
        assert_eq!(answers(&mut conflict, now, 10, &[None]), ConflictVerdict::Wait, "it goes away");
        assert_eq!(answers(&mut conflict, now, 11, &times(Some(true), 15)), ConflictVerdict::Wait, "and is back");
        assert_eq!(answers(&mut conflict, now, 60, &times(Some(true), 15)), ConflictVerdict::Wait, "frozen in between");
        assert_eq!(answers(&mut conflict, now, 75, &times(Some(true), 2)), ConflictVerdict::End);
    }
}

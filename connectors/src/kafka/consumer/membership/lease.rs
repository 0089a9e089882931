//! Whether a member may still publish what it has read, where no transaction shuts out one that the group has given up.
//!
//! A group gives a member's partitions away when it has heard nothing of it for as long as a session lasts. The member may
//! not know: its process was frozen, or its network cut. So it publishes only for a quarter of that time behind the last proof
//! of its membership, which is an offset that the coordinator has accepted for the generation in which the member still was
//! afterwards; its time is that of the question. What is handed to the producer then is given up within the other three
//! quarters: see `KafkaConfig::delivery_of_members`. Where there is no such proof, whoever wants to
//! publish waits for the next one, and the polling thread asks for it; it asks as well when records come after a pause.
//!
//! And where partitions were lost since a unit was begun, nothing more of it is published, whoever has them now.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// A member's right to publish; clones share it.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How long a proof is good.
    term: Duration,
    /// How long it is waited for.
    patience: Duration,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the last proof was asked for.
    proven: Option<Instant>,
    wanted: bool,
    /// Somebody publishes under it.
    used: bool,
    /// How often partitions were lost, and of how many times the engine knows.
    losses: u64,
    known_losses: u64,
}

impl Lease {
    /// Of a member whose session lasts so long.
    pub(crate) fn of(session: Duration) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { term: session / 4, patience: session, state, changed }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member was in its group at this time.
    pub(crate) fn prove(&self, at: Instant) {
        let mut state = self.state();
        state.proven = state.proven.max(Some(at));
        state.wanted = false;
        self.0.changed.notify_waiters();
    }

    /// For somebody who publishes under it.
    pub(crate) fn lend(&self) -> Self {
        self.state().used = true;
        self.clone()
    }

    /// Records have come, and what they ask for will be published: asks for a proof while there is time.
    pub(crate) fn expect(&self) {
        let mut state = self.state();
        state.wanted |= state.used && state.proven.is_none_or(|proven| proven.elapsed() * 2 > self.0.term);
    }

    /// Whether somebody waits for a proof.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state().wanted
    }

    /// Partitions are lost, which the engine will be told.
    pub(crate) fn lost(&self) {
        self.state().losses += 1;
        self.0.changed.notify_waiters();
    }

    /// The engine was told: what it does from now on knows of it.
    pub(crate) fn acknowledge_loss(&self) {
        self.state().known_losses += 1;
    }

    /// What a unit that is begun now may be published under.
    ///
    /// # Errors
    /// When partitions were lost of which the engine does not know yet: the unit may be of theirs.
    pub fn permit(&self) -> Result<PublishPermit, String> {
        let state = self.state();
        if state.losses == state.known_losses {
            Ok(PublishPermit(Some((self.clone(), state.losses))))
        } else {
            Err(gone())
        }
    }
}

fn gone() -> String {
    "the group has given partitions to other members: nothing of theirs is published here any more".to_owned()
}

/// The right to publish what was begun at one time.
#[derive(Clone, Debug)]
pub struct PublishPermit(Option<(Lease, u64)>);

impl PublishPermit {
    /// Of what belongs to no group.
    #[must_use]
    pub fn unconditional() -> Self {
        Self(None)
    }

    /// Whether it may be published at this moment; waits for a proof of that, at most as long as a session lasts.
    ///
    /// # Errors
    /// Why not.
    pub async fn check(&self) -> Result<(), String> {
        let Some((lease, losses)) = &self.0 else { return Ok(()) };
        let deadline = Instant::now() + lease.0.patience;
        loop {
            // Before the look: what changes behind it is noticed.
            let changed = lease.0.changed.notified();
            {
                let mut state = lease.state();
                if state.losses != *losses {
                    return Err(gone());
                }
                if state.proven.is_some_and(|proven| proven.elapsed() < lease.0.term) {
                    return Ok(());
                }
                state.wanted = true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                let why = "the group does not confirm that its partitions are still ours: the broker may be down";
                return Err(why.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(8);

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    async fn waits(permit: &PublishPermit) -> bool {
        tokio::time::timeout(Duration::from_millis(50), permit.check()).await.is_err()
    }

    /// Red when an old proof is good, nobody is asked for a new one, or who waits is not told of it.
    #[tokio::test]
    async fn who_was_silent_waits_for_a_proof() {
        let lease = Lease::of(SESSION);
        let permit = lease.permit().unwrap();
        assert!(waits(&permit).await && lease.is_wanted());
        lease.prove(ago(3));
        assert!(waits(&permit).await && lease.is_wanted(), "older than a quarter of the session");
        let (stands, ()) = tokio::join!(permit.check(), async { lease.prove(Instant::now()) });
        assert_eq!((stands, lease.is_wanted()), (Ok(()), false));
        assert_eq!(permit.check().await, Ok(()));
    }

    /// Red when what was begun before partitions were lost is published after all, by a proof that came later too;
    /// when a unit is begun of partitions whose loss the engine does not know; or when nothing is published ever after.
    #[tokio::test]
    async fn what_was_begun_before_a_loss_is_not_published() {
        let lease = Lease::of(SESSION);
        lease.prove(ago(0));
        let before = lease.permit().unwrap();
        lease.lost();
        lease.prove(Instant::now());
        assert!(before.check().await.is_err() && lease.permit().is_err());
        lease.acknowledge_loss();
        assert!(before.check().await.is_err());
        assert_eq!(lease.permit().unwrap().check().await, Ok(()));
        let lease = Lease::of(SESSION);
        let waiting = lease.permit().unwrap();
        let (stands, ()) = tokio::join!(waiting.check(), async { lease.lost() });
        assert!(stands.is_err(), "who waits is told");
    }

    /// Red when records that come after a pause do not ask for a proof, or those that come soon after one do, or those of a
    /// member for which nobody publishes.
    #[test]
    fn a_proof_is_asked_for_while_there_is_time() {
        let lease = Lease::of(SESSION).lend();
        lease.prove(Instant::now());
        lease.expect();
        assert!(!lease.is_wanted());
        let lease = Lease::of(SESSION);
        lease.expect();
        assert!(!lease.is_wanted(), "nobody publishes");
        let lease = lease.lend();
        lease.prove(ago(2));
        lease.expect();
        assert!(lease.is_wanted());
    }
}

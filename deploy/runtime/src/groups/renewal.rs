//! What a process does when its certificates change: the clients that its groups share are made anew, then those of each group,
//! one group at a time. librdkafka reads a certificate once a client.
//!
//! A group is begun once the one before is at work again. So a certificate that no broker takes stops one group, and the others
//! go on with the connections that they have until there is a better one.
//! It never knows what a client is made from.

use std::{sync::Arc, time::Duration};

use headwater::spi::{Activity, Clock, GroupMetrics};
use tokio::sync::{mpsc, oneshot};

use super::supervisor::RenewalRequest;

/// How often it is looked whether certificates have changed, and whether a group is at work.
const LOOK: Duration = Duration::from_secs(1);
/// After this long it is said that a group is not at work again.
const SLOW: Duration = Duration::from_secs(60);

/// The clients that the groups of a process share.
pub(super) trait SharedClients: Send {
    /// Makes them anew where their certificates have changed; whether they have.
    ///
    /// # Errors
    /// Why what the certificates' files hold now is of no use; the clients from before stay.
    fn renew(&mut self) -> Result<bool, String>;
}

/// A group that can be started anew.
pub(super) struct RenewableGroup {
    pub(super) id: String,
    pub(super) state: Arc<GroupMetrics>,
    pub(super) renewals: mpsc::Sender<RenewalRequest>,
}

/// Follows the certificates for as long as it is let.
pub(super) async fn watch(clients: impl SharedClients, groups: Vec<RenewableGroup>, clock: Arc<dyn Clock>) {
    let mut watch = CertificateWatch { clients, clock: clock.clone(), refused: String::new() };
    loop {
        watch.changed().await;
        tracing::info!("kafka certificates changed: groups are drained and started anew one by one");
        loop {
            tokio::select! {
                () = renew_all(&groups, clock.as_ref()) => break,
                () = watch.changed() => {
                    tracing::info!("kafka certificates changed once more: every group is started anew with the new ones");
                }
            }
        }
        tracing::info!("the groups work with the new kafka certificates");
    }
}

struct CertificateWatch<C> {
    clients: C,
    clock: Arc<dyn Clock>,
    /// Why the files could not be used when they were looked at last.
    refused: String,
}

impl<C: SharedClients> CertificateWatch<C> {
    /// Resolves once the shared clients have been made anew. Dropped before, it has done nothing.
    async fn changed(&mut self) {
        loop {
            self.clock.sleep(LOOK).await;
            match self.clients.renew() {
                Ok(true) => return self.refused.clear(),
                Ok(false) => {}
                Err(why) if why == self.refused => {}
                Err(why) => {
                    tracing::warn!(
                        error = why,
                        "the files of the kafka certificates changed, and cannot be used as they are: what is in use stays, and they are looked at again"
                    );
                    self.refused = why;
                }
            }
        }
    }
}

async fn renew_all(groups: &[RenewableGroup], clock: &dyn Clock) {
    for group in groups {
        group.renew(clock).await;
    }
}

impl RenewableGroup {
    /// Has the group started anew, and waits until it is at work, where it was before: what one that has failed waits for may
    /// have nothing to do with certificates.
    async fn renew(&self, clock: &dyn Clock) {
        let waited_for = matches!(self.state.activity(), Activity::Working | Activity::Renewing);
        let (asked, begun) = oneshot::channel();
        // Where one request waits already, what is begun for it has the new clients.
        let _ = self.renewals.try_send(asked);
        if !waited_for {
            return;
        }
        // An error: the group failed over it, or has stopped.
        let _ = begun.await;
        let since = clock.elapsed();
        let mut said = false;
        while !self.is_done() {
            clock.sleep(LOOK).await;
            if !said && clock.elapsed().saturating_sub(since) >= SLOW {
                said = true;
                tracing::warn!(
                    group = self.id,
                    "the group is not at work with the new kafka certificates yet: the other groups keep the old ones until it is"
                );
            }
        }
    }

    /// Whether it is at work again, or nothing but a person brings it there.
    fn is_done(&self) -> bool {
        self.state.is_at_work() || self.state.activity() == Activity::Halted || self.renewals.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use headwater::{
        Time,
        spi::{AfterFailure, BoxFuture, Down},
    };
    use tokio::task::JoinSet;

    use super::*;

    /// Whose sleeps are over once the others have had their turn.
    struct Impatient;

    impl Clock for Impatient {
        fn now(&self) -> Time {
            Time::from_millis(0)
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
            Box::pin(tokio::task::yield_now())
        }
    }

    /// What each look at the files finds; nothing new where nothing is written here.
    #[derive(Clone, Default)]
    struct Looks(Arc<Mutex<VecDeque<Result<bool, String>>>>);

    impl Looks {
        fn find(&self, found: impl IntoIterator<Item = Result<bool, String>>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
    }

    impl SharedClients for Looks {
        fn renew(&mut self) -> Result<bool, String> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Ok(false))
        }
    }

    /// A group as its supervisor has it, which the test plays.
    struct Group {
        state: Arc<GroupMetrics>,
        requests: mpsc::Receiver<RenewalRequest>,
    }

    impl Group {
        async fn is_asked(&mut self) -> bool {
            for _ in 0..1_000 {
                if let Ok(asked) = self.requests.try_recv() {
                    self.state.set_renewing();
                    let _ = asked.send(());
                    return true;
                }
                tokio::task::yield_now().await;
            }
            false
        }
    }

    /// Groups at work, whose certificates are followed as long as the set lives.
    fn watched<const N: usize>() -> ([Group; N], Looks, JoinSet<()>) {
        let (mut groups, looks, mut task) = (Vec::new(), Looks::default(), JoinSet::new());
        let played = std::array::from_fn(|n| {
            let ((renewals, requests), state) = (mpsc::channel(1), Arc::new(GroupMetrics::default()));
            state.joined();
            groups.push(RenewableGroup { id: n.to_string(), state: state.clone(), renewals });
            Group { state, requests }
        });
        task.spawn(watch(looks.clone(), groups, Arc::new(Impatient)));
        (played, looks, task)
    }

    /// Red when a group is asked for nothing, before the one before it is at work again, or twice; or when the last one is not.
    #[tokio::test]
    async fn groups_are_made_anew_one_after_the_other() {
        let ([mut first, mut second], looks, _task) = watched();
        assert!(!first.is_asked().await && !second.is_asked().await);
        looks.find([Ok(false), Ok(true)]);
        assert!(first.is_asked().await && !second.is_asked().await);
        first.state.joined();
        assert!(second.is_asked().await && !first.is_asked().await);
        second.state.joined();
        assert!(!first.is_asked().await && !second.is_asked().await);
    }

    /// Red when groups are made anew from files that are of no use, or not any more once they are.
    #[tokio::test]
    async fn what_cannot_be_used_is_looked_at_again() {
        let ([mut group], looks, _task) = watched();
        looks.find([Err("half written".to_owned()), Err("half written".to_owned())]);
        assert!(!group.is_asked().await);
        looks.find([Ok(true)]);
        assert!(group.is_asked().await);
    }

    /// A certificate that no broker takes keeps the first group from its work. Red when a better one has to wait for that group, the
    /// others have the bad one meanwhile, or one that was made anew is not again.
    #[tokio::test]
    async fn certificates_that_change_once_more_begin_with_the_first_group() {
        let ([mut first, mut second], looks, _task) = watched();
        looks.find([Ok(true)]);
        assert!(first.is_asked().await && !second.is_asked().await);
        looks.find([Ok(true)]);
        assert!(first.is_asked().await && !second.is_asked().await);
        first.state.joined();
        assert!(second.is_asked().await);
    }

    /// Red when the others wait for a group that had failed before, or it is not asked: it may be on its way with the old clients.
    #[tokio::test]
    async fn a_group_that_had_failed_holds_up_nobody() {
        let ([mut failed, mut other], looks, _task) = watched();
        let down = Down { why: "no schema".to_owned(), since: Time::from_millis(0), next: AfterFailure::Now };
        failed.state.set_down(down);
        looks.find([Ok(true)]);
        assert!(other.is_asked().await && failed.requests.try_recv().is_ok());
    }
}

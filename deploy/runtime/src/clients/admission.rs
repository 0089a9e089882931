//! Whether the servers let a new process in. Who is refused by one that has never let it in ends: only a person can mend that.
//!
//! A server that does not answer is an outage, however long, and so is one that refuses what it has taken before: then the
//! groups wait, and say why.

use std::{future::pending, time::Duration};

use headwater::spi::Clock;
use headwater_connectors::{kafka::KafkaError, registry::RegistryError};

use super::Clients;

/// Between two questions to a server that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What a server says to our credentials. Each kind of server's errors say which of the three they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has let us in.
    Granted,
    /// It does not let us in, or we do not trust it; in a sentence that names the server and what to change.
    Denied(String),
    /// It does not answer now.
    Unknown,
}

impl From<Result<(), KafkaError>> for Admission {
    fn from(answer: Result<(), KafkaError>) -> Self {
        match answer {
            Err(KafkaError::Credentials(why)) => Self::Denied(why),
            Err(KafkaError::Outage(_)) => Self::Unknown,
            // Whatever else it refuses, it has let us in.
            Ok(()) | Err(KafkaError::Refused(_) | KafkaError::Config(_)) => Self::Granted,
        }
    }
}

impl From<Result<(), RegistryError>> for Admission {
    fn from(answer: Result<(), RegistryError>) -> Self {
        match answer {
            Ok(()) => Self::Granted,
            Err(RegistryError::Credentials(why)) => Self::Denied(why),
            Err(RegistryError::Outage(_)) => Self::Unknown,
        }
    }
}

/// Resolves with the reason once a server refuses us that has never let us in.
pub(crate) async fn denied(clients: &Clients) -> String {
    tokio::select! {
        why = refusal_of(&*clients.clock, async || clients.cluster.reach().await.into()) => why,
        why = refusal_of(&*clients.clock, async || clients.registry.reach().await.into()) => why,
    }
}

/// Asks one server until it has let us in, and never comes back then.
async fn refusal_of(clock: &dyn Clock, ask: impl AsyncFn() -> Admission) -> String {
    loop {
        match ask().await {
            Admission::Granted => return pending().await,
            Admission::Denied(why) => return why,
            Admission::Unknown => clock.sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use futures_util::FutureExt as _;
    use headwater::{Time, spi::BoxFuture};

    use super::*;

    /// Passes at once.
    struct HastyClock;

    impl Clock for HastyClock {
        fn now(&self) -> Time {
            Time::from_millis(0)
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    /// What comes of a server that answers so, and then not at all.
    fn outcome(answers: impl IntoIterator<Item = Admission>) -> Option<String> {
        let answers = RefCell::new(VecDeque::from_iter(answers));
        let ask = async || {
            let next = answers.borrow_mut().pop_front();
            match next {
                Some(answer) => answer,
                None => pending().await,
            }
        };
        refusal_of(&HastyClock, ask).now_or_never()
    }

    /// Red when a server that does not answer ends the process, a refusal behind it does not, or one does that comes after the
    /// server has let us in.
    #[test]
    fn only_who_was_never_let_in_ends() {
        let denied = || Admission::Denied("wrong password".to_owned());
        assert_eq!(outcome([Admission::Unknown, Admission::Unknown]), None);
        assert_eq!(outcome([denied()]).as_deref(), Some("wrong password"));
        assert_eq!(outcome([Admission::Unknown, denied()]).as_deref(), Some("wrong password"));
        assert_eq!(outcome([Admission::Unknown, Admission::Granted, denied()]), None);
    }
}

//! The way from the engine to the polling thread.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater::spi::Control;

/// What the engine asks, in order, until the polling thread takes it, which it does many times a second.
/// Commits, the one frequent thing, are merged; of the rest there are a few per assigned partition.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Commands>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Commands {
    asked: VecDeque<Control>,
    opened: bool,
    abandoned: bool,
    woken: bool,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Commands> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn post(&self, control: Control) {
        let mut letters = self.letters();
        match (letters.asked.back_mut(), control) {
            (Some(Control::Commit(before)), Control::Commit(positions)) => merge(before, positions),
            (_, control) => letters.asked.push_back(control),
        }
        self.changed.notify_one();
    }

    /// Somebody listens from now on.
    pub(crate) fn open(&self) {
        self.letters().opened = true;
        self.changed.notify_one();
    }

    /// Waits until somebody listens, or nobody ever will.
    pub(crate) fn opened(&self) {
        let waits = |letters: &mut Commands| !letters.opened && !letters.abandoned;
        drop(self.changed.wait_while(self.letters(), waits).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wake(&self) {
        self.letters().woken = true;
        self.changed.notify_one();
    }

    pub(crate) fn abandon(&self) {
        self.letters().abandoned = true;
        self.changed.notify_one();
    }

    /// The next thing asked, if any.
    pub(crate) fn take(&self) -> Option<Control> {
        self.letters().asked.pop_front()
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.letters().abandoned
    }

    /// Waits until something is asked, the engine has taken a batch, or the time is over.
    pub(crate) fn wait(&self, timeout: Duration) {
        let letters = self.letters();
        let quiet = |letters: &mut Commands| letters.asked.is_empty() && !letters.abandoned && !letters.woken;
        let (mut letters, _) =
            self.changed.wait_timeout_while(letters, timeout, quiet).unwrap_or_else(PoisonError::into_inner);
        letters.woken = false;
    }
}

/// Later positions replace earlier ones of the same partition.
fn merge(before: &mut Vec<headwater::spi::Position>, later: Vec<headwater::spi::Position>) {
    for position in later {
        match before.iter_mut().find(|known| known.partition == position.partition) {
            Some(known) => known.next = position.next,
            None => before.push(position),
        }
    }
}

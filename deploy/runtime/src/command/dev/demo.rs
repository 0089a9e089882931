//! What `dev --demo` shows of a program.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use crate::{app::App, clients::Clients};

/// Something to show of a program: sample events, and what became of them.
pub trait Demo: 'static {
    /// Settings that hold while it is shown, by path, such as `("defaults.retry", "1s,2s")`.
    const SETTINGS: &'static [(&'static str, &'static str)];

    /// Shows it, on a local stack where every group is at work.
    ///
    /// # Errors
    /// When something does not become what it should.
    fn show(app: &App, clients: &Clients) -> impl Future<Output = Result<()>>;
}

/// A demo, whatever its type.
#[derive(Clone, Copy)]
pub(crate) struct AddedDemo {
    pub(super) settings: &'static [(&'static str, &'static str)],
    pub(super) show: for<'a> fn(&'a App, &'a Clients) -> LocalBoxFuture<'a, Result<()>>,
}

impl AddedDemo {
    pub(crate) fn of<D: Demo>() -> Self {
        Self { settings: D::SETTINGS, show: show::<D> }
    }
}

fn show<'a, D: Demo>(app: &'a App, clients: &'a Clients) -> LocalBoxFuture<'a, Result<()>> {
    Box::pin(D::show(app, clients))
}

//! Servers that ask who calls: what is shown to them, what they refuse, and how that is said.

mod acls;
mod diagnosis;
mod login;
mod rotation;
mod servers;
mod web;

use headwater_tests::secured::{SecuredStack, secured_stack};

/// The secured servers of this run.
fn secured() -> &'static SecuredStack {
    secured_stack(env!("CARGO_TARGET_TMPDIR"))
}

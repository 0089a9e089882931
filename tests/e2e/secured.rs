//! Servers that ask who calls, and deny what nobody was allowed.

mod rotation;

use headwater_tests::secured::{SecuredStack, secured_stack};

/// The secured stack of this run.
fn secured() -> &'static SecuredStack {
    secured_stack(env!("CARGO_TARGET_TMPDIR"))
}

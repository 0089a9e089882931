//! Why no spans can be sent.

/// Why no spans can be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OtlpError(pub(crate) String);

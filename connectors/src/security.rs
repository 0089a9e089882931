//! What every connector needs to trust and to be trusted: TLS, and files of certificates and secrets that change.
//!
//! It never knows whom it is for.

pub mod tls;
pub(crate) mod watched_files;

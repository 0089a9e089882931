//! The harness' own servers: each refuses who shows nothing or something wrong, and takes who shows the right thing. Without
//! that no other test of this folder says anything.

mod http;
mod kafka;
mod postgres;

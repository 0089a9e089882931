//! The product's pipelines, a folder each, and in each its processors, one file each, and the one list that registers them.
//!
//! What a warehouse, an order or a receipt means stays here. How events travel, are retried or committed is the
//! engine's business, and how a request reaches another service is behind its `Http` port: this crate knows no client.

pub mod orders;

/// The examples of the README and the pages are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/state.md")]
struct Pages;

//! Delivery

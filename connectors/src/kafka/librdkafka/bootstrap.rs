//! The first brokers of a client, told to it again.
//!
//! A broker that has just come back may answer that the cluster has no brokers. librdkafka 2.12 then drops all it knows, the
//! bootstrap servers among them, and never asks anybody again
//! (<https://github.com/confluentinc/librdkafka/issues/5301>).

use std::{
    ffi::CString,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    bindings::rd_kafka_brokers_add,
    client::{Client, ClientContext},
};

/// Between two times that a client is told. librdkafka keeps each list that it was ever told, a few dozen bytes.
const PAUSE: Duration = Duration::from_secs(5);

/// The bootstrap servers of one client.
pub(crate) struct Bootstrap {
    servers: CString,
    not_before: Mutex<Instant>,
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.to_string_lossy())
    }
}

impl Bootstrap {
    /// These, as `bootstrap.servers` has them.
    pub(crate) fn new(servers: &str) -> Self {
        // What has a NUL inside is no host, and the client was refused for it.
        Self { servers: CString::new(servers.trim()).unwrap_or_default(), not_before: Mutex::new(Instant::now()) }
    }

    /// For a client that reaches nobody. It keeps the brokers that it knows; too soon after the last time it does nothing.
    pub(crate) fn again<C: ClientContext>(&self, client: &Client<C>) {
        let now = Instant::now();
        {
            let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            if now < *not_before {
                return;
            }
            *not_before = now + PAUSE;
        }
        // SAFETY: the client outlives the call, which copies the list; that ends with a NUL.
        unsafe { rd_kafka_brokers_add(client.native_ptr(), self.servers.as_ptr()) };
    }
}

//! Clients that are alive, and what they log in with next: librdkafka asks for nothing, it takes what it was told last.

use std::{
    any::Any,
    collections::BTreeSet,
    ffi::{CString, c_char},
    ops::Deref,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rdkafka::{
    admin::AdminClient,
    bindings::{
        rd_kafka_error_destroy, rd_kafka_oauthbearer_set_token, rd_kafka_oauthbearer_set_token_failure,
        rd_kafka_sasl_set_credentials, rd_kafka_t,
    },
    client::ClientContext,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

/// What a client logs in with. It never prints.
pub(crate) enum ClientLogin {
    /// A name and a password.
    Password { user: CString, password: CString },
    /// A token.
    Token(BearerToken),
    /// Nothing, and why.
    Nothing(CString),
}

/// A token, as a client shows it.
pub(crate) struct BearerToken {
    pub(crate) value: CString,
    /// Milliseconds since the epoch.
    pub(crate) expires: i64,
    pub(crate) principal: CString,
    /// Names and values in turn.
    pub(crate) extensions: Vec<CString>,
}

impl BearerToken {
    /// # Safety
    /// The client is alive.
    unsafe fn set(&self, client: *mut rd_kafka_t) {
        let mut extensions: Vec<*const c_char> = self.extensions.iter().map(|text| text.as_ptr()).collect();
        let mut why: [c_char; 512] = [0; 512];
        // SAFETY: the client is alive by this function's own condition; everything else outlives the call, which copies it. The
        // reason, which may quote the token, stays here.
        unsafe {
            rd_kafka_oauthbearer_set_token(
                client,
                self.value.as_ptr(),
                self.expires,
                self.principal.as_ptr(),
                extensions.as_mut_ptr(),
                extensions.len(),
                why.as_mut_ptr(),
                why.len(),
            );
        }
    }
}

/// A client that is alive. Only made, and only told anything, here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LiveClient(NonNull<rd_kafka_t>);

// SAFETY: librdkafka's clients may be used from any thread, and from several at a time.
unsafe impl Send for LiveClient {}
// SAFETY: as above.
unsafe impl Sync for LiveClient {}

impl LiveClient {
    /// # Safety
    /// The client is alive.
    unsafe fn tell(self, login: &ClientLogin) {
        let client = self.0.as_ptr();
        // SAFETY: the client is alive by this function's own condition; each text ends with a NUL and is copied. An error is ours,
        // and destroyed once.
        unsafe {
            match login {
                ClientLogin::Password { user, password } => {
                    let error = rd_kafka_sasl_set_credentials(client, user.as_ptr(), password.as_ptr());
                    if !error.is_null() {
                        rd_kafka_error_destroy(error);
                    }
                }
                ClientLogin::Token(token) => token.set(client),
                ClientLogin::Nothing(why) => drop(rd_kafka_oauthbearer_set_token_failure(client, why.as_ptr())),
            }
        }
    }
}

/// Clients of one login.
#[derive(Default)]
pub(crate) struct LiveClients(Mutex<BTreeSet<LiveClient>>);

impl LiveClients {
    /// Takes a client among them, which is told this login at once. Who tells them is held for as long as it lives.
    pub(crate) fn add<T: OwnedClient>(
        self: &Arc<Self>,
        client: T,
        login: Option<&ClientLogin>,
        teller: Arc<dyn Any + Send + Sync>,
    ) -> ClientHandle<T> {
        let live = client.live();
        if let (Some(live), Some(login)) = (live, login) {
            // SAFETY: `client` owns it, and is alive.
            unsafe { live.tell(login) };
        }
        let entry = live.map(|live| {
            self.lock().insert(live);
            LiveEntry { clients: Arc::clone(self), live, _teller: teller }
        });
        ClientHandle { _entry: entry, client }
    }

    /// Tells all of them: their next connections log in with this.
    pub(crate) fn tell(&self, login: &ClientLogin) {
        let clients = self.lock();
        // SAFETY: what is in the set is alive: it leaves, which waits for this lock, before it is destroyed. No call waits for
        // anything.
        clients.iter().for_each(|client| unsafe { client.tell(login) });
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<LiveClient>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place among the living ones.
struct LiveEntry {
    clients: Arc<LiveClients>,
    live: LiveClient,
    _teller: Arc<dyn Any + Send + Sync>,
}

impl Drop for LiveEntry {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.live);
    }
}

/// A client that is told of new logins for as long as it lives. Whoever keeps or leaks it keeps both: what it derefs to cannot be
/// taken out.
pub(crate) struct ClientHandle<T> {
    // Dropped before the client is, as fields are in their order: one that librdkafka destroys is told nothing.
    _entry: Option<LiveEntry>,
    client: T,
}

impl<T> ClientHandle<T> {
    /// Of a client whose login does not change.
    pub(crate) fn fixed(client: T) -> Self {
        Self { _entry: None, client }
    }
}

impl<T> Deref for ClientHandle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

/// What owns a client of librdkafka, which is destroyed with it and not before.
pub(crate) trait OwnedClient {
    /// The client; `None` where there is none to tell.
    fn live(&self) -> Option<LiveClient>;
}

impl<C: ConsumerContext> OwnedClient for BaseConsumer<C> {
    fn live(&self) -> Option<LiveClient> {
        NonNull::new(self.client().native_ptr()).map(LiveClient)
    }
}

impl<C: ProducerContext + 'static> OwnedClient for ThreadedProducer<C> {
    fn live(&self) -> Option<LiveClient> {
        NonNull::new(self.client().native_ptr()).map(LiveClient)
    }
}

impl<C: ClientContext> OwnedClient for AdminClient<C> {
    fn live(&self) -> Option<LiveClient> {
        NonNull::new(self.inner().native_ptr()).map(LiveClient)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rdkafka::ClientConfig;

    use super::*;

    /// Notes how many clients were alive when it was destroyed. Nothing is told to it.
    struct Probe {
        clients: Arc<LiveClients>,
        alive: Arc<AtomicUsize>,
    }

    impl OwnedClient for Probe {
        fn live(&self) -> Option<LiveClient> {
            Some(LiveClient(NonNull::dangling()))
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            self.alive.store(self.clients.count(), Ordering::Relaxed);
        }
    }

    /// Red when a client is still among the living ones while it is destroyed: a login that changes then would be told to freed
    /// memory; or when the one who tells them goes before they do.
    #[test]
    fn a_client_leaves_before_it_is_destroyed() {
        let (clients, alive, teller) = (Arc::new(LiveClients::default()), Arc::new(AtomicUsize::new(9)), Arc::new(()));
        let probe = Probe { clients: clients.clone(), alive: alive.clone() };
        let handle = clients.add(probe, None, teller.clone());
        assert_eq!((clients.count(), Arc::strong_count(&teller)), (1, 2));
        drop(handle);
        assert_eq!((alive.load(Ordering::Relaxed), Arc::strong_count(&teller)), (0, 1));
    }

    /// Red when a real client is not found, or does not take what it is told: librdkafka itself looks at a token.
    #[test]
    fn clients_of_every_kind_are_told() {
        let clients = Arc::new(LiveClients::default());
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", "127.0.0.1:1").set("security.protocol", "sasl_plaintext");
        settings.set("sasl.mechanism", "OAUTHBEARER").set("group.id", "g");
        let text = |text: &str| CString::new(text).unwrap();
        let token = |expires| {
            let (value, principal) = (text("a.b.c"), text("app"));
            ClientLogin::Token(BearerToken { value, expires, principal, extensions: vec![text("a"), text("b")] })
        };
        let admin: AdminClient<_> = settings.create().unwrap();
        let producer: ThreadedProducer<_> = settings.create().unwrap();
        let consumer: BaseConsumer = settings.create().unwrap();
        let teller = || Arc::new(()) as Arc<dyn Any + Send + Sync>;
        let admin = clients.add(admin, Some(&token(0)), teller());
        let producer = clients.add(producer, None, teller());
        let consumer = clients.add(consumer, Some(&ClientLogin::Nothing(text("why"))), teller());
        assert_eq!(clients.count(), 3);
        clients.tell(&token(i64::MAX / 1_000));
        drop((admin, producer));
        assert_eq!(clients.count(), 1);
        drop(consumer);
        clients.tell(&token(i64::MAX / 1_000));
        assert_eq!(clients.count(), 0);
    }
}

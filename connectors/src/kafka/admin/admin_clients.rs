//! The client that asks the cluster, which is made anew when its certificates change: librdkafka reads them once a client.
//!
//! It never knows what is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::{ClientContext, admin::AdminClient, config::RDKafkaLogLevel, error::KafkaError as ClientError};

use crate::{
    kafka::{config::KafkaConfig, credentials, error::KafkaError, librdkafka::live_clients::ClientHandle, logs},
    security::watched_files::WatchedFiles,
};

/// The client, and what it was made from.
pub(crate) struct AdminClients {
    config: Arc<KafkaConfig>,
    certificates: WatchedFiles,
    current: Mutex<Arc<ClientHandle<AdminClient<Logs>>>>,
}

pub(crate) struct Logs;

impl ClientContext for Logs {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!(%error, reason, "the kafka admin client has trouble");
    }
}

impl AdminClients {
    pub(crate) fn new(config: Arc<KafkaConfig>) -> Result<Self, KafkaError> {
        // Before the client: what is written meanwhile counts as a change.
        let certificates = WatchedFiles::new(config.certificate_files());
        let current = Mutex::new(Arc::new(client(&config)?));
        Ok(Self { config, certificates, current })
    }

    /// The client as it is now; who has it goes on with it.
    pub(crate) fn current(&self) -> Arc<ClientHandle<AdminClient<Logs>>> {
        self.slot().clone()
    }

    /// Makes the client anew where its certificates changed; whether they did. A client is what shows that certificate and key
    /// belong together.
    pub(crate) fn renew(&self) -> Result<bool, KafkaError> {
        let Some(change) = self.certificates.changed() else { return Ok(false) };
        let renewed = Arc::new(client(&self.config)?);
        let before = std::mem::replace(&mut *self.slot(), renewed);
        self.certificates.take(change);
        // The last one to let go of it waits for its threads. Without one more it is dropped right here.
        let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(before));
        Ok(true)
    }

    fn slot(&self) -> MutexGuard<'_, Arc<ClientHandle<AdminClient<Logs>>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does not connect yet.
fn client(config: &KafkaConfig) -> Result<ClientHandle<AdminClient<Logs>>, KafkaError> {
    credentials::create(&config.admin()?, Logs).map_err(KafkaError::Config)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;
    use crate::security::watched_files::LOOK;

    fn config(dir: &Path) -> KafkaConfig {
        let file = |name: &str| dir.join(name).display().to_string();
        let properties = [
            ("security.protocol", "ssl".to_owned()),
            ("ssl.ca.location", file("cert")),
            ("ssl.certificate.location", file("cert")),
            ("ssl.key.location", file("key")),
        ];
        let properties = BTreeMap::from(properties.map(|(name, value)| (name.to_owned(), value)));
        KafkaConfig { bootstrap: "127.0.0.1:1".to_owned(), properties, ..KafkaConfig::default() }
    }

    /// A new certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["headwater".to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// A certificate whose key is not written yet is left alone. Red when the client of before stays where both have changed:
    /// `renew` makes another one and does not put it in its place.
    #[test]
    fn a_client_is_made_anew_once_certificate_and_key_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let (cert, key) = pair();
        write("cert", &cert);
        write("key", &key);
        let clients = AdminClients::new(Arc::new(config(dir.path()))).unwrap();
        let renew = || {
            std::thread::sleep(LOOK);
            let before = clients.current();
            let renewed = clients.renew().map_err(|error| error.to_string());
            (renewed, !Arc::ptr_eq(&before, &clients.current()))
        };
        assert_eq!(renew(), (Ok(false), false));
        let (cert, key) = pair();
        write("cert", &cert);
        let (refused, is_another) = renew();
        assert!(refused.is_err() && !is_another, "{refused:?}");
        write("key", &key);
        assert_eq!(renew(), (Ok(true), true));
        assert_eq!(renew(), (Ok(false), false));
    }
}

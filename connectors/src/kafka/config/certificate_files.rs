//! The files of certificates and keys that a client is made from, which librdkafka reads once.
//!
//! It never knows what they hold.

use std::{collections::BTreeMap, path::PathBuf};

use super::security::KafkaTls;

/// The librdkafka properties that name one.
const PROPERTIES: [&str; 5] =
    ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.crl.location", "ssl.keystore.location"];

/// Those that the section names, and those that properties do.
pub(super) fn of(tls: Option<&KafkaTls>, properties: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let section = tls.into_iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key, &tls.key_password_file]);
    let named = PROPERTIES.into_iter().filter_map(|name| properties.get(name));
    section.flatten().cloned().chain(named.map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a file of the section is left out, the one with the key's password among them, or one that a property names.
    #[test]
    fn every_file_that_a_client_is_made_from_is_named() {
        let tls = KafkaTls {
            ca: Some("ca".into()),
            cert: Some("cert".into()),
            key: Some("key".into()),
            key_password_file: Some("password".into()),
            ..KafkaTls::default()
        };
        let none = BTreeMap::new();
        assert_eq!(of(Some(&tls), &none), ["ca", "cert", "key", "password"].map(PathBuf::from));
        assert_eq!((of(Some(&KafkaTls::default()), &none), of(None, &none)), (Vec::new(), Vec::new()));
        let properties = [("ssl.ca.location", "roots"), ("linger.ms", "5")];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(of(None, &properties), [PathBuf::from("roots")]);
    }
}

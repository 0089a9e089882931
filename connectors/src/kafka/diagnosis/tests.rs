//! A broker's sentences, seen on servers of this process that speak TLS, or not, and answer as a broker does.

mod server;

use std::net::TcpListener;

use self::server::{Answers, Authority, TestServer};
use super::*;
use crate::kafka::config::security::KafkaTls;

fn config(bootstrap: &str, tls: Option<KafkaTls>, mechanism: Option<&str>) -> KafkaConfig {
    let sasl =
        mechanism.map(|mechanism| format!(r#"{{"mechanism":"{mechanism}","username":"app","password":"secret"}}"#));
    let sasl = sasl.map(|sasl| serde_json::from_str(&sasl).unwrap());
    KafkaConfig { bootstrap: bootstrap.to_owned(), tls, sasl, ..KafkaConfig::default() }
}

/// What is found to be wrong, after `kafka broker ADDRESS`; empty where nothing is.
fn denied(server: &TestServer, tls: Option<KafkaTls>, mechanism: Option<&str>) -> String {
    let Some(found) = diagnose(&config(server.address(), tls, mechanism), "") else { return String::new() };
    assert!(found.is_denial, "{found:?}");
    let prefix = format!("kafka broker {}", server.address());
    found.text.strip_prefix(&prefix).unwrap_or_else(|| panic!("{found:?}")).to_owned()
}

/// Red when a certificate for another name passes or its name is not said (`NotValidForName` counted as fine), or a name counts
/// although it is not to.
#[test]
fn a_certificate_for_another_name_is_told() {
    let authority = Authority::new("ours");
    let server = TestServer::tls(authority.server("other.example"), None, Answers::NoLogin);
    let said = denied(&server, Some(authority.trusted()), None);
    assert_eq!(said, ": the certificate is for \"other.example\", not \"localhost\"");
    let any = KafkaTls { verify_host: false, ..authority.trusted() };
    assert_eq!(denied(&server, Some(any), None), "");
    let right = TestServer::tls(authority.server("localhost"), None, Answers::NoLogin);
    assert_eq!(denied(&right, Some(authority.trusted()), None), "");
}

/// Red when a certificate that is over, or of somebody whom we do not trust, is taken for one with another fault.
#[test]
fn a_certificate_that_is_not_to_be_trusted_is_told() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let expired = TestServer::tls(ours.expired("localhost"), None, Answers::NoLogin);
    assert_eq!(denied(&expired, Some(ours.trusted()), None), ": the certificate has expired");
    let stranger = TestServer::tls(others.server("localhost"), None, Answers::NoLogin);
    let sentence = ": no authority that we trust has signed the certificate: set ca";
    assert_eq!(denied(&stranger, Some(ours.trusted()), None), sentence);
    let namesake = TestServer::tls(Authority::new("ours").server("localhost"), None, Answers::NoLogin);
    assert_eq!(denied(&namesake, Some(ours.trusted()), None), sentence);
}

/// Red when what a server has against our certificate is not waited for: in TLS 1.3 it says so after the handshake.
#[test]
fn a_client_certificate_that_is_missing_or_not_trusted_is_told() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let server = TestServer::tls(ours.server("localhost"), Some(&ours), Answers::NoLogin);
    let without = denied(&server, Some(ours.trusted()), None);
    assert_eq!(without, ": it wants a client certificate: set cert and key");
    let wrong = denied(&server, Some(others.client(&ours)), None);
    let sentence = ": it does not accept our client certificate: set a cert and key that its authority has signed";
    assert_eq!(wrong, sentence);
    let expired = denied(&server, Some(ours.expired_client()), None);
    assert_eq!(expired, ": our client certificate has expired: renew cert and key");
    // As Java's servers do: they do not say why.
    let distrusting = TestServer::tls(ours.server("localhost"), Some(&others), Answers::NoLogin);
    let expired = denied(&distrusting, Some(ours.expired_client()), None);
    assert_eq!(expired, ": our client certificate has expired: renew cert and key");
    assert_eq!(denied(&server, Some(ours.client(&ours)), None), "");
}

/// Red when a listener of the other kind counts as one that is down.
#[test]
fn a_listener_of_the_other_kind_is_told() {
    let authority = Authority::new("ours");
    let encrypted = TestServer::tls(authority.server("localhost"), None, Answers::NoLogin);
    assert_eq!(denied(&encrypted, None, None), " speaks TLS: add [kafka.tls]");
    let plain = TestServer::plain(Answers::NoLogin);
    let said = denied(&plain, Some(authority.trusted()), None);
    assert_eq!(said, " does not speak TLS: remove [kafka.tls], or name the port of its TLS listener");
    assert_eq!(denied(&plain, None, None), "");
}

/// Red when it is not told which logins a listener takes.
#[test]
fn a_login_that_a_listener_does_not_take_is_told() {
    let scram = TestServer::plain(Answers::Logins(&["SCRAM-SHA-512", "OAUTHBEARER"]));
    let said = denied(&scram, None, None);
    assert_eq!(said, " wants a login: add [kafka.sasl] with SCRAM-SHA-512 or OAUTHBEARER");
    let said = denied(&scram, None, Some("PLAIN"));
    assert_eq!(said, ": it does not take PLAIN, only SCRAM-SHA-512, OAUTHBEARER");
    let open = TestServer::plain(Answers::NoLogin);
    let said = denied(&open, None, Some("PLAIN"));
    assert_eq!(said, " takes no login: remove [kafka.sasl], or name the port of its SASL listener");
}

/// Red when a server that is away, or is no broker, is a matter of credentials: a process would end for it.
#[test]
fn a_broker_that_is_away_is_an_outage() {
    let authority = Authority::new("ours");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for tls in [None, Some(authority.trusted())] {
        let found = diagnose(&config(&free, tls, None), "").unwrap();
        let refused = format!("kafka broker {free}: Connection refused");
        assert!(found.text.starts_with(&refused) && !found.is_denial, "{found:?}");
    }
    let silent = TestServer::plain(Answers::Nothing);
    for tls in [None, Some(authority.trusted())] {
        let found = diagnose(&config(silent.address(), tls, None), "").unwrap();
        let closed = format!("kafka broker {}: it closes the connection", silent.address());
        assert_eq!(found, Diagnosis { text: closed, is_denial: false });
    }
}

/// Red when one wrong address among the brokers keeps out who can come in by another, or a broker that librdkafka names is not
/// asked: the cluster may send clients to another address than the one that they began with.
#[test]
fn one_broker_is_enough_but_for_the_one_that_is_named() {
    let authority = Authority::new("ours");
    let right = TestServer::tls(authority.server("localhost"), None, Answers::NoLogin);
    let wrong = TestServer::tls(authority.server("other.example"), None, Answers::NoLogin);
    let both = format!("{},{}", wrong.address(), right.address());
    assert_eq!(diagnose(&config(&both, Some(authority.trusted()), None), ""), None);
    let reason = format!("ssl://{}/2: SSL handshake failed", wrong.address());
    let found = diagnose(&config(right.address(), Some(authority.trusted()), None), &reason).unwrap();
    assert!(found.is_denial && found.text.contains("\"other.example\""), "{found:?}");
}

/// Red when each who wants to know asks the brokers anew.
#[test]
fn what_was_found_holds_for_a_moment() {
    let authority = Authority::new("ours");
    let wrong = TestServer::tls(authority.server("other.example"), None, Answers::NoLogin);
    let diagnoses = Diagnoses::new(Arc::new(config(wrong.address(), Some(authority.trusted()), None)));
    let first = diagnoses.now();
    let asked = wrong.connections();
    assert!(first.is_some() && asked > 0, "{first:?}");
    assert_eq!((diagnoses.now(), wrong.connections()), (first, asked));
}

//! What librdkafka's texts tell: of which broker they are, and that it has refused a login.

use super::Diagnosis;
use crate::kafka::config::{
    KafkaConfig,
    security::{KafkaSasl, SaslMechanism},
};

/// What brokers of several makers say of a login that is wrong.
const REFUSALS: [&str; 6] =
    ["credential", "password", "authentication failed", "invalid_token", "invalid_request", "unauthorized"];

/// The broker, `host:port`, that a text begins with: `sasl_ssl://b1:9093/bootstrap: …`, `GroupCoordinator: b1:9093: …`.
pub(super) fn broker(reason: &str) -> Option<&str> {
    reason.split(": ").take(2).find_map(|part| {
        let part = part.split_once("://").map_or(part, |(_, rest)| rest);
        let address = part.split_once('/').map_or(part, |(address, _)| address);
        let (host, port) = address.rsplit_once(':')?;
        let is_one = !host.is_empty() && !host.contains(' ') && port.parse::<u16>().is_ok();
        is_one.then_some(address)
    })
}

/// A broker has refused our login, as the text says.
pub(crate) fn refused_login(config: &KafkaConfig, reason: &str) -> Option<Diagnosis> {
    let problem = problem(config.sasl.as_ref()?, reason)?;
    let broker = broker(reason).unwrap_or(&config.bootstrap);
    Some(Diagnosis::denial(format!("kafka broker {broker}: {problem}")))
}

fn problem(sasl: &KafkaSasl, reason: &str) -> Option<String> {
    let mechanism = sasl.mechanism.name();
    if let Some((_, taken)) = reason.split_once("broker's supported mechanisms: ") {
        let taken = taken.split_once(" (after").map_or(taken, |(taken, _)| taken);
        return Some(format!("it does not take {mechanism}, only {}", taken.replace(',', ", ")));
    }
    let (_, said) = reason.split_once("SASL authentication error: ")?;
    let lower = said.to_lowercase();
    if !REFUSALS.iter().any(|refusal| lower.contains(refusal)) {
        return None;
    }
    Some(match sasl.mechanism {
        SaslMechanism::OauthBearer => {
            let client = sasl.client_id.as_deref().unwrap_or_default();
            format!("it does not accept the token of client \"{client}\" ({mechanism})")
        }
        _ => {
            let user = sasl.username.as_deref().unwrap_or_default();
            format!("wrong password or unknown user \"{user}\" ({mechanism})")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mechanism: &str, reason: &str) -> Option<String> {
        let sasl =
            format!(r#"{{"mechanism":"{mechanism}","username":"app","password":"secret","client_id":"orders"}}"#);
        let config = KafkaConfig { sasl: serde_json::from_str(&sasl).unwrap(), ..KafkaConfig::default() };
        let found = refused_login(&config, reason)?;
        assert!(found.is_denial);
        Some(found.text)
    }

    /// Red when librdkafka's own words reach a person, or a broker that is not reached counts as one that refuses.
    #[test]
    fn a_refused_login_is_told_from_other_trouble() {
        let wrong = "sasl_ssl://b1:9093/bootstrap: SASL authentication error: Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after 12ms in state AUTH_REQ)";
        let sentence = "kafka broker b1:9093: wrong password or unknown user \"app\" (SCRAM-SHA-512)";
        assert_eq!(told("SCRAM-SHA-512", wrong).as_deref(), Some(sentence));
        let wrong = "sasl_ssl://b1:9093/1: SASL authentication error: Authentication failed: Invalid username or password (after 5ms in state AUTH_REQ)";
        let sentence = "kafka broker b1:9093: wrong password or unknown user \"app\" (PLAIN)";
        assert_eq!(told("PLAIN", wrong).as_deref(), Some(sentence));
        let other = "sasl_ssl://b1:9093/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512,OAUTHBEARER (after 2ms in state AUTH_HANDSHAKE)";
        let sentence = "kafka broker b1:9093: it does not take PLAIN, only SCRAM-SHA-512, OAUTHBEARER";
        assert_eq!(told("PLAIN", other).as_deref(), Some(sentence));
        let token = "sasl_ssl://b1:9093/bootstrap: SASL authentication error: {\"status\":\"invalid_token\"} (after 3ms in state AUTH_REQ)";
        let sentence = "kafka broker b1:9093: it does not accept the token of client \"orders\" (OAUTHBEARER)";
        assert_eq!(told("OAUTHBEARER", token).as_deref(), Some(sentence));
        let gone = "sasl_ssl://b1:9093/bootstrap: SASL authentication error: SaslAuthenticateRequest failed: Local: Broker transport failure";
        assert_eq!(told("PLAIN", gone), None);
        assert_eq!(told("PLAIN", "1/1 brokers are down"), None);
    }

    /// Red when a broker's name is not found where librdkafka writes it, or something else is taken for one.
    #[test]
    fn the_broker_is_the_one_that_the_text_names() {
        assert_eq!(broker("sasl_ssl://b1:9093/bootstrap: SSL handshake failed"), Some("b1:9093"));
        assert_eq!(broker("127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed"), Some("127.0.0.1:9092"));
        assert_eq!(broker("GroupCoordinator: b2:9094: Disconnected"), Some("b2:9094"));
        assert_eq!(broker("ssl://[::1]:9093/2: Disconnected"), Some("[::1]:9093"));
        assert_eq!(broker("1/1 brokers are down"), None);
        assert_eq!(broker(""), None);
    }
}

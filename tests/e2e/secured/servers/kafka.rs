//! The broker.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use headwater_connectors::kafka::{Cluster, KafkaConfig, TopicSpec};
use headwater_tests::{
    eventually, patience,
    secured::{Acl, Authority, Certificate, KafkaLogin, PASSWORD, STRANGER, SecuredStack, TokenSigner, USER},
};
use rdkafka::{
    ClientConfig, ClientContext,
    client::OAuthToken,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::secured::secured;

const SOON: Duration = Duration::from_secs(20);

/// What a client was told, and the token that it shows, if any.
#[derive(Default)]
struct Told {
    errors: Mutex<Vec<(KafkaError, String)>>,
    token: String,
}

impl ClientContext for Told {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).push((error, reason.to_owned()));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        // What the client believes of it, whatever stands in it.
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_hours(1);
        let lifetime_ms = i64::try_from(expires.as_millis())?;
        Ok(OAuthToken { token: self.token.clone(), principal_name: USER.to_owned(), lifetime_ms })
    }
}

impl ConsumerContext for Told {}

/// What the broker says first to a client with these settings: `Ok` when it lets it in, else the first error.
async fn answer(config: ClientConfig, token: String) -> Result<(), (RDKafkaErrorCode, String)> {
    let ask = move || {
        let told = Told { token, ..Told::default() };
        let client: BaseConsumer<Told> = config.create_with_context(told).expect("valid settings");
        let begin = Instant::now();
        loop {
            // Serves the callbacks.
            let _ = client.poll(Duration::from_millis(50));
            if client.fetch_metadata(Some("no-such-topic"), Duration::from_millis(500)).is_ok() {
                return Ok(());
            }
            let told = client.context().errors.lock().unwrap_or_else(PoisonError::into_inner);
            // A client that connects before it has asked us for the token says so.
            if let Some((error, reason)) = told.iter().find(|(_, reason)| !reason.contains("no token available")) {
                return Err((error.rdkafka_error_code().expect("a code"), reason.clone()));
            }
            assert!(begin.elapsed() < patience(SOON), "the broker says nothing");
        }
    };
    tokio::task::spawn_blocking(ask).await.expect("asked")
}

fn login(stack: &SecuredStack, protocol: &str, login: KafkaLogin) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", stack.kafka_bootstrap(login))
        .set("group.id", "servers")
        .set("security.protocol", protocol)
        .set("ssl.ca.location", stack.authority.file().to_string_lossy());
    config
}

fn password(stack: &SecuredStack, mechanism: &str, user: &str, password: &str) -> ClientConfig {
    let mut config = login(stack, "sasl_ssl", KafkaLogin::Plain);
    config.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password);
    config
}

fn certificate(stack: &SecuredStack, shown: &Certificate) -> ClientConfig {
    let mut config = login(stack, "ssl", KafkaLogin::Certificate);
    config.set("ssl.certificate.location", shown.cert.to_string_lossy());
    config.set("ssl.key.location", shown.key.to_string_lossy());
    config
}

async fn by_token(stack: &SecuredStack, token: String) -> Result<(), (RDKafkaErrorCode, String)> {
    let mut config = login(stack, "sasl_ssl", KafkaLogin::OauthBearer);
    config.set("sasl.mechanism", "OAUTHBEARER");
    answer(config, token).await
}

async fn by(config: ClientConfig) -> Result<(), (RDKafkaErrorCode, String)> {
    answer(config, String::new()).await
}

/// The connectors' own client makes a topic, logged in with each mechanism, a token's too, and with a certificate.
/// Red when the harness tells another password than the broker's users have, or the principal of a certificate is its whole
/// subject, who is no super user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_takes_who_shows_the_right_thing() {
    let stack = secured();
    for login in KafkaLogin::ALL {
        let name = format!("servers_{login:?}").to_lowercase();
        let topic = TopicSpec { name: name.clone(), partitions: 1, replication: 1, config: Vec::new() };
        let cluster = Cluster::new(&stack.kafka(login)).expect("valid");
        cluster.apply(&[topic]).await.unwrap_or_else(|error| panic!("{login:?}: {error}"));
        let topics = cluster.topics().await.expect("the broker answers");
        assert!(topics.iter().any(|one| one.name == name), "{login:?}");
    }
}

/// Red when a login comes through that should not: the broker knows `nobody`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_a_wrong_password() {
    let stack = secured();
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        assert_eq!(by(password(stack, mechanism, USER, PASSWORD)).await, Ok(()), "{mechanism}");
        let (code, reason) = by(password(stack, mechanism, USER, "wrong")).await.expect_err(mechanism);
        assert_eq!(code, RDKafkaErrorCode::Authentication, "{mechanism}: {reason}");
        let (code, reason) = by(password(stack, mechanism, "nobody", PASSWORD)).await.expect_err(mechanism);
        assert_eq!(code, RDKafkaErrorCode::Authentication, "{mechanism}: {reason}");
    }
}

/// Red when the broker only asks for a certificate, and does not insist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_a_wrong_certificate() {
    let stack = secured();
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other");
    assert_eq!(by(certificate(stack, &stack.client)).await, Ok(()));
    by(login(stack, "ssl", KafkaLogin::Certificate)).await.expect_err("no certificate");
    by(certificate(stack, &other.client("foreign", USER))).await.expect_err("of another authority");
    by(certificate(stack, &stack.authority.expired_client("expired", USER))).await.expect_err("expired");
    let (code, _) = by(login(stack, "plaintext", KafkaLogin::Certificate)).await.expect_err("no TLS");
    assert_ne!(code, RDKafkaErrorCode::NoError);
}

/// Red when the broker takes a token that is for others, or, without an audience of its own, none at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_a_wrong_token() {
    let stack = secured();
    let hour = Duration::from_hours(1);
    assert_eq!(by_token(stack, stack.signer.token(USER, hour)).await, Ok(()));
    let foreign = TokenSigner::new().token(USER, hour);
    let elsewhere = stack.signer.token_for(USER, "elsewhere", hour);
    let expired = stack.signer.expired_token(USER);
    let signed = stack.signer.token(USER, hour);
    let unsigned = signed.rsplit_once('.').expect("three parts").0.to_owned() + ".";
    for (what, token) in [("foreign", foreign), ("elsewhere", elsewhere), ("expired", expired), ("unsigned", unsigned)]
    {
        let (code, reason) = by_token(stack, token).await.expect_err(what);
        assert_eq!(code, RDKafkaErrorCode::Authentication, "{what}: {reason}");
    }
}

/// A user's password is changed while the broker runs.
/// Red when one form of SCRAM keeps the old password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_takes_a_new_password_at_once() {
    let (stack, user) = (secured(), "servers_rotating");
    for (new, old) in [("one", "two"), ("two", "one")] {
        stack.broker_admin().set_password(user, new).await;
        for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256"] {
            assert_eq!(by(password(stack, mechanism, user, new)).await, Ok(()), "{mechanism}");
            let (code, reason) = by(password(stack, mechanism, user, old)).await.expect_err("the old one");
            assert_eq!(code, RDKafkaErrorCode::Authentication, "{reason}");
        }
    }
}

/// Red when what was allowed stays after it was taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_allows_what_acls_allow() {
    let (stack, user) = (secured(), "servers_reader");
    let admin = stack.broker_admin();
    admin.set_password(user, PASSWORD).await;
    let topic = TopicSpec { name: "servers_acls".to_owned(), partitions: 1, replication: 1, config: Vec::new() };
    Cluster::new(&stack.kafka(KafkaLogin::ScramSha512)).expect("valid").apply(&[topic]).await.expect("a topic");
    let sees = async |user: &str| {
        let mut config: KafkaConfig = stack.kafka(KafkaLogin::ScramSha512);
        config.sasl.as_mut().expect("a login").username = Some(user.to_owned());
        let topics = Cluster::new(&config).expect("valid").topics().await.expect("it may log in");
        topics.iter().any(|one| one.name == "servers_acls")
    };
    let acl = Acl {
        user: user.to_owned(),
        resource: "topic".to_owned(),
        name: "servers_".to_owned(),
        prefixed: true,
        operation: "describe".to_owned(),
    };
    assert!(!sees(STRANGER).await && !sees(user).await);
    admin.allow(&[acl]).await;
    // A broker answers before its authorizer has read what it wrote.
    let soon = Duration::from_mins(1);
    eventually("what is allowed holds", soon, async || sees(user).await).await;
    assert!(!sees(STRANGER).await);
    admin.forbid_all(user).await;
    eventually("what is forbidden holds", soon, async || !sees(user).await).await;
}

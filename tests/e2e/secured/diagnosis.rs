//! A wrong credential is named: at the start it ends every command with one sentence, later it is an outage with that reason.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use headwater_dev::{ServerSecurity, ServerUser, TokenValidation};
use headwater_tests::{
    Process, SharedStack, Space, eventually,
    secured::{
        AUDIENCE, Acl, Authority, BrokerAdmin, Certificate, ISSUER, Inner, KafkaLogin, PASSWORD, SecuredStack,
        TlsProxy, TokenServer, TokenSigner, USER,
    },
};

use crate::{
    PROGRAM,
    faults::outage::{own_stack, ready},
    secured::secured,
};

const SOON: Duration = Duration::from_mins(1);

/// Variables beside those of a space.
type Variables = Vec<(String, String)>;

fn variable(name: &str, value: impl AsRef<Path>) -> (String, String) {
    (format!("HEADWATER__KAFKA__{name}"), value.as_ref().display().to_string())
}

/// The variables of this way to be let in, one of them changed.
fn but(stack: &SecuredStack, login: KafkaLogin, name: &str, value: impl AsRef<Path>) -> Variables {
    let mut variables = stack.kafka_env(login);
    variables.push(variable(name, value));
    variables
}

fn borrowed(variables: &Variables) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Exit code and standard error of a command.
async fn ends(space: &Space, args: &[&str], variables: &Variables) -> (i32, String) {
    let (code, _, err) = Process::run(PROGRAM, space, args, &borrowed(variables), "").await;
    (code, err)
}

/// Everything that can be wrong with a way to Kafka, each with what a person reads after the broker's address.
#[allow(clippy::too_many_lines, reason = "a table")]
async fn wrong(
    (stack, tokens): (&SecuredStack, &TokenServer),
    folder: &Path,
    proxies: &[TlsProxy; 2],
) -> Vec<(Variables, String)> {
    let other = Authority::new(folder, "other");
    let file = |name: &str, text: &str| -> PathBuf {
        let file = folder.join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    let password = file("password", "wrong");
    let (scram, plain, mutual) = (KafkaLogin::ScramSha512, KafkaLogin::Plain, KafkaLogin::Certificate);
    let sasl = stack.kafka_bootstrap(scram).to_owned();
    let tls = stack.kafka_bootstrap(mutual).to_owned();
    let (open, strict) = (stack.stack.endpoints.kafka_bootstrap.clone(), stack.scram_bootstrap().to_owned());
    let with = |certificate: &Certificate| {
        let mut variables = but(stack, mutual, "TLS__CERT", &certificate.cert);
        variables.push(variable("TLS__KEY", &certificate.key));
        variables
    };
    let only = |pairs: &[(&str, &Path)]| pairs.iter().map(|(name, value)| variable(name, value)).collect::<Variables>();
    let ca = stack.authority.file();
    let [misnamed, expired] = proxies.each_ref().map(TlsProxy::address);
    let unknown = "no authority that we trust has signed the certificate: set ca";
    let foreign = "it does not accept our client certificate: set a cert and key that its authority has signed";
    let cases = [
        (but(stack, scram, "TLS__CA", other.file()), &sasl, format!(": {unknown}")),
        (
            but(stack, scram, "SASL__PASSWORD_FILE", &password),
            &sasl,
            format!(": wrong password or unknown user \"{USER}\" (SCRAM-SHA-512)"),
        ),
        (
            but(stack, plain, "SASL__PASSWORD_FILE", &password),
            &sasl,
            format!(": wrong password or unknown user \"{USER}\" (PLAIN)"),
        ),
        (
            but(stack, scram, "SASL__USERNAME", "nobody"),
            &sasl,
            ": wrong password or unknown user \"nobody\" (SCRAM-SHA-512)".to_owned(),
        ),
        (
            only(&[("BOOTSTRAP", sasl.as_ref()), ("TLS__CA", ca)]),
            &sasl,
            " wants a login: add [kafka.sasl] with ".to_owned(),
        ),
        (but(stack, plain, "BOOTSTRAP", &strict), &strict, ": it does not take PLAIN, only SCRAM-SHA-512".to_owned()),
        (
            but(stack, KafkaLogin::OauthBearer, "SASL__TOKEN_URL", tokens.url()),
            &sasl,
            format!(": it does not accept the token of client \"{USER}\" (OAUTHBEARER)"),
        ),
        (
            [stack.kafka_env(mutual), but(stack, scram, "BOOTSTRAP", &tls)].concat(),
            &tls,
            " takes no login: remove [kafka.sasl], or name the port of its SASL listener".to_owned(),
        ),
        (only(&[("BOOTSTRAP", sasl.as_ref())]), &sasl, " speaks TLS: add [kafka.tls]".to_owned()),
        (
            only(&[("BOOTSTRAP", open.as_ref()), ("TLS__CA", ca)]),
            &open,
            " does not speak TLS: remove [kafka.tls], or name the port of its TLS listener".to_owned(),
        ),
        (but(stack, scram, "BOOTSTRAP", &tls), &tls, ": it wants a client certificate: set cert and key".to_owned()),
        (
            only(&[("BOOTSTRAP", tls.as_ref()), ("TLS__CA", ca)]),
            &tls,
            ": it wants a client certificate: set cert and key".to_owned(),
        ),
        (with(&other.client("foreign", USER)), &tls, format!(": {foreign}")),
        (
            with(&stack.authority.expired_client("diagnosis-expired", USER)),
            &tls,
            ": our client certificate has expired: renew cert and key".to_owned(),
        ),
        (
            only(&[("BOOTSTRAP", misnamed.as_ref()), ("TLS__CA", ca)]),
            &misnamed,
            ": the certificate is for \"other.example\", not \"localhost\"".to_owned(),
        ),
        (
            only(&[("BOOTSTRAP", expired.as_ref()), ("TLS__CA", ca)]),
            &expired,
            ": the certificate has expired".to_owned(),
        ),
    ];
    cases
        .into_iter()
        .map(|(variables, broker, said)| (variables, format!("error: kafka broker {broker}{said}")))
        .collect()
}

/// Red when a wrong value has another sentence or none (a name that is not looked at, a client certificate whose end is not), a
/// command goes on after it, or ends otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_value_ends_a_command_with_its_sentence() {
    let (stack, folder) = (secured(), tempfile::tempdir().expect("a folder"));
    let space = Space::new(&stack.stack, "diagnosis").await;
    let open = &stack.stack.endpoints.kafka_bootstrap;
    let shown = [
        stack.authority.server("diagnosis-misnamed", &["other.example"]),
        stack.authority.expired_server("diagnosis-old", &["localhost"]),
    ];
    let proxies = [
        TlsProxy::before(Inner::Bytes, open, &shown[0], None).await,
        TlsProxy::before(Inner::Bytes, open, &shown[1], None).await,
    ];
    let tokens = TokenServer::start(stack.signer.clone(), USER, PASSWORD).await;
    tokens.set_audience("another");
    let mut failed = Vec::new();
    for (variables, sentence) in wrong((stack, &tokens), folder.path(), &proxies).await {
        let (code, err) = ends(&space, &["groups"], &variables).await;
        if code != 1 || !err.lines().any(|line| line.starts_with(&sentence)) {
            failed.push(format!("`{sentence}` expected, exit code {code}: {err}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Red when `run`, or another command that talks to Kafka, retries for ever what only a person can mend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_at_the_start_ends_every_command() {
    let (stack, folder) = (secured(), tempfile::tempdir().expect("a folder"));
    let space = Space::new(&stack.stack, "diagnosis_start").await;
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong").expect("written");
    let variables = but(stack, KafkaLogin::ScramSha512, "SASL__PASSWORD_FILE", &password);
    let broker = stack.kafka_bootstrap(KafkaLogin::ScramSha512);
    let sentence = format!("error: kafka broker {broker}: wrong password or unknown user \"{USER}\" (SCRAM-SHA-512)");
    for args in [
        &["run"][..],
        &["groups"],
        &["topology", "apply"],
        &["offsets", "show", "send-receipt"],
        &["produce", "payment.completed"],
        &["tail", "payment.completed"],
    ] {
        let (code, err) = ends(&space, args, &variables).await;
        assert!(code == 1 && err.lines().any(|line| line == sentence), "{args:?}, exit code {code}: {err}");
    }
}

/// Red when a producer's or a member's right that is lacking is not named with what it is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_lacking_is_named() {
    let (stack, user) = (secured(), "diagnosis_reader");
    let space = Space::new(&stack.stack, "diagnosis_rights").await;
    let (code, err) = ends(&space, &["topology", "apply"], &Variables::new()).await;
    assert_eq!(code, 0, "{err}");
    let admin = stack.broker_admin();
    admin.set_password(user, PASSWORD).await;
    let allow = async |resource: &str, operation: &str| {
        let (user, name) = (user.to_owned(), "*".to_owned());
        let (resource, operation) = (resource.to_owned(), operation.to_owned());
        admin.allow(&[Acl { user, resource, name, prefixed: false, operation }]).await;
    };
    allow("topic", "describe").await;
    let variables = but(stack, KafkaLogin::ScramSha512, "SASL__USERNAME", user);
    let produce = ["produce", "receipt.requested"];
    let line = r#"{"payment_id":"r1","order_id":"r1","email":"a@example.org"}"#;
    let (code, _, err) = Process::run(PROGRAM, &space, &produce, &borrowed(&variables), line).await;
    assert!(
        code == 1 && err.contains("no right to write to topic \"events.receipt\": grant Write on it"),
        "exit code {code}: {err}"
    );

    let mut process =
        Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &borrowed(&variables));
    let http = process.address().await;
    let says = async |sentence: &str| {
        eventually(&format!("/readyz says `{sentence}`"), SOON, async || {
            let (status, text) = ready(&http).await;
            status == 503 && text.contains(sentence)
        })
        .await;
    };
    says(&format!("no right to use group \"{}.send-receipt\": grant Read on it", space.name)).await;
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Red when a refusal of what was taken before ends the process, its reason is not said, or is said again and again; or a broker that
/// is down at the start ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_later_is_an_outage_with_its_reason() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join("diagnosis_later_secrets");
    let mut stack = own_stack("diagnosis_later", |config| config.security = Some(security(&folder))).await;
    let at = SharedStack::at(stack.endpoints().clone(), target.join("diagnosis_later"));
    let space = Space::new(&at, "diagnosis_later").await;
    let (code, err) = ends(&space, &["topology", "apply"], &Variables::new()).await;
    assert_eq!(code, 0, "{err}");
    let kafka = stack.kafka().expect("its own");
    let broker = kafka.sasl_bootstrap().expect("a secured broker");
    let variables = vec![
        variable("BOOTSTRAP", &broker),
        variable("TLS__CA", folder.join("authority.pem")),
        variable("SASL__MECHANISM", "SCRAM-SHA-512"),
        variable("SASL__USERNAME", USER),
        variable("SASL__PASSWORD", PASSWORD),
    ];
    kafka.kill().await.expect("killed");
    let mut process =
        Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &borrowed(&variables));
    let http = process.address().await;
    eventually("/readyz says that nobody is there", SOON, async || {
        ready(&http).await.1.contains(&format!("kafka broker {broker}: Connection refused"))
    })
    .await;
    kafka.start().await.expect("started");
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;

    let admin = BrokerAdmin::new(&stack.endpoints().kafka_bootstrap);
    admin.set_password(USER, "another").await;
    let kafka = stack.kafka().expect("its own");
    kafka.kill().await.expect("killed");
    kafka.start().await.expect("started");
    let sentence = format!("kafka broker {broker}: wrong password or unknown user \"{USER}\" (SCRAM-SHA-512)");
    eventually("/readyz says why", SOON, async || {
        let (status, text) = ready(&http).await;
        status == 503 && text.contains(&sentence)
    })
    .await;
    assert_eq!(process.ended(), None, "{}", process.log());
    admin.set_password(USER, PASSWORD).await;
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
    let said = process.log().matches("wrong password or unknown user").count();
    assert_eq!(said, 1, "{}", process.log());
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Servers that ask who calls, with one user.
fn security(folder: &Path) -> ServerSecurity {
    let authority = Authority::new(folder, "authority");
    let server = authority.server("server", &["localhost", "127.0.0.1"]);
    let keys = folder.join("keys.json");
    std::fs::write(&keys, TokenSigner::new().keys()).expect("written");
    ServerSecurity {
        ca: authority.file().to_owned(),
        cert: server.cert,
        key: server.key,
        users: vec![ServerUser { name: USER.to_owned(), password: PASSWORD.to_owned() }],
        certificate_users: Vec::new(),
        super_users: vec![USER.to_owned()],
        tokens: TokenValidation { keys, issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() },
    }
}

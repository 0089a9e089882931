//! The orders pipeline over servers that all ask who calls, and nothing said of the secrets by which they let it in.

use std::{fs, time::Duration};

use headwater_tests::{
    ForeignClient, Payments, Process, Space, eventually,
    secured::{Inner, KafkaLogin, PASSWORD, SecuredStack, TlsProxy, USER, basic},
};

use super::secured;
use crate::PROGRAM;

const SOON: Duration = Duration::from_mins(1);
/// Payments while a process has one way to its servers.
const ROUND: i64 = 1_000;
/// What every secret of these tests begins with.
const PLANTED: &str = "planted-";

/// The variables by which a process is let in everywhere: by Kafka and Postgres one way of several, by the registry with a
/// password, by the warehouse with a certificate.
fn env(stack: &SecuredStack, space: &Space, warehouse: &TlsProxy, login: KafkaLogin) -> Vec<(String, String)> {
    let mut env = stack.kafka_env(login);
    env.extend(match login {
        KafkaLogin::ScramSha512 => stack.pooler_env(&space.name),
        KafkaLogin::OauthBearer => {
            vec![("HEADWATER__POSTGRES__URL".to_owned(), stack.postgres_url_by_certificate(&space.name))]
        }
        _ => vec![("HEADWATER__POSTGRES__URL".to_owned(), stack.postgres_url(&space.name))],
    });
    env.extend(stack.registry_env());
    let own = [
        ("WAREHOUSE__URL", format!("https://{}", warehouse.address())),
        ("CLIENT__TLS__CA", stack.authority.file().display().to_string()),
        ("CLIENT__TLS__CERT", stack.client.cert.display().to_string()),
        ("CLIENT__TLS__KEY", stack.client.key.display().to_string()),
    ];
    env.extend(own.map(|(name, value)| (format!("HEADWATER__{name}"), value)));
    // Whatever the program and its libraries have to say.
    env.push(("HEADWATER_LOG".to_owned(), "debug".to_owned()));
    env
}

/// What a process or a command has said, searched for every form of the planted secrets.
#[track_caller]
fn tells_no_secret(what: &str, text: &str) {
    let encoded = basic(USER, PASSWORD);
    let encoded = encoded.trim_start_matches("Basic ");
    // A token's head is alike in all: the base64 of `{"alg":…`.
    for secret in [PLANTED, encoded, "eyJhbGci", "PRIVATE KEY"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what} tells `{secret}`");
    }
}

/// Three processes after one another, killed in the middle of their work, each let in another way: by SCRAM and through PgBouncer,
/// by a token and a client certificate, by certificate and password. State, rows and events are exact, and no secret is said, at
/// the most talkative level of the log, by `config show` or on `/metrics`.
/// Red when a client of the pipeline does not get one of these settings, `config show` prints an address with its password, or a
/// login is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_go_over_servers_that_ask_who_calls_and_no_secret_is_said() {
    let stack = secured();
    let space = Space::new(&stack.stack, "asked_everywhere").await;
    let warehouse = space.endpoints.warehouse_url.trim_start_matches("http://").to_owned();
    let warehouse = TlsProxy::before(Inner::Bytes, &warehouse, &stack.server, Some(stack.authority.file())).await;
    let topic = space.topic("payments");
    space.create_topics(&[&topic], 4).await;
    let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n");
    fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    let mut sent = 0;
    for login in [KafkaLogin::ScramSha512, KafkaLogin::OauthBearer, KafkaLogin::Certificate] {
        let env = env(stack, &space, &warehouse, login);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for args in [&["topology", "apply"][..], &["config", "show"], &["groups"]] {
            let (code, out, err) = Process::run(PROGRAM, &space, args, &env, "").await;
            assert_eq!(code, 0, "{login:?} {args:?}: {out}\n{err}");
            tells_no_secret(&format!("{args:?}"), &format!("{out}{err}"));
        }
        let mut process = Process::start(PROGRAM, &space, &format!("{login:?}"), &["run"], &env);
        let address = process.address().await;
        for page in ["metrics", "readyz", "v1/groups"] {
            let answer = reqwest::get(format!("{address}/{page}")).await.expect("it answers");
            tells_no_secret(page, &answer.text().await.expect("text"));
        }
        for n in sent..sent + ROUND {
            let value = payments.value_of("c-1", &format!("o-{n}"), 5, Some("a@example.org"));
            foreign.send(&topic, Some(&format!("o-{n}")), Some(&value), &[]);
        }
        foreign.flush();
        // It is killed amid the rest.
        stored(&space, "orders", sent + ROUND / 4).await;
        sent += ROUND;
        process.kill().await;
        tells_no_secret(&format!("the log of {login:?}"), &process.log());
    }
    let env = env(stack, &space, &warehouse, KafkaLogin::ScramSha512);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut process = Process::start(PROGRAM, &space, "last", &["run"], &env);
    // Those before it may have done everything: it is not stopped before it has begun.
    process.address().await;
    stored(&space, "orders", sent).await;
    stored(&space, "receipts", sent).await;
    let total =
        format!("customer_totals where customer_id = 'c-1' and payments = {sent} and total_cents = {}", 5 * sent);
    stored(&space, &total, 1).await;
    assert!(process.stop().await.success(), "{}", process.log());
    tells_no_secret("the last log", &process.log());
    assert!(warehouse.clients().iter().all(Option::is_some), "the warehouse is shown a certificate");
}

/// Waits until a table has so many rows.
async fn stored(space: &Space, table: &str, rows: i64) {
    let sql = format!("select count(*) from {table}");
    eventually(&format!("{rows} rows of {table}"), SOON, async || space.count(&sql).await >= rows).await;
}

//! What is spoken over HTTP: the registry, the warehouse that a processor asks, the trace back end; over TLS, with logins and
//! client certificates, by the whole program.

use std::{fs, path::Path, time::Duration};

use headwater_tests::{
    Otlp, Payments, Process, Space, eventually,
    secured::{Authority, Certificate, Https, Inner, TlsProxy, basic},
};

use crate::{PROGRAM, failure::retry::applied, shared};

const SOON: Duration = Duration::from_mins(1);
const MAIL: Option<&str> = Some("a@example.org");
/// Odd enough to be found wherever it leaks.
const PASSWORD: &str = "planted-3f8d-password";
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A file's path, for a variable.
fn shown(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What is put before the host of a base URL.
fn host(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// An authority of the test's own, whose files lie in the space's folder.
fn authority(space: &Space, name: &str) -> Authority {
    Authority::new(&space.dir.join("secrets"), name)
}

/// The payment becomes an order by a registry that wants a password, over two addresses of which one is down, and a warehouse that
/// wants a client certificate. Red when `[registry]` or `[client]` does not reach its client, or the password is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_becomes_an_order_by_servers_that_ask_who_calls() {
    let space = Space::new(shared(), "asked").await;
    let authority = authority(&space, "authority");
    let (server, client) = (authority.server("server", &NAMES), authority.client("client", "app"));
    let login = basic("app", PASSWORD);
    let registry = Https::before(&space.endpoints.schema_registry_url, &server, None, &[login.as_str()]).await;
    let warehouse = host(&space.endpoints.warehouse_url).to_owned();
    let warehouse = TlsProxy::before(Inner::Bytes, &warehouse, &server, Some(authority.file())).await;
    let password = space.dir.join("secrets/password");
    fs::write(&password, format!("{PASSWORD}\n")).expect("a file");
    let (urls, warehouse_url) =
        (format!("https://localhost:1,{}", registry.url()), format!("https://{}", warehouse.address()));
    let env = [
        ("HEADWATER__REGISTRY__URL", urls.as_str()),
        ("HEADWATER__REGISTRY__USER", "app"),
        ("HEADWATER__REGISTRY__PASSWORD_FILE", shown(&password)),
        ("HEADWATER__REGISTRY__TLS__CA", shown(authority.file())),
        ("HEADWATER__WAREHOUSE__URL", warehouse_url.as_str()),
        ("HEADWATER__CLIENT__TLS__CA", shown(authority.file())),
        ("HEADWATER__CLIENT__TLS__CERT", shown(&client.cert)),
        ("HEADWATER__CLIENT__TLS__KEY", shown(&client.key)),
    ];
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &env, "").await;
    assert_eq!(code, 0, "{out}{err}");
    let groups = ["run", "--group", "fulfil-order", "--group", "orders-sink"];
    let mut process = Process::start(PROGRAM, &space, "run", &groups, &env);
    foreign.send(&topic, Some("asked-1"), Some(&payments.value("asked-1", 1, MAIL)), &[]);
    foreign.flush();
    let count = "select count(*) from orders where order_id = 'asked-1'";
    eventually("the order is stored", SOON, async || space.count(count).await == 1).await;
    assert!(!registry.gate.requests("/schemas/ids/").is_empty(), "the registry was asked");
    assert!(warehouse.clients().iter().all(Option::is_some) && !warehouse.clients().is_empty());
    assert!(process.stop().await.success(), "{}", process.log());
    assert!(!process.log().contains(PASSWORD) && !process.log().contains(&login), "{}", process.log());
}

/// Red when a registry that does not let us in is asked for ever (its line left out of `admission::denied`), or the sentence says
/// less than what to change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_the_registry_does_not_let_in_ends_with_the_reason() {
    let space = Space::new(shared(), "not_let_in").await;
    let (ours, theirs) = (authority(&space, "ours"), authority(&space, "theirs"));
    let server = ours.server("server", &NAMES);
    let other = ours.server("other", &["other.example"]);
    let login = basic("app", PASSWORD);
    let url = &space.endpoints.schema_registry_url;
    let registry = Https::before(url, &server, None, &[login.as_str()]).await;
    let misnamed = Https::before(url, &other, None, &[login.as_str()]).await;
    let wrong = "planted-77aa-wrong";
    let unknown = "no authority that we trust has signed the certificate: set ca";
    let misnamed_sentence = "the certificate is for \"other.example\", not \"localhost\"";
    for (at, ca, password, sentence) in [
        (&registry, &ours, wrong, "it does not accept user \"app\": check registry.user and its password"),
        (&registry, &theirs, PASSWORD, unknown),
        (&misnamed, &ours, PASSWORD, misnamed_sentence),
    ] {
        let at = at.url();
        let env = [
            ("HEADWATER__REGISTRY__URL", at.as_str()),
            ("HEADWATER__REGISTRY__USER", "app"),
            ("HEADWATER__REGISTRY__PASSWORD", password),
            ("HEADWATER__REGISTRY__TLS__CA", shown(ca.file())),
        ];
        let (code, out, err) = Process::run(PROGRAM, &space, &["run", "--group", "send-receipt"], &env, "").await;
        let line = format!("error: schema registry {at}: {sentence}");
        assert_eq!((code, err.lines().last()), (1, Some(line.as_str())), "{out}{err}");
        assert!(!err.contains(wrong) && !err.contains(PASSWORD), "{err}");
    }
}

/// The variables that have a program send spans to this address, as this client.
fn exports<'a>(url: &'a str, protocol: &'a str, ca: &'a Path, client: &'a Certificate) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", shown(ca)),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", shown(&client.cert)),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", shown(&client.key)),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted-5b1c-token"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]
}

/// Sends payments until spans have come that were not there before.
async fn spans_come(otlp: &Otlp, send: impl Fn()) {
    let before = otlp.find(|_| true).len();
    eventually("spans come", SOON, async || {
        send();
        otlp.find(|_| true).len() > before
    })
    .await;
}

/// Spans reach a back end that wants a client certificate, by both protocols, and go on when that and its authority are replaced.
/// Red when a variable is not read, a certificate only once, or the header of a token is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_a_back_end_that_wants_a_client_certificate() {
    let space = Space::new(shared(), "traced_tls").await;
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let (first, second) = (authority(&space, "first"), authority(&space, "second"));
    let server = first.server("server", &NAMES);
    let send = |foreign: &headwater_tests::ForeignClient, payments: &Payments| {
        foreign.send(&topic, Some("tls"), Some(&payments.value("tls", 1, MAIL)), &[]);
        foreign.flush();
    };
    for (protocol, inner, name) in [("grpc", Inner::Http2, "grpc"), ("http/protobuf", Inner::Bytes, "http")] {
        let otlp = Otlp::start().await;
        let client = first.client(name, "app");
        let proxy = TlsProxy::before(inner, host(otlp.url()), &server, Some(first.file())).await;
        let url = format!("https://{}", proxy.address());
        let env = exports(&url, protocol, first.file(), &client);
        let mut process = Process::start(PROGRAM, &space, name, &["run", "--group", "send-receipt"], &env);
        spans_come(&otlp, || send(&foreign, &payments)).await;
        assert_eq!(otlp.protocols(), [protocol].into());

        // Connections that are open stay so: the next one wants the new certificate.
        let seen = proxy.clients().len();
        let next = second.client(&format!("{name}-next"), "app");
        proxy.show(&server, Some(second.file()));
        fs::copy(&next.cert, &client.cert).expect("a file");
        fs::copy(&next.key, &client.key).expect("a file");
        eventually("the new certificate is shown", SOON, async || {
            send(&foreign, &payments);
            proxy.clients().len() > seen
        })
        .await;
        spans_come(&otlp, || send(&foreign, &payments)).await;
        assert!(process.stop().await.success(), "{}", process.log());
        assert!(!process.log().contains("planted-5b1c-token"), "{}", process.log());
    }
}

/// Red when a back end that does not take us is not told of with the reason (`reason` left out of `send`), or ends the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_that_does_not_take_us_is_told_of() {
    let space = Space::new(shared(), "traced_denied").await;
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let (ours, theirs) = (authority(&space, "ours"), authority(&space, "theirs"));
    let (server, client) = (ours.server("server", &NAMES), ours.client("client", "app"));
    let otlp = Otlp::start().await;
    for (protocol, inner, name) in [("grpc", Inner::Http2, "grpc"), ("http/protobuf", Inner::Bytes, "http")] {
        let proxy = TlsProxy::before(inner, host(otlp.url()), &server, None).await;
        let url = format!("https://{}", proxy.address());
        let env = exports(&url, protocol, theirs.file(), &client);
        let mut process = Process::start(PROGRAM, &space, name, &["run", "--group", "send-receipt"], &env);
        foreign.send(&topic, Some(name), Some(&payments.value(name, 1, MAIL)), &[]);
        foreign.flush();
        process.logs("the trace back end takes no spans", SOON).await;
        let reason =
            if name == "http" { "no authority that we trust has signed the certificate" } else { "UnknownIssuer" };
        let log = process.log();
        let line = log.lines().find(|line| line.contains("takes no spans")).expect("a line");
        assert!(line.contains(reason) && line.contains(&url), "{line}");
        assert!(process.stop().await.success(), "{}", process.log());
    }
    assert!(otlp.find(|_| true).is_empty());
}

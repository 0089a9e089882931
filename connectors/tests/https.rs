//! The HTTP client and the schema registry over TLS, with logins, and with files that rotate.

// Test code is held to less than what ships.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "https/server.rs"]
mod server;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use headwater::{
    http::{Http, Request},
    spi::{SchemaError, Schemas},
};
use headwater_connectors::{
    http::{HttpClient, HttpConfig},
    registry::{Registry, RegistryConfig, RegistryError},
    tls::TlsConfig,
    units::Secret,
};

use server::{Authority, Received, TlsServer, certificates};

const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];
const SCHEMA: &str = r#"{"schema":"\"string\""}"#;
const DENIED: &str = r#"{"error_code":40101,"message":"Unauthorized"}"#;

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn taken(_: &Received) -> String {
    http("200 OK", SCHEMA)
}

/// Takes `me:hunter2` and the token `fresh`, who may do all but look for a schema by its text; and `old` until it has rotated.
fn guarded(request: &Received) -> String {
    match request.authorization.as_str() {
        "Basic bWU6aHVudGVyMg==" | "Bearer fresh" if request.line.starts_with("POST") => {
            http("403 Forbidden", r#"{"error_code":40301,"message":"User is denied operation Read"}"#)
        }
        "Basic bWU6aHVudGVyMg==" | "Bearer fresh" => taken(request),
        _ => http("401 Unauthorized", DENIED),
    }
}

async fn get(client: &HttpClient, url: &str) -> Result<u16, String> {
    let request = Request { method: "GET", url: url.to_owned(), headers: Vec::new(), body: Vec::new() };
    client.send(request).await.map(|answer| answer.status).map_err(|error| error.0)
}

async fn asked(tls: TlsConfig, url: &str) -> Result<u16, String> {
    get(&HttpClient::new(&HttpConfig { tls, ..HttpConfig::default() }).unwrap(), url).await
}

/// Asks until the answer is the one that is wanted; files are looked at once a second.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_secs(60), "this never holds: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Red when one of these passes, or its sentence is lost on the way (`handshake_problem` not asked by `describe`, or what an I/O
/// error holds not looked at).
#[tokio::test]
async fn each_problem_of_a_handshake_has_its_sentence() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let sound = TlsServer::start(&ours.sign("server", &LOCAL), None, taken);
    let other = TlsServer::start(&ours.sign("other", &["other.example"]), None, taken);
    let expired = TlsServer::start(&ours.sign_expired("expired", &LOCAL), None, taken);
    let mutual = TlsServer::start(&ours.sign("mutual", &LOCAL), Some(&ours), taken);
    let ours_only = ours.trusted();
    assert_eq!(asked(ours_only.clone(), &sound.url()).await, Ok(200));
    let why = |answer: Result<u16, String>| answer.unwrap_err();
    let at = |server: &TlsServer| format!("{}: ", server.url());

    let unknown = "no authority that we trust has signed the certificate: set ca";
    // It has the same name, and another key.
    assert_eq!(why(asked(theirs.trusted(), &sound.url()).await), format!("{}{unknown}", at(&sound)));
    // The system's trust store, or none at all.
    assert_eq!(why(asked(TlsConfig::default(), &sound.url()).await), format!("{}{unknown}", at(&sound)));
    let named = "the certificate is for \"other.example\", not \"localhost\"";
    assert_eq!(why(asked(ours_only.clone(), &other.url()).await), format!("{}{named}", at(&other)));
    let past = "the certificate has expired";
    assert_eq!(why(asked(ours_only.clone(), &expired.url()).await), format!("{}{past}", at(&expired)));

    let missing = "it wants a client certificate: set cert and key";
    assert_eq!(why(asked(ours_only.clone(), &mutual.url()).await), format!("{}{missing}", at(&mutual)));
    let foreign = theirs.sign("client", &["me"]).shown(&ours);
    let why_foreign = why(asked(foreign, &mutual.url()).await);
    assert!(why_foreign.contains("it does not accept our client certificate"), "{why_foreign}");
    assert_eq!(asked(ours.sign("client", &["me"]).shown(&ours), &mutual.url()).await, Ok(200));
}

fn registry(url: &str, authority: &Authority) -> RegistryConfig {
    let timeout = Duration::from_secs(20);
    RegistryConfig { url: Secret::new(url).into(), tls: authority.trusted(), timeout, ..RegistryConfig::default() }
}

#[track_caller]
fn outage<T: std::fmt::Debug>(answer: Result<T, SchemaError>) -> String {
    match answer {
        Err(SchemaError::Outage(why)) => why,
        other => panic!("no outage: {other:?}"),
    }
}

/// Red when who is not let in hears of an unknown schema, a sentence names nobody or the password, or a right login is not sent with
/// each kind of request (`basic_auth` left out of `Endpoint::send`).
#[tokio::test]
async fn a_registry_that_does_not_know_us_is_an_outage_that_names_us() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority.sign("server", &LOCAL), None, guarded);
    let at = server.url();
    let token = authority.dir.path().join("token");
    std::fs::write(&token, "wrong-token\n").unwrap();
    let nobody = registry(&at, &authority);
    let wrong = RegistryConfig { user: Some("me".into()), password: Some(Secret::new("wrong-pw")), ..nobody.clone() };
    let bearer = RegistryConfig { token_file: Some(token), ..nobody.clone() };
    for (config, sentence) in [
        (nobody, "it wants a login: set registry.user and registry.password_file, or registry.token_file"),
        (wrong, "it does not accept user \"me\": check registry.user and its password"),
        (bearer, "it does not accept the token: check registry.token_file"),
    ] {
        let registry = Registry::new(&config).unwrap();
        let sentence = format!("schema registry {at}: {sentence}");
        assert_eq!(registry.reach().await, Err(RegistryError::Credentials(sentence.clone())));
        assert_eq!(outage(registry.by_id(7).await), format!("{sentence} (schema id 7)"));
        assert_eq!(outage(registry.register("s", "{}").await), format!("{sentence} (subject s)"));
        let level = registry.set_compatibility("s", "FULL").await;
        assert_eq!(outage(level), format!("{sentence} (subject s: compatibility FULL)"));
        assert!(!format!("{registry:?}").contains("wrong-"), "{registry:?}");
    }
    let url = at.replace("https://", "https://me:hunter2@");
    let registry = Registry::new(&RegistryConfig { url: Secret::new(url).into(), ..registry("", &authority) }).unwrap();
    assert_eq!(registry.reach().await, Ok(()));
    assert_eq!(registry.by_id(7).await.unwrap().schema, "\"string\"");
    registry.set_compatibility("s", "FULL").await.unwrap();
    let why = outage(registry.id_of("s", "{}").await);
    let sentence =
        "it does not accept user \"me\" for this (User is denied operation Read): grant it there (subject s)";
    assert_eq!(why, format!("schema registry {at}: {sentence}"));
}

/// Red when a handshake that fails is told of without the address, or as a registry that is down.
#[tokio::test]
async fn a_registry_that_we_do_not_trust_is_a_wrong_credential() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = TlsServer::start(&ours.sign("server", &["other.example"]), None, taken);
    let unknown = Registry::new(&registry(&server.url(), &theirs)).unwrap();
    let sentence = "no authority that we trust has signed the certificate: set ca";
    let sentence = format!("schema registry {}: {sentence}", server.url());
    assert_eq!(unknown.reach().await, Err(RegistryError::Credentials(sentence.clone())));
    assert_eq!(outage(unknown.latest("s").await), format!("{sentence} (subject s)"));
    let why = outage(Registry::new(&registry(&server.url(), &ours)).unwrap().set_compatibility("s", "FULL").await);
    assert!(why.contains(": the certificate is for \"other.example\", not \"localhost\" ("), "{why}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = Registry::new(&registry(&format!("https://{nobody}"), &ours)).unwrap().reach().await;
    assert!(matches!(&down, Err(RegistryError::Outage(why)) if why.contains("refused")), "{down:?}");
}

fn unavailable(_: &Received) -> String {
    http("503 Service Unavailable", "")
}

fn not_there(_: &Received) -> String {
    http("404 Not Found", r#"{"error_code":40403,"message":"Schema not found"}"#)
}

/// Red when one that is down or answers 503 ends the search, one that says no does not, the one that answered last is not asked
/// first (`answered` not stored), or the failures of some are not told.
#[tokio::test]
async fn registries_are_tried_in_order_until_one_answers() {
    let authority = Authority::new();
    let start = |answer| TlsServer::start(&authority.sign("server", &LOCAL), None, answer);
    let (busy, first, second) = (start(unavailable), start(taken), start(taken));
    let nobody = format!("https://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let all = [nobody.as_str(), &busy.url(), &first.url(), &second.url()].join(",");
    let several = Registry::new(&registry(&all, &authority)).unwrap();
    for _ in 0..2 {
        several.by_id(7).await.unwrap();
    }
    several.set_compatibility("s", "FULL").await.unwrap();
    let count = |server: &TlsServer| server.received().len();
    assert_eq!((count(&busy), count(&first), count(&second)), (1, 3, 0));

    let none = Registry::new(&registry(&format!("{nobody},{}", busy.url()), &authority)).unwrap();
    let why = outage(none.by_id(7).await);
    let (one, other) =
        (format!("schema registry {nobody}: "), format!("schema registry {}: it answers 503", busy.url()));
    assert!(why.starts_with(&one) && why.contains(&other), "{why}");

    let empty = start(not_there);
    let denied = Registry::new(&registry(&format!("{},{}", empty.url(), second.url()), &authority)).unwrap();
    assert!(matches!(denied.by_id(7).await, Err(SchemaError::Unknown(_))));
    assert_eq!(count(&second), 0);
}

/// Red when a token or a password is read once (`files` of the configuration forgets it), or only one of the two clients of an
/// endpoint is made anew.
#[tokio::test]
async fn a_secret_that_rotates_is_used_by_the_next_requests() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority.sign("server", &LOCAL), None, guarded);
    let file = |name: &str, text: &str| {
        let file = authority.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let token = RegistryConfig { token_file: Some(file("token", "stale")), ..registry(&server.url(), &authority) };
    let password = RegistryConfig {
        user: Some("me".to_owned()),
        password_file: Some(file("password", "stale")),
        ..registry(&server.url(), &authority)
    };
    for (config, name, fresh) in [(token, "token", "fresh\n"), (password, "password", "hunter2\n")] {
        let registry = Registry::new(&config).unwrap();
        outage(registry.by_id(7).await);
        file(name, fresh);
        until("the new secret is used", async || registry.by_id(7).await.is_ok()).await;
        registry.set_compatibility("s", "FULL").await.unwrap();
    }
}

/// Red when a new certificate is not shown (`cert` and `key` left out of the files that are watched), or one without its key breaks
/// what works (the error of `reload` unwrapped).
#[tokio::test]
async fn a_client_certificate_that_rotates_is_shown_by_new_connections() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority.sign("server", &LOCAL), Some(&authority), taken);
    let pair = authority.sign("client", &["me"]);
    let tls = pair.shown(&authority);
    let client = HttpClient::new(&HttpConfig { tls: tls.clone(), ..HttpConfig::default() }).unwrap();
    let registry = Registry::new(&RegistryConfig { tls, ..registry(&server.url(), &authority) }).unwrap();
    assert_eq!(get(&client, &server.url()).await, Ok(200));
    registry.reach().await.unwrap();

    let next = authority.sign("next", &["me"]);
    std::fs::copy(&next.cert, &pair.cert).unwrap();
    // Longer than files are left alone: the half of a pair is looked at.
    let half = Instant::now();
    until("the half of a pair has had its time", async || {
        assert_eq!(get(&client, &server.url()).await, Ok(200));
        registry.reach().await.unwrap();
        half.elapsed() > Duration::from_millis(1_200)
    })
    .await;
    std::fs::copy(&next.key, &pair.key).unwrap();
    let new = certificates(&next.cert)[0].to_vec();
    let shows_new = || server.received().last().and_then(|request| request.certificate.clone()) == Some(new.clone());
    until("the client shows it", async || get(&client, &server.url()).await == Ok(200) && shows_new()).await;
    until("the registry's clients show it", async || registry.reach().await.is_ok() && shows_new()).await;
    registry.by_id(7).await.unwrap();
    assert!(shows_new());
}

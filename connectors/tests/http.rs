//! The HTTP client and the schema registry against a server that answers what the test says.

// Test code is held to less than what ships.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use headwater::{
    http::{Http, Request},
    spi::{SchemaError, Schemas},
};
use headwater_connectors::{
    http::{HttpClient, HttpConfig},
    registry::{Registry, RegistryConfig},
    units::Secret,
};

/// What a request said: its first line, its headers in lower case, its body.
#[derive(Clone, Debug)]
struct ReceivedRequest {
    line: String,
    headers: String,
    body: String,
}

/// Answers each request on a connection of its own with the next of these answers; the thread ends with the last.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<ReceivedRequest>>>,
}

fn serve<const N: usize>(answers: [&str; N]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut answers: VecDeque<String> = answers.into_iter().map(str::to_owned).collect();
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        while let Some(answer) = answers.pop_front() {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                lines.push(line.trim().to_owned());
            }
            let headers = lines[1..].join("\n").to_lowercase();
            let length =
                headers.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            log.lock().unwrap().push(ReceivedRequest {
                line: lines[0].clone(),
                headers,
                body: String::from_utf8(body).unwrap(),
            });
            // A client that has had enough closes early.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Server { address, seen }
}

impl Server {
    fn seen(&self, index: usize) -> ReceivedRequest {
        self.seen.lock().unwrap()[index].clone()
    }

    fn registry(&self, prefix: &str) -> Registry {
        let url = Secret::new(format!("http://{prefix}{}", self.address)).into();
        let timeout = Duration::from_millis(500);
        Registry::new(&RegistryConfig { url, timeout, ..RegistryConfig::default() }).unwrap()
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn request(url: String) -> Request {
    Request { method: "POST", url, headers: vec![("Idempotency-Key", "k1".to_owned())], body: b"{}".to_vec() }
}

fn client() -> HttpClient {
    let config = HttpConfig { timeout: Duration::from_millis(500), max_body_bytes: 1_000, ..HttpConfig::default() };
    HttpClient::new(&config).unwrap()
}

/// Red when any status but 2xx becomes an error, `Retry-After` is not read, or a JSON body is not declared as such.
#[tokio::test]
async fn an_answer_is_an_answer_whatever_its_status() {
    let server = serve(["HTTP/1.1 429 Slow\r\nConnection: close\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"]);
    let answer = client().send(request(format!("http://{}/x", server.address))).await.unwrap();
    assert_eq!((answer.status, answer.retry_after, answer.body), (429, Some(Duration::from_secs(7)), b"no".to_vec()));
    let seen = server.seen(0);
    assert_eq!((seen.line.as_str(), seen.body.as_str()), ("POST /x HTTP/1.1", "{}"));
    assert!(seen.headers.contains("content-type: application/json"), "{}", seen.headers);
    assert!(seen.headers.contains("idempotency-key: k1"), "{}", seen.headers);
}

/// Red when a redirect is followed: a reservation would be sent to whoever the answer names.
#[tokio::test]
async fn redirects_are_not_followed() {
    let server = serve(["HTTP/1.1 307 Else\r\nConnection: close\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"]);
    assert_eq!(client().send(request(format!("http://{}/x", server.address))).await.unwrap().status, 307);
}

/// Red when the limit is held against `Content-Length` only, or not at all.
#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(100_000));
    let server = serve([&endless]);
    let error = client().send(request(format!("http://{}/x", server.address))).await.unwrap_err();
    assert_eq!(error.0, "the answer is longer than 1000 bytes");
}

/// Red when there is no time-out, or an error prints the address, which may hold a password or a token.
#[tokio::test]
async fn no_answer_is_an_error_in_time_and_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://me:hunter2@{}/x?token=hunter3", listener.local_addr().unwrap());
    let error = client().send(request(url)).await.unwrap_err();
    assert!(!error.0.contains("hunter"), "{error}");
    assert!(error.0.contains("time"), "{error}");
}

/// Red when an unknown id is called an outage: its records would wait for ever.
#[tokio::test]
async fn an_unknown_id_is_what_the_registry_says_so_of() {
    let server = serve([
        &answer("404 Not Found", r#"{"error_code":40403,"message":"Schema not found"}"#),
        &answer("404 Not Found", r#"{"error_code":40401,"message":"Subject not found"}"#),
        // Asked once more, for a schema that is written otherwise.
        &answer("404 Not Found", r#"{"error_code":40401,"message":"Subject not found"}"#),
    ]);
    let registry = server.registry("");
    assert!(matches!(registry.by_id(7).await, Err(SchemaError::Unknown(text)) if text.contains("id 7")));
    assert!(matches!(registry.id_of("s", "{}").await, Err(SchemaError::Unknown(text)) if text.contains("subject s")));
}

/// Red when anything else becomes `Unknown`, or an error is remembered: the next answer is not asked for.
#[tokio::test]
async fn an_outage_is_an_outage_and_is_not_remembered() {
    let schema = r#"{\"type\":\"string\"}"#;
    let server = serve([
        &answer("503 Unavailable", ""),
        &answer("404 Not Found", "<html>some other server</html>"),
        &answer("500 Error", r#"{"error_code":50001,"message":"backend"}"#),
        &answer("401 Unauthorized", r#"{"error_code":401,"message":"who?"}"#),
        &answer("200 OK", "no json"),
        &answer("200 OK", &format!(r#"{{"schema":"{schema}"}}"#)),
    ]);
    let registry = server.registry("me:hunter2@");
    for _ in 0..5 {
        match registry.by_id(7).await {
            Err(SchemaError::Outage(text)) => assert!(!text.contains("hunter2") && text.contains("id 7"), "{text}"),
            other => panic!("an outage expected, not {other:?}"),
        }
    }
    assert_eq!(registry.by_id(7).await.unwrap().schema, r#"{"type":"string"}"#);
    assert!(!format!("{registry:?}").contains("hunter2"));
    // me:hunter2 in base64, in lower case.
    assert!(server.seen(0).headers.contains("authorization: basic bwu6ahvudgvymg=="), "{}", server.seen(0).headers);
}

/// Red when references are not followed, come after what needs them, or come twice.
#[tokio::test]
async fn references_come_dependencies_first_and_once() {
    let reference = |name: &str| format!(r#"{{"name":"{name}","subject":"{name}","version":1}}"#);
    let registered = |name: &str, references: &[&str]| {
        let references: Vec<String> = references.iter().map(|name| reference(name)).collect();
        let text = format!(r#"{{"id":1,"schema":"{name}","references":[{}]}}"#, references.join(","));
        answer("200 OK", &text)
    };
    let server = serve([
        &registered("top", &["a", "b"]),
        &registered("a", &["c"]),
        &registered("c", &[]),
        &registered("b", &["c", "a"]),
    ]);
    assert_eq!(server.registry("").by_id(1).await.unwrap().references, ["c", "a", "b"]);
}

/// Red when the base path is dropped (Apicurio serves the API below one), or a subject's slash is not escaped.
#[tokio::test]
async fn a_base_path_is_kept_and_subjects_are_escaped() {
    let server = serve([&answer("200 OK", r#"{"id":9}"#), &answer("200 OK", r#"{"compatibility":"FULL"}"#)]);
    let url = Secret::new(format!("http://{}/apis/ccompat/v7/", server.address)).into();
    let registry = Registry::new(&RegistryConfig { url, ..RegistryConfig::default() }).unwrap();
    assert_eq!(registry.register("a/b", r#""string""#).await.unwrap(), 9);
    registry.set_compatibility("a/b", "FULL_TRANSITIVE").await.unwrap();
    assert_eq!(server.seen(0).line, "POST /apis/ccompat/v7/subjects/a%2Fb/versions HTTP/1.1");
    assert_eq!(server.seen(1).line, "PUT /apis/ccompat/v7/config/a%2Fb HTTP/1.1");
    assert_eq!(server.seen(1).body, r#"{"compatibility":"FULL_TRANSITIVE"}"#);
}

/// Red when the registry's reason for a refusal is lost.
#[tokio::test]
async fn a_refused_schema_comes_with_the_reason() {
    let body = r#"{"error_code":409,"message":"field b has no default"}"#;
    let server = serve([&answer("409 Conflict", body)]);
    let refused = server.registry("").register("s", "{}").await;
    assert!(
        matches!(&refused, Err(SchemaError::Unknown(text)) if text.contains("field b has no default")),
        "{refused:?}"
    );
}

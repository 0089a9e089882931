//! The registry and the OAuth server.

use headwater_tests::secured::{Authority, PASSWORD, REGISTRY_TOKEN, TokenServer, USER};
use reqwest::{Certificate, Client, Identity, StatusCode};

use crate::secured::secured;

/// A client that trusts this authority, and shows a certificate if there is one.
fn client(authority: &Authority, shown: Option<Identity>) -> Client {
    let ca = std::fs::read(authority.file()).expect("a file");
    let builder = Client::builder().tls_certs_only([Certificate::from_pem(&ca).expect("a certificate")]);
    let builder = shown.into_iter().fold(builder, |builder, shown| builder.identity(shown));
    builder.build().expect("a client")
}

/// Red when the gate before the registry requires nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_answers_who_shows_the_right_thing() {
    let stack = secured();
    let client = client(&stack.authority, None);
    let ask = || client.get(format!("{}/subjects", stack.registry.url()));
    let status = async |request: reqwest::RequestBuilder| request.send().await.expect("an answer").status();
    assert_eq!(status(ask()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(ask().basic_auth(USER, Some("wrong"))).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(ask().bearer_auth("wrong")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(ask().basic_auth(USER, Some(PASSWORD))).await, StatusCode::OK);
    assert_eq!(status(ask().bearer_auth(REGISTRY_TOKEN)).await, StatusCode::OK);
}

/// Red when the proxy forgets whose certificates it is to want.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_proxy_wants_the_certificate_that_it_is_told_to() {
    use headwater_tests::secured::{Certificate, Inner, TlsProxy};

    let stack = secured();
    let server = stack.stack.endpoints.schema_registry_url.trim_start_matches("http://").to_owned();
    let proxy = TlsProxy::before(Inner::Bytes, &server, &stack.server, Some(stack.authority.file())).await;
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other");
    let identity = |one: &Certificate| {
        let files = [&one.cert, &one.key].map(|file| std::fs::read(file).expect("a file"));
        Identity::from_pem(&files.concat()).expect("a certificate and its key")
    };
    let ask = async |authority: &Authority, shown: Option<&Certificate>| {
        let url = format!("https://{}/subjects", proxy.address());
        client(authority, shown.map(identity)).get(url).send().await
    };
    ask(&stack.authority, None).await.expect_err("no certificate");
    ask(&stack.authority, Some(&other.client("foreign", USER))).await.expect_err("a foreign certificate");
    ask(&other, Some(&stack.client)).await.expect_err("a server that the client does not trust");
    assert_eq!(proxy.clients().len(), 0);
    ask(&stack.authority, Some(&stack.client)).await.expect("let in");
    assert!(matches!(proxy.clients().as_slice(), [Some(_)]));
}

/// Red when the OAuth server gives a token for any secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oauth_server_gives_tokens_for_a_secret() {
    let stack = secured();
    let server = TokenServer::start(stack.signer.clone(), USER, PASSWORD).await;
    server.set_lifetime(std::time::Duration::from_secs(90));
    let client = client(&stack.authority, None);
    let ask = || client.post(server.url()).body("grant_type=client_credentials&scope=a%20b");
    assert_eq!(ask().send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask().basic_auth(USER, Some("wrong")).send().await.expect("an answer").status(), 401);
    let fields = format!("grant_type=client_credentials&client_id={USER}&client_secret={PASSWORD}");
    assert_eq!(ask().body(fields).send().await.expect("an answer").status(), StatusCode::OK);
    let answer = ask().basic_auth(USER, Some(PASSWORD)).send().await.expect("an answer");
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(answer["expires_in"], 90);
    assert_eq!(answer["access_token"].as_str().map(|token| token.split('.').count()), Some(3));
    assert_eq!(server.requests().len(), 4);
    server.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(ask().basic_auth(USER, Some(PASSWORD)).send().await.expect("an answer").status(), 503);
}

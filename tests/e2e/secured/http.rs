//! Our own HTTP: who may ask, over TLS, with tokens and certificates that change while it runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use headwater_connectors::security::tls::install_provider;
use headwater_tests::{Process, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use reqwest::{Certificate, Client, ClientBuilder, Identity, tls::TlsInfo};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use crate::{
    PROGRAM,
    state::{SOON, Shop},
};

/// An authority and what it has signed, as files of a folder.
struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        std::fs::write(dir.join("ca.pem"), issuer.pem()).expect("written");
        Self { dir: dir.to_owned(), issuer }
    }

    /// A certificate of this name, for this host as a server and as a client, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// A new `cert.pem` and `key.pem`.
    fn renew(&self) {
        let (cert, key) = self.issue("shop");
        self.write("key.pem", &key);
        self.write("cert.pem", &cert);
    }

    /// By rename: nobody finds half a file.
    fn write(&self, name: &str, text: &str) {
        let fresh = self.dir.join(format!(".{name}"));
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, self.dir.join(name)).expect("renamed");
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn client(&self) -> ClientBuilder {
        install_provider();
        let ca = Certificate::from_pem(self.issuer.pem().as_bytes()).expect("a certificate");
        Client::builder().tls_certs_only([ca]).tls_info(true)
    }
}

async fn status(client: &Client, url: &str, headers: &[(&str, &str)]) -> Option<u16> {
    let request = headers.iter().fold(client.get(url), |request, (name, value)| request.header(*name, *value));
    Some(request.send().await.ok()?.status().as_u16())
}

/// How many totals this instance lists, and how many instances they come from.
async fn listed(client: &Client, at: &str, shop: &Shop, token: &str) -> (usize, usize) {
    let url = format!("{at}/v1/state/customer-totals/totals?limit=1000&prefix={}-", shop.space.name);
    let Ok(answer) = client.get(url).bearer_auth(token).send().await else { return (0, 0) };
    let body: Json = answer.json().await.unwrap_or_default();
    let entries = body["entries"].as_array().cloned().unwrap_or_default();
    let owners: std::collections::BTreeSet<&str> = entries.iter().filter_map(|entry| entry["owner"].as_str()).collect();
    (entries.len(), owners.len())
}

/// Two instances with TLS, tokens and an authority for clients: whoever shows a token or a certificate may ask, and what one
/// instance asks the other it proves, too; so do commands. Probes are apart, in plain HTTP.
/// Red when an instance shows the other neither a token nor a certificate, or a client's certificate is not looked at
/// (`client_ca` left out).
#[tokio::test(flavor = "multi_thread")]
async fn instances_and_commands_show_who_they_are() {
    let mut shop = Shop::new("secured_http").await;
    let authority = Authority::new(&shop.space.dir);
    authority.renew();
    authority.write("tokens", "# ours\nshop first-token\ndesk desk-token\n");
    let [cert, key, ca, tokens] = ["cert.pem", "key.pem", "ca.pem", "tokens"].map(|name| authority.file(name));
    let env = [
        ("HEADWATER__HTTP__TLS__CERT", cert.as_str()),
        ("HEADWATER__HTTP__TLS__KEY", &key),
        ("HEADWATER__HTTP__TLS__CLIENT_CA", &ca),
        ("HEADWATER__CLIENT__TLS__CA", &ca),
        ("HEADWATER__HTTP__TOKEN_FILE", &tokens),
        ("HEADWATER__HTTP__PROBE_ADDR", "127.0.0.1:0"),
        ("HEADWATER__HTTP__DELEGATES", r#"["desk", "till-7"]"#),
    ];
    let (mut one, mut two) = (shop.start_with("one", &env), shop.start_with("two", &env));
    shop.pay(400, 30);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let (plain, client) = (one.address().await, authority.client().build().expect("a client"));
    let at = plain.replace("http://", "https://");
    eventually("one instance lists what both have", SOON, async || {
        listed(&client, &at, &shop, "first-token").await == (shop.paid.len(), 2)
    })
    .await;

    let groups = format!("{at}/v1/groups");
    assert_eq!(status(&client, &groups, &[]).await, Some(401));
    assert_eq!(status(&client, &groups, &[("authorization", "Bearer last-token")]).await, Some(401));
    assert_eq!(status(&Client::new(), &format!("{plain}/v1/groups"), &[]).await, None, "plain HTTP");
    let desk = ("authorization", "Bearer desk-token");
    assert_eq!(status(&client, &groups, &[desk, ("x-user-id", "u-7")]).await, Some(200));
    let shops = ("authorization", "Bearer first-token");
    assert_eq!(status(&client, &groups, &[shops, ("x-user-id", "u-7")]).await, Some(403));
    shows_certificates(&shop, &authority, &groups).await;

    let log = one.log();
    let probes = log.split_once("probe_addr=").and_then(|(_, rest)| rest.split_whitespace().next()).expect("probes");
    for probe in ["livez", "readyz", "metrics"] {
        assert_eq!(status(&Client::new(), &format!("http://{probes}/{probe}"), &[]).await, Some(200), "{probe}");
        assert_eq!(status(&client, &format!("{at}/{probe}"), &[]).await, Some(404), "{probe}");
    }
    assert_eq!(status(&Client::new(), &format!("http://{probes}/v1/groups"), &[]).await, Some(404));
    commands_ask(&shop, &env, (&at, probes)).await;
    for process in [&mut one, &mut two] {
        assert!(process.stop().await.success(), "{}", process.log());
        assert!(!process.log().contains("-token"), "a token is logged: {}", process.log());
    }
}

/// A certificate of our authority is a way in, and its name may be a delegate's; one of another authority is none.
async fn shows_certificates(shop: &Shop, authority: &Authority, groups: &str) {
    let shown = |(cert, key): (String, String)| {
        let identity = Identity::from_pem((cert + &key).as_bytes()).expect("an identity");
        authority.client().identity(identity).build().expect("a client")
    };
    let (till_7, till_8) = (shown(authority.issue("till-7")), shown(authority.issue("till-8")));
    assert_eq!(status(&till_8, groups, &[]).await, Some(200));
    assert_eq!(status(&till_7, groups, &[("x-user-id", "u-7")]).await, Some(200));
    assert_eq!(status(&till_8, groups, &[("x-user-id", "u-7")]).await, Some(403));
    let others = shop.space.dir.join("others");
    std::fs::create_dir_all(&others).expect("a folder");
    let stranger = shown(Authority::new(&others).issue("till-7"));
    assert_ne!(status(&stranger, groups, &[]).await, Some(200), "signed by another authority");
}

/// `state get`, `groups` and `health` find their way in with the same configuration.
async fn commands_ask(shop: &Shop, env: &[(&str, &str)], (at, probes): (&str, &str)) {
    let run = async |args: &[&str], more: &[(&str, &str)]| {
        Process::run(PROGRAM, &shop.space, args, &[env, more].concat(), "").await
    };
    let key = shop.paid.keys().next().expect("a customer");
    let (code, out, err) = run(&["state", "get", "customer-totals", "totals", key, "--json"], &[]).await;
    assert!(code == 0 && out.contains(key.as_str()), "{code} {out}{err}");
    let (code, out, err) = run(&["groups", "customer-totals", "--json"], &[]).await;
    let group: Json = serde_json::from_str(&out).unwrap_or_default();
    assert_eq!((code, group["instances"].as_array().map(Vec::len)), (0, Some(2)), "{out}{err}");
    let (code, _, err) =
        run(&["state", "get", "customer-totals", "totals", key], &[("HEADWATER__HTTP__TOKEN_FILE", "")]).await;
    assert_eq!(code, 0, "the certificate is enough: {err}");
    let addr = at.trim_start_matches("https://");
    for (main, probe) in [(addr, ""), ("127.0.0.1:0", probes)] {
        let env = [("HEADWATER__HTTP__ADDR", main), ("HEADWATER__HTTP__PROBE_ADDR", probe)];
        let (code, out, err) = run(&["health"], &env).await;
        // `addr` has no probes where they are apart; that it answers in TLS is what is looked at.
        let is_well = if probe.is_empty() { err.contains("says 404") } else { code == 0 && out == "alive\n" };
        assert!(is_well, "{main} {probe}: {code} {out}{err}");
    }
    let (code, _, err) = run(&["health"], &[("HEADWATER__HTTP__PROBE_ADDR", "127.0.0.1:1")]).await;
    assert!(code == 1 && err.contains("http://127.0.0.1:1 does not answer"), "{code} {err}");
}

/// The certificate that a server shows, in DER.
async fn certificate(authority: &Authority, url: &str) -> Vec<u8> {
    // A new client has a new connection.
    let client = authority.client().build().expect("a client");
    let Ok(answer) = client.get(url).send().await else { return Vec::new() };
    let info = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
    info.map(<[u8]>::to_vec).unwrap_or_default()
}

/// Tokens and certificates change while it runs: both generations of a token are valid while both are in the file, a broken file
/// changes nothing, and new connections have the new certificate. Two instances ask each other all the while.
/// Red when a file is read once only, or not any more after a broken one, or when no token is shown to the other instance.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_certificates_rotate_while_it_runs() {
    let mut shop = Shop::new("secured_rotation").await;
    let authority = Authority::new(&shop.space.dir);
    authority.renew();
    authority.write("tokens", "shop first-token");
    let [cert, key, ca, tokens] = ["cert.pem", "key.pem", "ca.pem", "tokens"].map(|name| authority.file(name));
    let env = [
        ("HEADWATER__HTTP__TLS__CERT", cert.as_str()),
        ("HEADWATER__HTTP__TLS__KEY", &key),
        ("HEADWATER__CLIENT__TLS__CA", &ca),
        ("HEADWATER__HTTP__TOKEN_FILE", &tokens),
    ];
    let (mut process, mut other) = (shop.start_with("one", &env), shop.start_with("two", &env));
    shop.pay(400, 30);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let at = process.address().await.replace("http://", "https://");
    let (groups, client) = (format!("{at}/v1/groups"), authority.client().build().expect("a client"));
    let with = async |token: &str| status(&client, &groups, &[("authorization", &format!("Bearer {token}"))]).await;
    let lists = async |token: &str| listed(&client, &at, &shop, token).await == (shop.paid.len(), 2);
    eventually("one instance lists what both have", SOON, async || lists("first-token").await).await;

    assert_eq!(with("second-token").await, Some(401));
    authority.write("tokens", "shop second-token\nshop first-token");
    eventually("the second token is taken", SOON, async || with("second-token").await == Some(200)).await;
    assert_eq!(with("first-token").await, Some(200), "the first one, too");
    authority.write("tokens", "second-token");
    eventually("the broken file is looked at", SOON, async || {
        assert_eq!(with("second-token").await, Some(200));
        process.log().contains("line 1: a name and a token are wanted")
    })
    .await;
    assert_eq!((with("first-token").await, with("second-token").await), (Some(200), Some(200)), "as they were");
    authority.write("tokens", "shop second-token");
    eventually("the first token is gone", SOON, async || with("first-token").await == Some(401)).await;
    eventually("the instances show each other the second one", SOON, async || lists("second-token").await).await;
    renews(&authority, &groups, &process).await;
    assert_eq!(with("second-token").await, Some(200), "over the connection that was open");
    for process in [&mut process, &mut other] {
        assert!(process.stop().await.success(), "{}", process.log());
        assert!(!process.log().contains("second-token"), "a token is logged: {}", process.log());
    }
}

/// A certificate is renewed, after a key that is of no use.
async fn renews(authority: &Authority, url: &str, process: &Process) {
    let before = certificate(authority, url).await;
    assert!(!before.is_empty(), "there is one");
    authority.write("key.pem", "half written");
    let looked_at = async || {
        assert_eq!(certificate(authority, url).await, before);
        process.log().contains("key.pem holds no key in PEM")
    };
    eventually("the broken key is looked at", SOON, looked_at).await;
    authority.renew();
    eventually("new connections have the new certificate", SOON, async || {
        let now = certificate(authority, url).await;
        assert!(!now.is_empty(), "none is refused");
        now != before
    })
    .await;
}

/// Answers everybody, and keeps what was asked.
struct Recorder {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (asked, mut task) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
        let seen = asked.clone();
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = vec![0; 4_096];
                let length = stream.read(&mut question).await.unwrap_or_default();
                seen.lock().unwrap().push(String::from_utf8_lossy(&question[..length]).into_owned());
                let _ = stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
            }
        });
        Self { port, asked, _task: task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One instance says in Kafka that it is reached at a host that nobody has allowed, as whoever may join a group can: it is sent no
/// token, neither by the other instance nor by a command, and that is said. Where the host is allowed it gets one.
/// Red when a question is sent with a token to any host that stands in Kafka, without one, or is not sent in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_allowed_gets_no_token() {
    install_provider();
    let mut shop = Shop::new("secured_peers").await;
    let tokens = shop.space.dir.join("tokens");
    std::fs::write(&tokens, "shop first-token").expect("written");
    let tokens = tokens.display().to_string();
    let recorder = Recorder::start().await;
    // Another way to write 127.0.0.1, which leads to the recorder, but no address of this host by its looks.
    let elsewhere = format!("127.1:{}", recorder.port);
    let env = [("HEADWATER__HTTP__TOKEN_FILE", tokens.as_str())];
    let mut one = shop.start_with("one", &env);
    let mut two = shop.start_with("two", &[env[0], ("HEADWATER__HTTP__ADVERTISE", &elsewhere)]);
    shop.pay(400, 30);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    let at = one.address().await;
    let path = format!("{at}/v1/state/customer-totals/totals?limit=1000&prefix={}-", shop.space.name);
    let refused = async || {
        let answer = reqwest::Client::new().get(&path).bearer_auth("first-token").send().await.expect("it answers");
        let text = answer.text().await.unwrap_or_default();
        text.contains("instance two") && text.contains(&format!("our token may not be sent to {elsewhere}"))
    };
    eventually("the instance does not ask the other one", SOON, refused).await;
    let groups = async |env: &[(&str, &str)]| Process::run(PROGRAM, &shop.space, &["groups", "--json"], env, "").await;
    let (code, _, err) = groups(&env).await;
    assert!(code == 0 && err.contains(&format!("warning: the instance at {elsewhere} is not asked")), "{code} {err}");
    assert_eq!(recorder.asked(), Vec::<String>::new());

    let (code, _, err) = groups(&[env[0], ("HEADWATER__HTTP__PEERS", r#"["127.1"]"#)]).await;
    assert!(code == 0 && !err.contains("is not asked"), "{code} {err}");
    let asked = recorder.asked();
    assert!(asked.iter().any(|question| question.contains("authorization: Bearer first-token\r\n")), "{asked:?}");
    for process in [&mut one, &mut two] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

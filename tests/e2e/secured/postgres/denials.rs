//! Who is not let in learns why, and what to change.

use std::time::Duration;

use headwater_connectors::postgres::{Config, PostgresError};
use headwater_tests::{
    Process,
    secured::{Authority, CERTIFICATE_USER, Inner, PASSWORD, TlsProxy, USER},
};

use super::{connect, env, secured, space};
use crate::PROGRAM;

/// Why this URL is not let in.
async fn denied(url: &str) -> String {
    match connect(&Config { connect_timeout: Duration::from_secs(5), ..Config::new(url) }).await {
        Err(PostgresError::Credentials(why)) => why,
        outcome => panic!("{outcome:?}"),
    }
}

/// Red when the server's sentence is not passed on, does not name the server, lacks the fix, or is taken for an outage
/// (`denial::is_denial` not asked).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_says_what_it_does_not_like() {
    let stack = secured();
    let by_password = stack.postgres_url("headwater");
    let server = format!("postgres {}", by_password.split(['@', '/']).nth(3).expect("host and port"));
    assert_eq!(
        denied(&by_password.replace(PASSWORD, "wrong")).await,
        format!("{server}: password authentication failed for user \"{USER}\"")
    );
    assert_eq!(
        denied(&by_password.replace("verify-full", "disable")).await,
        format!(
            "{server}: no pg_hba.conf entry for host \"127.0.0.1\", user \"{USER}\", database \"headwater\", \
             no encryption: say sslmode=verify-full in the url, or add an entry there"
        )
    );
    let by_certificate = stack.postgres_url_by_certificate("headwater");
    let (without, _) = by_certificate.split_once("&sslcert").expect("a certificate");
    assert_eq!(
        denied(without).await,
        format!("{server}: connection requires a valid client certificate: set sslcert and sslkey in the url")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let by = |shown: &headwater_tests::secured::Certificate| {
        format!("{without}&sslcert={}&sslkey={}", shown.cert.display(), shown.key.display())
    };
    let foreign = Authority::new(folder.path(), "other").client("foreign", CERTIFICATE_USER);
    assert_eq!(
        denied(&by(&foreign)).await,
        format!(
            "{server}: it does not accept our client certificate: set a sslcert and sslkey that its authority has signed"
        )
    );
    let expired = stack.authority.expired_client("pg-denials-expired", CERTIFICATE_USER);
    assert_eq!(
        denied(&by(&expired)).await,
        format!("{server}: our client certificate has expired: renew sslcert and sslkey")
    );
    let another = stack.authority.client("pg-denials-another", "another");
    assert_eq!(
        denied(&by(&another)).await,
        format!("{server}: certificate authentication failed for user \"{CERTIFICATE_USER}\"")
    );
}

/// Red when a certificate is believed, or it is not said what is wrong with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_we_do_not_trust_is_named() {
    let stack = secured();
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other").server("foreign", &["localhost"]);
    let named = stack.authority.server("pg-denials-name", &["other.example"]);
    let expired = stack.authority.expired_server("pg-denials-server", &["localhost"]);
    let proxy = TlsProxy::before(Inner::Postgres, &stack.postgres_address(), &stack.server, None).await;
    let (ca, address) = (stack.authority.file().display().to_string(), proxy.address());
    let url = |mode: &str| format!("postgres://headwater@{address}/headwater?sslmode={mode}&sslrootcert={ca}");
    assert_eq!(connect(&Config::new(url("verify-full"))).await, Ok(()));
    let cases = [
        (other, "no authority that we trust has signed the certificate: set sslrootcert"),
        (named, "the certificate is for \"other.example\", not \"localhost\""),
        (expired, "the certificate has expired"),
    ];
    for (shown, why) in cases {
        proxy.show(&shown, None);
        assert_eq!(denied(&url("verify-full")).await, format!("postgres {address}: {why}"));
    }
    proxy.show(&stack.authority.server("pg-denials-ca", &["other.example"]), None);
    assert_eq!(connect(&Config::new(url("verify-ca"))).await, Ok(()), "verify-ca asks for no name");
    // The door of everybody else, which has no certificate.
    let plain = crate::shared().endpoints.database_url.clone();
    let server = plain.split(['@', '/']).nth(3).expect("host and port").to_owned();
    assert_eq!(
        denied(&format!("{plain}?sslmode=require")).await,
        format!("postgres {server}: it does not speak TLS: switch ssl on there, or say sslmode=disable in the url")
    );
}

/// Red when a process that the database has never let in waits for it, ends otherwise than with 1, or does not say why; also
/// when the password is in what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_at_start_ends_the_process() {
    let space = space("pg_denied").await;
    let config = "[sinks.audit]\nevent = \"order.fulfilled\"\ntable = \"audit\"\nkey = \"order_id\"\n";
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    let file = space.dir.join("password");
    std::fs::write(&file, "planted-wrong-password").expect("written");
    for mut set in [secured().postgres_env(&space.name), secured().pooler_env(&space.name)] {
        for (name, value) in &mut set {
            if name.ends_with("PASSWORD_FILE") {
                *value = file.display().to_string();
            }
        }
        let (code, out, err) = Process::run(PROGRAM, &space, &["run", "--group", "audit"], &env(&set), "").await;
        assert_eq!(code, 1, "{out}{err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: postgres localhost:"), "{last}");
        assert!(last.ends_with("authentication failed for user \"app\""), "{last}");
        assert!(!err.contains("planted-wrong") && !out.contains("planted-wrong"), "{err}");
    }
}

/// Red when a problem of the section passes `config check`, is not named with its setting, or shows a secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_check_names_what_is_wrong_with_the_database() {
    let space = space("pg_check").await;
    let text = space.dir.join("text.pem");
    std::fs::write(&text, "planted-no-pem").expect("written");
    let client = secured().authority.client("pg-check", CERTIFICATE_USER);
    let mismatch = format!("sslcert={}&sslkey={}", secured().client.cert.display(), client.key.display());
    let text = text.display().to_string();
    let wrong = [
        ("URL", "postgres://me@db/x?sslmode=allow".to_owned(), "postgres.url: sslmode is `allow`: write one of"),
        ("URL", "postgres://me@db/x?sslcert=/c".to_owned(), "postgres.url: sslcert and sslkey go together"),
        (
            "URL",
            "postgres://me@db/x?sslrootcert=/nowhere/ca".to_owned(),
            "postgres.url: sslrootcert: cannot read /nowhere/ca",
        ),
        ("URL", format!("postgres://me@db/x?sslrootcert={text}"), "text.pem holds no certificate in PEM"),
        ("URL", format!("postgres://me@db/x?{mismatch}"), "are no pair"),
        ("URL_FILE", "/nowhere/url".to_owned(), "postgres.url and postgres.url_file are both set: keep one"),
        (
            "PASSWORD_FILE",
            "/nowhere/password".to_owned(),
            "postgres.password_file: cannot read the secret in /nowhere/password",
        ),
        ("DIRECT_URL_FILE", text.clone(), "postgres.direct_url_file: it must be an address"),
    ];
    for (name, value, why) in wrong {
        let name = format!("HEADWATER__POSTGRES__{name}");
        let (code, out, err) = Process::run(PROGRAM, &space, &["config", "check"], &[(&name, &value)], "").await;
        assert!(code == 2 && err.contains(why), "{why}: {out}{err}");
        assert!(!err.contains("planted"), "{err}");
    }
}

//! The database server, and the pooler before it.

use headwater_tests::secured::{Authority, CERTIFICATE_USER, Inner, PASSWORD, TlsProxy, USER};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::secured::secured;

/// As whom a connection by this URL is in, or why it is not.
async fn user(url: &str) -> Result<String, String> {
    let said = |error: sqlx::Error| format!("{error:?}");
    let mut connection = PgConnection::connect(url).await.map_err(said)?;
    let row = sqlx::raw_sql("select current_user::text").fetch_one(&mut connection).await.map_err(said)?;
    row.try_get(0).map_err(said)
}

/// Red when the server lets users in without TLS (`host` in `pg_hba.conf`), or without a certificate (`trust`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_lets_in_who_shows_the_right_thing() {
    let stack = secured();
    let by_password = stack.postgres_url("headwater");
    assert_eq!(user(&by_password).await, Ok(USER.to_owned()));
    let refused = user(&by_password.replace(PASSWORD, "wrong")).await.expect_err("a wrong password");
    assert!(refused.contains("password authentication failed"), "{refused}");
    let refused = user(&by_password.replace("verify-full", "disable")).await.expect_err("no TLS");
    assert!(refused.contains("no encryption"), "{refused}");

    let by_certificate = stack.postgres_url_by_certificate("headwater");
    assert_eq!(user(&by_certificate).await, Ok(CERTIFICATE_USER.to_owned()));
    let (without, _) = by_certificate.split_once("&sslcert").expect("a certificate");
    let refused = user(without).await.expect_err("no certificate");
    assert!(refused.contains("certificate"), "{refused}");
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other").client("foreign", CERTIFICATE_USER);
    let shown = stack.authority.client("postgres-of-another", "another");
    for wrong in [other, shown] {
        let url = format!("{without}&sslcert={}&sslkey={}", wrong.cert.display(), wrong.key.display());
        user(&url).await.expect_err("a wrong certificate");
    }
}

/// Red when the proxy goes on with the certificate that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_a_wrong_certificate_is_not_believed() {
    let stack = secured();
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other").server("foreign", &["localhost"]);
    let named = stack.authority.server("postgres-other-name", &["other.example"]);
    let expired = stack.authority.expired_server("postgres-expired", &["localhost"]);
    let address = stack.postgres_address();
    let proxy = TlsProxy::before(Inner::Postgres, &address, &stack.server, None).await;
    // The proxy speaks to the server without TLS, as the harness' own user.
    let ca = stack.authority.file().display();
    let url = format!("postgres://headwater@{}/headwater?sslmode=verify-full&sslrootcert={ca}", proxy.address());
    assert_eq!(user(&url).await, Ok("headwater".to_owned()));
    for (shown, what) in [(other, "UnknownIssuer"), (named, "NotValidForName"), (expired, "Expired")] {
        proxy.show(&shown, None);
        let refused = user(&url).await.expect_err(what);
        assert!(refused.contains(what), "{what}: {refused}");
    }
}

/// Red when the pooler gives each client a connection of its own (`pool_mode = session`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_gives_a_connection_for_a_transaction() {
    let stack = secured();
    let url = stack.pooler_url("headwater");
    assert_eq!(user(&url).await, Ok(USER.to_owned()));
    user(&url.replace(PASSWORD, "wrong")).await.expect_err("a wrong password");
    user(&url.replace("verify-full", "disable")).await.expect_err("no TLS");

    sqlx::raw_sql("create database servers_pooled")
        .execute(&mut PgConnection::connect(&stack.postgres_url("headwater")).await.expect("let in"))
        .await
        .expect("a database");
    let url = stack.pooler_url("servers_pooled");
    let mut first = PgConnection::connect(&url).await.expect("let in");
    let mut second = PgConnection::connect(&url).await.expect("let in");
    let outside = [backend(&mut first).await, backend(&mut second).await];
    assert_eq!(outside[0], outside[1], "both are idle, so one connection serves them in turn");
    sqlx::raw_sql("begin").execute(&mut first).await.expect("begun");
    let inside = [backend(&mut first).await, backend(&mut second).await];
    assert_ne!(inside[0], inside[1], "a transaction has it to itself");
}

/// The process of the server that answers.
async fn backend(connection: &mut PgConnection) -> i32 {
    let row = sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await.expect("answered");
    row.get(0)
}

//! Passwords, addresses and certificates that are replaced while a program runs.

use std::{path::PathBuf, time::Duration};

use headwater_connectors::{
    postgres::{Config, Database},
    units::SecretSource,
};
use headwater_tests::{
    ForeignClient, Payments, Process, Space, eventually,
    secured::{CERTIFICATE_USER, Certificate},
};

use super::{env, secured, space, sql};
use crate::PROGRAM;

const SOON: Duration = Duration::from_mins(1);

/// Ends every connection of this user, so that new ones are made.
async fn cut(space: &Space, user: &str) {
    let ended = format!(
        "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity \
         where usename = '{user}' and datname = current_database()"
    );
    space.count(&ended).await;
}

/// Writes a file of the space as Kubernetes does: at once.
fn replace(space: &Space, name: &str, text: &str) -> PathBuf {
    let (next, file) = (space.dir.join(format!("{name}.next")), space.dir.join(name));
    std::fs::write(&next, text).expect("written");
    std::fs::rename(&next, &file).expect("renamed");
    file
}

/// A role's password and the file change while a sink writes; its connections end, and it goes on. Red when the files are read
/// once for ever, or a refused login is not followed by a look at them; also when a password is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_rotates_while_a_sink_writes() {
    let space = space("pg_rotates").await;
    let topic = space.topic("paid");
    space.create_topics(&[&topic], 1).await;
    let config = format!(
        "[topics.\"{topic}\"]\ntype = \"till.paid\"\n[sinks.log]\nevent = \"till.paid\"\ntable = \"log\"\nmode = \"insert\"\n"
    );
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    sql(&space, "create role rotating_sink superuser login password 'planted-first'").await;
    // Only what an entry of the server's names may come in: the pooler's user has one.
    let file = replace(&space, "password", "planted-first\n");
    let mut set = secured().postgres_env(&space.name);
    for (name, value) in &mut set {
        if name.ends_with("PASSWORD_FILE") {
            *value = file.display().to_string();
        } else {
            *value = value.replace("//app@", "//rotating_sink@");
        }
    }
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &env(&set), "").await;
    assert_eq!(code, 0, "{out}{err}");
    let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    let mut running = Process::start(PROGRAM, &space, "run", &["run", "--group", "log"], &env(&set));
    let stored = async |n: i64| space.count("select count(*) from log").await == n;
    for (n, password) in (1..).zip(["planted-first", "planted-second", "planted-third"]) {
        sql(&space, &format!("alter role rotating_sink password '{password}'")).await;
        replace(&space, "password", password);
        cut(&space, "rotating_sink").await;
        foreign.send(&topic, Some("o"), Some(&payments.value("o", n, None)), &[]);
        foreign.flush();
        eventually(&format!("row {n} is stored"), SOON, async || stored(n).await).await;
    }
    assert!(running.stop().await.success(), "{}", running.log());
    assert!(!running.log().contains("planted"), "{}", running.log());
}

/// The serial number of the certificate by which this database has let us in.
async fn serial(space: &Space, database: &Database) -> String {
    database.ping().await.expect("let in");
    let sql = "select coalesce(max(client_serial), 0)::text from pg_stat_ssl join pg_stat_activity using (pid) \
               where application_name = 'pg_serial' and datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(&space.pool).await.expect("a number")
}

/// Red when new connections go on with a certificate that was replaced, or the address's file is read once for ever; also when one
/// whose key is not there yet takes the place of what works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_rotates() {
    let space = space("pg_certificates").await;
    let authority = &secured().authority;
    let [first, second, third] =
        ["first", "second", "third"].map(|name| authority.client(&format!("pg-{name}"), CERTIFICATE_USER));
    let show = |shown: &Certificate, name: &str| {
        let text = |file: &PathBuf| std::fs::read_to_string(file).expect("a file");
        replace(&space, &format!("{name}.pem"), &text(&shown.cert));
        replace(&space, &format!("{name}.key"), &text(&shown.key));
    };
    let url = |name: &str| {
        let by = secured().postgres_url_by_certificate(&space.name);
        let (without, _) = by.split_once("&sslcert").expect("a certificate");
        // A name with a blank, as an address writes it.
        let folder = space.dir.join("our files");
        std::fs::create_dir_all(&folder).expect("a folder");
        for kind in ["pem", "key"] {
            let _ = std::os::unix::fs::symlink(
                space.dir.join(format!("{name}.{kind}")),
                folder.join(format!("{name}.{kind}")),
            );
        }
        let folder = folder.display().to_string().replace(' ', "%20");
        format!("{without}&sslcert={folder}/{name}.pem&sslkey={folder}/{name}.key\n")
    };
    show(&first, "one");
    let file = replace(&space, "url", &url("one"));
    let config = Config {
        application_name: "pg_serial".to_owned(),
        connect_timeout: Duration::from_secs(5),
        ..Config::of(SecretSource::File(file))
    };
    let database = config.connect().await.expect("let in");
    let before = serial(&space, &database).await;
    // A connection that is there stays; a new one is made by what the files hold.
    let other = async |known: &[&String]| {
        let seen = std::sync::Mutex::new(String::new());
        eventually("another certificate is shown", SOON, async || {
            cut(&space, CERTIFICATE_USER).await;
            let now = serial(&space, &database).await;
            let is_new = !known.contains(&&now);
            *seen.lock().unwrap() = now;
            is_new
        })
        .await;
        seen.into_inner().unwrap()
    };
    show(&second, "one");
    let second = other(&[&before]).await;
    // The certificate alone, without its key.
    replace(&space, "one.pem", &std::fs::read_to_string(&third.cert).expect("a file"));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        cut(&space, CERTIFICATE_USER).await;
        assert_eq!(serial(&space, &database).await, second, "what works stays in use");
    }
    show(&third, "two");
    replace(&space, "url", &url("two"));
    other(&[&before, &second]).await;
}

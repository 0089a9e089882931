//! Logins that change while the program runs: tokens that last for seconds, a password that is another one.

use std::{path::PathBuf, time::Duration};

use axum::http::StatusCode;
use headwater_tests::{
    ForeignClient, Payments, Process, Space, eventually,
    secured::{Acl, KafkaLogin, PASSWORD, TokenServer, USER},
};

use crate::{PROGRAM, faults::outage::ready, secured::secured};

const SOON: Duration = Duration::from_mins(1);
/// Of each kind of client one: consumers and the admin client everywhere; transactions here, a gapless producer and a reader of
/// changelogs there, an idempotent producer in every other group.
const CONFIG: &str = "[kafka.producer]\ntransaction_timeout = \"3s\"\n\
    [groups.fulfil-order]\ndelivery = \"exactly-once\"\n[groups.customer-totals]\ndelivery = \"at-least-once\"\n";
/// Payments in a row.
const EACH: i64 = 20;

/// The orders pipeline of one space, by one login.
struct Shop {
    space: Space,
    topic: String,
    foreign: ForeignClient,
    payments: Payments,
    env: Vec<(String, String)>,
    sent: i64,
}

impl Shop {
    async fn new(name: &str, login: KafkaLogin, more: &[(&str, String)]) -> Self {
        let stack = secured();
        let space = Space::new(&stack.stack, name).await;
        let more = more.iter().map(|(name, value)| (format!("HEADWATER__KAFKA__SASL__{name}"), value.clone()));
        let env = stack.kafka_env(login).into_iter().chain(more).collect();
        let topic = space.topic("payments");
        space.create_topics(&[&topic], 2).await;
        let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n{CONFIG}");
        std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
        let payments = Payments::register(&space, &topic).await;
        let shop = Self { foreign: ForeignClient::new(&space), payments, topic, env, sent: 0, space };
        shop.says(&["topology", "apply"]).await;
        shop
    }

    fn env<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        env.chain(more.iter().copied()).collect()
    }

    fn start(&self, instance: &str) -> Process {
        let env = self.env(&[("HEADWATER__INSTANCE", instance), ("HEADWATER__DEFAULTS__BACKOFF_MAX", "1s")]);
        Process::start(PROGRAM, &self.space, instance, &["run"], &env)
    }

    /// What a command prints, which ends well.
    async fn says(&self, args: &[&str]) -> String {
        let (code, out, err) = Process::run(PROGRAM, &self.space, args, &self.env(&[]), "").await;
        assert_eq!(code, 0, "{args:?}: {out}\n{err}");
        out
    }

    /// More payments.
    fn pay(&mut self) {
        for n in self.sent..self.sent + EACH {
            let name = &self.space.name;
            let (customer, order) = (format!("{name}-{}", n % 7), format!("{name}-{n}"));
            let value = self.payments.value_of(&customer, &order, 1, Some("a@example.org"));
            self.foreign.send(&self.topic, Some(&order), Some(&value), &[]);
        }
        self.foreign.flush();
        self.sent += EACH;
    }

    /// Waits until every payment is an order, a receipt and part of a total.
    async fn is_through(&self) {
        let name = &self.space.name;
        let ends = [
            format!("select count(*) from orders where order_id like '{name}-%'"),
            format!("select count(*) from receipts where order_id like '{name}-%'"),
            format!("select coalesce(sum(payments), 0)::int8 from customer_totals where customer_id like '{name}-%'"),
        ];
        for end in ends {
            eventually(&format!("{} by {end}", self.sent), SOON, async || self.space.count(&end).await == self.sent)
                .await;
        }
    }

    /// More payments go through.
    async fn goes_on(&mut self) {
        self.pay();
        self.is_through().await;
    }
}

/// Every kind of client logs in by a password, and every command does: the changelogs are read by another instance.
/// Red when a kind of client, or a command, is made past the sections [kafka.tls] and [kafka.sasl].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_and_command_logs_in_by_a_password() {
    let mut shop = Shop::new("login_password", KafkaLogin::ScramSha512, &[]).await;
    let mut process = shop.start("one");
    shop.goes_on().await;
    let topic = shop.topic.clone();
    let produced = ["load", "payment.completed", "--topic", &topic, "--rate", "50/s", "--count", "10"];
    for args in [
        &["groups"][..],
        &["offsets", "show", "fulfil-order"],
        &["state", "list", "customer-totals", "totals"],
        &["tail", "order.fulfilled", "--from-beginning", "--limit", "1"],
        &["dlq", "list"],
        &produced,
    ] {
        shop.says(args).await;
    }
    assert_eq!(process.group_failures().await, 0.0, "{}", process.log());
    assert!(process.stop().await.success(), "{}", process.log());
    let reset = ["offsets", "reset", "send-receipt", "--to", "latest"];
    eventually("the group is reset once its member's session is over", SOON, async || {
        Process::run(PROGRAM, &shop.space, &reset, &shop.env(&[]), "").await.0 == 0
    })
    .await;
    std::fs::remove_dir_all(shop.space.dir.join("one")).expect("its state");
    let mut process = shop.start("two");
    shop.pay();
    let total = format!(
        "select count(*) from customer_totals where customer_id like '{0}-%' and payments >= {1}",
        shop.space.name,
        2 * EACH / 7
    );
    eventually("totals go on", SOON, async || shop.space.count(&total).await == 7).await;
    assert!(!format!("{}{}", process.log(), shop.says(&["config", "show"]).await).contains(PASSWORD));
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Tokens that last for seconds are renewed while everything works; a token server that is away is an outage, with its reason,
/// once the last token has expired, and everything goes on when it is back. Nothing restarts.
/// Red when tokens are fetched once, are not told to living clients, or the reason does not reach `/readyz`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_tokens_are_renewed_while_everything_works() {
    let tokens = TokenServer::start(secured().signer.clone(), USER, PASSWORD).await;
    tokens.set_lifetime(Duration::from_secs(8));
    let url = tokens.url().to_owned();
    let mut shop = Shop::new("login_tokens", KafkaLogin::OauthBearer, &[("TOKEN_URL", url.clone())]).await;
    let mut process = shop.start("one");
    for _ in 0..3 {
        let before = tokens.requests().len();
        shop.goes_on().await;
        eventually("a token is renewed", SOON, async || tokens.requests().len() > before).await;
    }
    shop.goes_on().await;
    assert_eq!(process.group_failures().await, 0.0, "{}", process.log());

    let http = process.address().await;
    tokens.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let reason = format!("kafka login: token server {url}: it answers 503");
    eventually("/readyz says why", SOON, async || {
        let (status, text) = ready(&http).await;
        status == 503 && text.contains(&reason)
    })
    .await;
    shop.pay();
    tokens.fail(None);
    shop.is_through().await;
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
    assert_eq!(process.group_failures().await, 0.0, "{}", process.log());
    assert!(!process.log().contains(PASSWORD));
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Red when a secret that the token server refuses is waited for at start, or leaves out what to change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_secret_ends_the_program_with_the_reason() {
    let tokens = TokenServer::start(secured().signer.clone(), USER, PASSWORD).await;
    let url = tokens.url().to_owned();
    let shop = Shop::new("login_refused", KafkaLogin::OauthBearer, &[("TOKEN_URL", url.clone())]).await;
    tokens.set_secret("another");
    for args in [&["run"][..], &["groups"]] {
        let (code, _, err) = Process::run(PROGRAM, &shop.space, args, &shop.env(&[]), "").await;
        let reason = format!("kafka login: token server {url}: it does not accept client \"{USER}\": check kafka.sasl");
        assert!(code == 1 && err.contains(&reason), "{code}: {err}");
        assert!(!err.contains(PASSWORD), "{err}");
    }
}

/// A password is another one at the broker, which asks for it every few seconds; the program stands still until its file holds it
/// as well, and then goes on. Nothing restarts.
/// Red when a client logs in anew with the password that it was made with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_while_it_runs_is_used_by_new_logins() {
    const ROTATING: &str = "login_rotating";
    let admin = secured().broker_admin();
    admin.set_password(ROTATING, "planted-first").await;
    let all = |resource: &str, name: &str| Acl {
        user: ROTATING.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        prefixed: false,
        operation: "all".to_owned(),
    };
    let resources = [("topic", "*"), ("group", "*"), ("transactional-id", "*"), ("cluster", "kafka-cluster")];
    admin.allow(&resources.map(|(resource, name)| all(resource, name))).await;
    let file: PathBuf = secured().password_file.with_file_name(ROTATING);
    std::fs::write(&file, "planted-first\n").expect("written");
    let more = [("USERNAME", ROTATING.to_owned()), ("PASSWORD_FILE", file.display().to_string())];
    let mut shop = Shop::new("login_rotates", KafkaLogin::ScramSha256, &more).await;
    let mut process = shop.start("one");
    shop.goes_on().await;

    admin.set_password(ROTATING, "planted-second").await;
    let http = process.address().await;
    eventually("the old password is refused", SOON, async || ready(&http).await.0 == 503).await;
    shop.pay();
    std::fs::write(&file, "planted-second\n").expect("written");
    shop.is_through().await;
    shop.goes_on().await;
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
    assert_eq!(process.group_failures().await, 0.0, "{}", process.log());
    assert!(!process.log().contains("planted-"));
    assert!(process.stop().await.success(), "{}", process.log());
}

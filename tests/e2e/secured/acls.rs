//! Least privilege: the orders pipeline under the ACLs that `topology export` lists, at a broker that denies everything else. Every
//! group is a process of its own that logs in as its own principal, so that none lives on what another one is allowed.

use std::{collections::BTreeMap, fs, time::Duration};

use headwater_connectors::kafka::{Cluster, KafkaTls};
use headwater_dev::Stack;
use headwater_tests::{
    ForeignClient, Payments, Process, Space, eventually,
    secured::{Acl, Certificate, KafkaLogin, SecuredStack},
};
use serde_json::{Value as Json, json};

use super::secured;
use crate::{
    PROGRAM,
    failure::retry::{faults, own_warehouse_beside},
};

const SOON: Duration = Duration::from_mins(1);
const MAIL: Option<&str> = Some("ann@example.org");

/// A permission, as a line of the export says it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permission {
    resource: String,
    name: String,
    prefixed: bool,
    operations: Vec<String>,
    user: String,
}

impl Permission {
    fn of(line: &str) -> Self {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [resource, name, pattern, operations, principal] = columns[..] else { panic!("{line}") };
        Self {
            resource: resource.to_owned(),
            name: name.to_owned(),
            prefixed: pattern == "prefixed",
            operations: operations.split(',').map(kebab).collect(),
            user: principal.strip_prefix("User:").expect("a user").to_owned(),
        }
    }

    fn acls(&self) -> impl Iterator<Item = Acl> + '_ {
        self.operations.iter().map(|operation| Acl {
            user: self.user.clone(),
            resource: self.resource.clone(),
            name: self.name.clone(),
            prefixed: self.prefixed,
            operation: operation.clone(),
        })
    }
}

/// `DescribeConfigs` as the harness writes it.
fn kebab(operation: &str) -> String {
    let mut out = String::new();
    for c in operation.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// A space on the secured stack in which nobody may do anything yet.
struct LeastPrivilege {
    stack: &'static SecuredStack,
    space: Space,
    /// The warehouse, whose faults are this test's alone.
    warehouse: Stack,
    topic: String,
    foreign: ForeignClient,
    payments: Payments,
    permissions: Vec<Permission>,
}

impl LeastPrivilege {
    async fn new(name: &str) -> Self {
        let stack = secured();
        let (warehouse, space) = own_warehouse_beside(&stack.stack, name).await;
        let topic = space.topic("payments");
        space.create_topics(&[&topic], 2).await;
        let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n[defaults]\nretry = [\"1s\"]\n");
        fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
        let (apply, operator) = (format!("User:{name}.topology"), format!("User:{name}.operator"));
        let principals = ["--apply-principal", &apply, "--operator-principal", &operator];
        let args = [&["topology", "export", "--format", "acls"][..], &principals[..]].concat();
        let (code, out, err) = Process::run(PROGRAM, &space, &args, &[], "").await;
        assert_eq!(code, 0, "{err}");
        let lines = out.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let permissions = lines.map(Permission::of).collect();
        let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
        Self { stack, space, warehouse, topic, foreign, payments, permissions }
    }

    /// What the pipeline's groups are called, as they are registered.
    fn groups(&self) -> Vec<String> {
        let owned = |permission: &&Permission| permission.resource == "group" && permission.user == permission.name;
        let prefix = format!("{}.", self.space.name);
        let ids = self.permissions.iter().filter(owned);
        ids.map(|permission| permission.name.strip_prefix(&prefix).expect("the prefix").to_owned()).collect()
    }

    /// Allows this, and waits until the broker goes by it: until this user sees a topic.
    async fn allow(&self, permissions: &[Permission], user: &str) {
        let acls: Vec<Acl> = permissions.iter().flat_map(Permission::acls).collect();
        self.stack.broker_admin().allow(&acls).await;
        let mut kafka = self.stack.kafka(KafkaLogin::Certificate);
        let certificate = self.certificate(user);
        let tls =
            KafkaTls { cert: Some(certificate.cert), key: Some(certificate.key), ..kafka.tls.unwrap_or_default() };
        kafka.tls = Some(tls);
        let cluster = Cluster::new(&kafka).expect("valid");
        let sees = async || cluster.topics().await.is_ok_and(|topics| !topics.is_empty());
        eventually("the broker goes by what is allowed", SOON, sees).await;
    }

    fn certificate(&self, user: &str) -> Certificate {
        let user = format!("{}.{user}", self.space.name);
        self.stack.authority.client(&user, &user)
    }

    /// What a user is allowed by the export.
    fn of(&self, user: &str) -> Vec<Permission> {
        let user = format!("{}.{user}", self.space.name);
        self.permissions.iter().filter(|permission| permission.user == user).cloned().collect()
    }

    /// The variables by which a process logs in as this user, by a certificate, as an instance of this name.
    fn login(&self, user: &str, instance: &str) -> Vec<(String, String)> {
        let certificate = self.certificate(user);
        let own = [
            ("HEADWATER__KAFKA__TLS__CERT", certificate.cert.display().to_string()),
            ("HEADWATER__KAFKA__TLS__KEY", certificate.key.display().to_string()),
            ("HEADWATER__INSTANCE", instance.to_owned()),
        ];
        let all = self.stack.kafka_env(KafkaLogin::Certificate);
        all.into_iter().chain(own.map(|(name, value)| (name.to_owned(), value))).collect()
    }

    /// Runs a group, as this user.
    fn run(&self, group: &str, user: &str) -> Process {
        let login = self.login(user, group);
        let env: Vec<(&str, &str)> = login.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Process::start(PROGRAM, &self.space, user, &["run", "--group", group], &env)
    }

    /// What a command says, and how it ends.
    async fn says(&self, user: &str, args: &[&str]) -> (i32, String, String) {
        let login = self.login(user, user);
        let env: Vec<(&str, &str)> = login.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Process::run(PROGRAM, &self.space, args, &env, "").await
    }

    /// What a command prints that succeeds.
    async fn prints(&self, user: &str, args: &[&str]) -> String {
        let (code, out, err) = self.says(user, args).await;
        assert_eq!(code, 0, "{args:?}: {out}\n{err}");
        assert!(!complains(&err), "{args:?}: {err}");
        out
    }

    fn pay(&self, order: &str, cents: i64) {
        let value = self.payments.value_of(&self.customer(), order, cents, MAIL);
        self.foreign.send(&self.topic, Some(order), Some(&value), &[]);
        self.foreign.flush();
    }

    fn customer(&self) -> String {
        format!("{}-customer", self.space.name)
    }

    /// Waits until these orders are fulfilled and have their receipts, and the customer's total is that.
    async fn done(&self, orders: &[&str], (payments, cents): (i64, i64)) {
        let list = orders.iter().map(|order| format!("'{order}'")).collect::<Vec<_>>().join(", ");
        let count = i64::try_from(orders.len()).expect("few");
        for table in ["orders", "receipts"] {
            let sql = format!("select count(*) from {table} where order_id in ({list})");
            eventually(&format!("{table} of {list}"), SOON, async || self.space.count(&sql).await == count).await;
        }
        let sql = format!(
            "select count(*) from customer_totals where customer_id = '{}' and payments = {payments} and total_cents = {cents}",
            self.customer()
        );
        eventually(&format!("{payments} payments, {cents} cents"), SOON, async || self.space.count(&sql).await == 1)
            .await;
    }

    /// What the broker has denied to users of this space, as it writes it down. Members ask now and then whether any broker answers
    /// by asking for a topic that none of them needs.
    fn denied(&self) -> Vec<String> {
        let log = fs::read_to_string(self.stack.stack.data.join("kafka/server.log")).expect("the broker's log");
        let ours = format!("User:{}.", self.space.name);
        let is_denied = |line: &&str| line.contains(&ours) && line.contains("Denied");
        let lines = log.lines().filter(is_denied).filter(|line| !line.contains("__consumer_offsets"));
        lines.map(str::to_owned).collect()
    }

    /// Letters of a group with this status and count of redrives.
    async fn letters(&self, group: &str, condition: &str) -> i64 {
        let of = format!("consumer_group = '{}.{group}' and {condition}", self.space.name);
        self.space.count(&format!("select count(*) from headwater.dead_letters where {of}")).await
    }
}

/// Whether a log says that something was not allowed.
fn complains(log: &str) -> bool {
    ["uthoriz", "grant", "ERROR"].iter().any(|word| log.contains(word))
}

/// Who applies the topology makes it, twice; then each group is a process under its own principal. Orders, receipts and totals
/// come out, exactly once; an order waits for its second attempt, and one is a dead letter, is sent again and resolved; what was
/// repartitioned and processed is deleted; a lost disk is restored; the state is wiped and counted anew. Nobody is denied anything.
/// Red when a line is missing in the export: a group then stands still, or says which right it lacks; or when a process that
/// publishes nothing, that of the dead letters, makes a producer, which asks for an id and may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orders_pipeline_runs_under_exactly_the_acls_that_are_exported() {
    let scene = LeastPrivilege::new("acls_pipeline").await;
    let (space, groups) = (&scene.space, scene.groups());
    assert_eq!(groups.len(), 9, "{groups:?}");
    scene.allow(&scene.permissions, "send-receipt").await;
    scene.prints("topology", &["topology", "apply"]).await;
    assert_eq!(scene.prints("topology", &["topology", "apply"]).await, "nothing to do\n");
    let mut processes: BTreeMap<&str, Process> =
        groups.iter().map(|group| (group.as_str(), scene.run(group, group))).collect();

    faults(space, Some(json!({"status": 503, "first": 1, "order_id": "ap-2"}))).await;
    scene.pay("ap-1", 100);
    scene.pay("ap-2", 20);
    scene.pay("ap-3", 100_000);
    scene.done(&["ap-1", "ap-2", "ap-3"], (3, 100_120)).await;
    let waited = scene.foreign.ends(&format!("{}.fulfil-order.retry.1s", space.name));
    assert_eq!(waited, 1, "the second order was tried again");
    let flagged = format!("select count(*) from flagged_customers where customer_id = '{}'", scene.customer());
    eventually("the customer is flagged", SOON, async || space.count(&flagged).await == 1).await;

    faults(space, Some(json!({"status": 422, "order_id": "ap-4"}))).await;
    scene.pay("ap-4", 1);
    eventually("a dead letter", SOON, async || scene.letters("fulfil-order", "status = 'open'").await == 1).await;
    faults(space, None).await;
    scene.prints("operator", &["dlq", "redrive", "fulfil-order"]).await;
    let resolved = async || scene.letters("fulfil-order", "status = 'resolved' and redrive_count = 1").await == 1;
    eventually("it is resolved", SOON, resolved).await;
    scene.done(&["ap-1", "ap-2", "ap-3", "ap-4"], (4, 100_121)).await;

    all_flow(&scene, &groups).await;
    let purged = format!("{}.customer-totals.customer-totals.repartition", space.name);
    let deleted = || scene.foreign.watermarks(&purged).iter().map(|(low, _)| low).sum::<i64>();
    eventually("what was repartitioned is deleted", SOON, async || deleted() > 0).await;

    let totals = processes.get_mut("customer-totals").expect("a group");
    assert!(totals.stop().await.success(), "{}", totals.log());
    fs::remove_dir_all(space.dir.join("customer-totals/acls_pipeline.customer-totals")).expect("the disk is lost");
    *totals = scene.run("customer-totals", "customer-totals");
    scene.pay("ap-5", 1);
    scene.done(&["ap-5"], (5, 100_122)).await;

    assert!(totals.stop().await.success(), "{}", totals.log());
    let reset = ["offsets", "reset", "customer-totals", "--to", "earliest", "--with-state"];
    // Its member counts until its session ends.
    eventually("the group is reset", SOON, async || scene.says("operator", &reset).await.0 == 0).await;
    *totals = scene.run("customer-totals", "customer-totals");
    scene.pay("ap-6", 1);
    scene.done(&["ap-6"], (6, 100_123)).await;
    let tail = ["tail", "payment.completed", "--from-beginning", "--limit", "6"];
    assert_eq!(scene.prints("operator", &tail).await.lines().count(), 6);

    for (group, process) in &mut processes {
        assert!(process.stop().await.success(), "{group}: {}", process.log());
        assert!(!complains(&process.log()), "{group}: {}", process.log());
    }
    assert_eq!(scene.denied(), Vec::<String>::new());
    scene.warehouse.stop().await.expect("it stops");
}

/// To who looks after them all groups run and have done everything.
async fn all_flow(scene: &LeastPrivilege, groups: &[String]) {
    let flows = async || {
        let out = scene.prints("operator", &["groups", "--json"]).await;
        let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        lines.len() == groups.len() && lines.iter().all(|line| line["state"] == "running" && line["lag"] == 0)
    };
    eventually("all groups run and have no lag", SOON, flows).await;
}

/// A group that lacks one of its lines, for each kind of line: a process of it says what it may not do, to what.
/// Red when the reason is swallowed, what is missing is not named, or a topic that we may not see is only said not to exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_missing_is_named() {
    let scene = LeastPrivilege::new("acls_missing").await;
    let (code, out, err) = Process::run(PROGRAM, &scene.space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{out}\n{err}");
    scene.pay("am-1", 1);
    for (case, (group, resource, name, said)) in [
        ("send-receipt", "topic", "-payments", "we may not see it"),
        ("send-receipt", "topic", "events.receipt", "no right to write to topic \"events.receipt\": grant Write on it"),
        ("send-receipt", "group", "send-receipt", "acls_missing.send-receipt\\\": grant Read on it"),
        (
            "customer-totals",
            "transactional-id",
            "",
            "acls_missing.customer-totals.customer-totals.0\\\": grant Write on it",
        ),
        ("customer-totals", "topic", "totals.changelog", "totals.changelog\\\": grant DescribeConfigs on it"),
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("without-{case}");
        let is_missing = |of: &Permission| of.resource == resource && of.name.ends_with(name);
        let (missing, left): (Vec<_>, Vec<_>) = scene.of(group).into_iter().partition(is_missing);
        assert!(!missing.is_empty(), "{group} has no {resource} {name}");
        let user_id = format!("{}.{user}", scene.space.name);
        let left: Vec<Permission> = left.into_iter().map(|of| Permission { user: user_id.clone(), ..of }).collect();
        scene.allow(&left, &user).await;
        let mut process = scene.run(group, &user);
        process.logs(said, SOON).await;
        process.kill().await;
    }
    // Or the pipeline's test could not see either that something was denied.
    assert!(!scene.denied().is_empty(), "the broker writes down what it denies");
}

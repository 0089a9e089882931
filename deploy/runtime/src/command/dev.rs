//! `dev`: a local stack and every processor on it.
//!
//! A signal stops everything that was started, at any moment, also in the middle of starting; the exit code is 0 then,
//! since that is what was asked for. A second signal cuts it short: 130.

mod demo;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use headwater::spi::ProcessMetrics;
use headwater_dev::{
    Endpoints, KafkaChoice, PostgresChoice, RegistryChoice, Stack, StackConfig, quoted, write_endpoints,
};

pub(crate) use self::demo::AddedDemo;
pub use self::demo::Demo;
use super::{arguments::DevArguments, topology};
use crate::{
    app::{App, Loader},
    clients::Clients,
    config::{Overlay, PREFIX, Problems},
    groups::Groups,
    http::{Access, BoundAddresses, Health, Server},
    process::{instance::Instance, output::Output, signals::Stop},
    state::{LocalInstance, StateReader},
};

/// How long the groups may take to join, once the stack runs.
const JOIN: Duration = Duration::from_secs(60);
/// How long the demo may take.
const DEMO: Duration = Duration::from_secs(120);
/// Between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(
    loader: &Loader,
    arguments: DevArguments,
    demo: Option<AddedDemo>,
    stop: Stop,
) -> Result<ExitCode> {
    if arguments.demo && demo.is_none() {
        return Err(Problems::one("this program has no demo: leave --demo out").into());
    }
    let demo = demo.filter(|_| arguments.demo);
    // What is wrong is said before anything is started.
    let checked = loader.load(&[])?;
    let addresses = BoundAddresses::take(arguments.http, checked.config.http.probe_addr).await?;
    let stack = match Stack::start(stack_config(&arguments), stop.channel()).await {
        Ok(stack) => stack,
        Err(_) if stop.is_requested() => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error),
    };
    let ran = on(loader, (&arguments, demo), stack.endpoints(), addresses, stop).await;
    let stopped = stack.stop().await;
    ran?;
    stopped?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn stack_config(arguments: &DevArguments) -> StackConfig {
    StackConfig {
        kafka: match arguments.kafka.as_str() {
            "apache" => KafkaChoice::Apache,
            address => KafkaChoice::At(address.to_owned()),
        },
        postgres: match arguments.postgres.as_str() {
            "auto" => PostgresChoice::Auto,
            url => PostgresChoice::At(url.to_owned()),
        },
        registry: match arguments.registry.as_str() {
            "auto" => RegistryChoice::Auto,
            url => RegistryChoice::At(url.to_owned()),
        },
        ..StackConfig::new(&arguments.data)
    }
}

/// Everything that happens while the stack runs.
async fn on(
    loader: &Loader,
    (arguments, demo): (&DevArguments, Option<AddedDemo>),
    endpoints: &Endpoints,
    addresses: BoundAddresses,
    mut stop: Stop,
) -> Result<()> {
    let overlay = overlay(loader, (arguments, demo), endpoints)?;
    let app = loader.load(&overlay)?;
    let clients = Clients::new(&app)?;
    tokio::select! {
        applied = apply(&app, &clients) => applied?,
        () = stop.requested() => return Ok(()),
    }
    let states = ProcessMetrics::with_spans(app.spans.clone());
    let instance = Instance::claim(&app.config.dir, app.config.instance.as_deref())?;
    let health = Health::new(instance.name(), states.clone(), Some(clients.database.clone()));
    let http = &app.config.http;
    let local_instance = LocalInstance::new(instance.name(), &http.advertise, addresses.addr()?);
    let reading = StateReader::new(&app, &clients, Some(local_instance.clone()))?;
    let access = Access::new(http, clients.tokens.clone());
    let server = Server::start(addresses, (http, access), health.clone(), reading)?;
    let lines = lines(endpoints, &overlay, &server.url());
    let ended = if arguments.stack_only {
        announce(arguments, &lines)?;
        stop.requested().await;
        Ok(())
    } else {
        let groups = Groups::start(&app, &clients, &local_instance, &app.groups, &states)?;
        let worked = tokio::select! {
            worked = work(&app, &clients, &health, (arguments, demo), &lines) => worked,
            () = stop.requested() => Ok(()),
        };
        health.stopping();
        let drained = groups.drain().await;
        worked.and(drained)
    };
    server.stop().await;
    ended
}

/// The topology, with what was done in the log.
async fn apply(app: &App, clients: &Clients) -> Result<()> {
    let outcome = topology::apply(app, clients, false).await;
    outcome.done.iter().for_each(|done| tracing::info!("{done}"));
    if outcome.problems.is_empty() { Ok(()) } else { bail!("{}", outcome.problems.join("\n")) }
}

/// Waits until all is ready, says where everything is, and shows the demo or works until somebody stops it.
async fn work(
    app: &App,
    clients: &Clients,
    health: &Health,
    (arguments, demo): (&DevArguments, Option<AddedDemo>),
    lines: &[(String, String)],
) -> Result<()> {
    let missing = missing_topics(app, clients).await?;
    for topic in &missing {
        tracing::warn!(topic, "a bound topic does not exist yet: whoever owns it creates it, its groups wait for it");
    }
    let ready = async {
        // Somebody can only create them once it is known where.
        while missing.is_empty() && !health.troubles().await.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(JOIN, ready).await.is_err() {
        bail!("not ready within {JOIN:?}: {}", health.troubles().await.join("; "));
    }
    announce(arguments, lines)?;
    if let Some(demo) = demo {
        return tokio::time::timeout(DEMO, (demo.show)(app, clients))
            .await
            .unwrap_or_else(|_| bail!("the demo was not over within {DEMO:?}"));
    }
    std::future::pending().await
}

/// Bound topics that are not there.
async fn missing_topics(app: &App, clients: &Clients) -> Result<Vec<String>> {
    let topics = clients.cluster.topics().await?;
    let bound = app.pipeline.catalogue().bindings().map(|(topic, _)| topic);
    let missing = bound.filter(|bound| topics.iter().all(|topic| topic.name != *bound));
    Ok(missing.map(str::to_owned).collect())
}

/// What points a program at this stack, by setting.
fn overlay(
    loader: &Loader,
    (arguments, demo): (&DevArguments, Option<AddedDemo>),
    endpoints: &Endpoints,
) -> Result<Overlay> {
    let data = std::path::absolute(&arguments.data).context("cannot resolve --data")?;
    let state: PathBuf = data.join("state");
    let demo = demo.iter().flat_map(|demo| demo.settings).map(|(setting, value)| (*setting, (*value).to_owned()));
    let settings = [
        ("kafka.bootstrap", endpoints.kafka_bootstrap.clone()),
        ("kafka.consumer.session_timeout", "10s".to_owned()),
        ("registry.url", endpoints.schema_registry_url.clone()),
        ("postgres.url", endpoints.database_url.clone()),
        ("postgres.url_file", String::new()),
        ("postgres.password_file", String::new()),
        ("postgres.direct_url_file", String::new()),
        ("postgres.pooler", "false".to_owned()),
        // Its brokers are one.
        ("topology.replication", "1".to_owned()),
        ("topology.min_insync_replicas", "1".to_owned()),
        ("dir", state.display().to_string()),
    ];
    let settings = settings.into_iter().chain(demo).map(|(setting, value)| (setting.to_owned(), value));
    Ok(settings.chain(loader.on_stack(endpoints)).collect())
}

/// The lines of `endpoints.env`.
fn lines(endpoints: &Endpoints, overlay: &Overlay, url: &str) -> Vec<(String, String)> {
    let mut lines = endpoints.pairs();
    lines.push(("HEADWATER_HTTP".to_owned(), url.to_owned()));
    let variable = |setting: &str| format!("{PREFIX}{}", setting.to_uppercase().replace('.', "__"));
    lines.extend(overlay.iter().map(|(setting, value)| (variable(setting), value.clone())));
    // Beside `dev` several programs may run, each on a port of its own.
    lines.push((variable("http.addr"), "127.0.0.1:0".to_owned()));
    lines
}

/// Says where everything is: to people, and to other programs in `endpoints.env`.
fn announce(arguments: &DevArguments, lines: &[(String, String)]) -> Result<()> {
    write_endpoints(&arguments.data, lines).context("cannot write endpoints.env")?;
    let mut out = Output::new();
    for (name, value) in lines.iter().filter(|(name, _)| !name.starts_with(PREFIX)) {
        out.line(format_args!("{name}={value}"))?;
    }
    let file = arguments.data.join("endpoints.env");
    out.line(format_args!("ready; in another shell: set -a; . {}; set +a", quoted(&file.display().to_string())))?;
    out.flush()?;
    Ok(())
}

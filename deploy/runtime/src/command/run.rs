//! `run`: groups against the configured cluster, until a signal.

use std::process::ExitCode;

use anyhow::Result;
use headwater::spi::ProcessMetrics;

use super::arguments::RunArguments;
use crate::{
    app::{ConfiguredGroup, Loader},
    clients::{Clients, admission},
    groups::Groups,
    http::{Access, BoundAddresses, Health, Server},
    process::{instance::Instance, signals::Stop},
    state::{LocalInstance, StateReader},
};

pub(crate) async fn run(loader: &Loader, arguments: &RunArguments, mut stop: Stop) -> Result<ExitCode> {
    let overlay: Vec<_> = arguments.http.iter().map(|addr| ("http.addr".to_owned(), addr.to_string())).collect();
    let app = loader.load(&overlay)?;
    let chosen = app.select(&arguments.group)?;
    let instance = Instance::claim(&app.config.dir, app.config.instance.as_deref())?;
    let clients = Clients::new(&app)?;
    let states = ProcessMetrics::with_spans(app.spans.clone());
    let database = chosen.iter().any(ConfiguredGroup::is_stored).then(|| clients.database.clone());
    let health = Health::new(instance.name(), states.clone(), database);
    let http = &app.config.http;
    let addresses = BoundAddresses::take(http.addr, http.probe_addr).await?;
    let local_instance = LocalInstance::new(instance.name(), &http.advertise, addresses.addr()?);
    let reading = StateReader::new(&app, &clients, Some(local_instance.clone()))?;
    let access = Access::new(http, clients.tokens.clone());
    let server = Server::start(addresses, (http, access), health.clone(), reading)?;
    let groups = Groups::start(&app, &clients, &local_instance, &chosen, &states)?;
    tracing::info!(instance = instance.name(), groups = chosen.len(), "running");
    // However its groups fare: what fails is started anew. But who was never let in waits for nobody.
    let denied = tokio::select! {
        () = stop.requested() => None,
        why = admission::denied(&clients) => Some(why),
    };
    health.stopping();
    let drained = groups.drain().await;
    server.stop().await;
    if let Some(why) = denied {
        anyhow::bail!(why);
    }
    drained?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

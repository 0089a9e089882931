//! How the registry is asked: over which connections, as whom, and at which of its addresses first.
//!
//! It never knows what an answer means.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::{Client, Method, Response, StatusCode, Url, header::CONTENT_TYPE};
use schema_registry_converter::{
    async_impl::schema_registry::{SrSettings, perform_sr_call},
    error::SRCError,
    schema_registry_common::{RawError, RawRegisteredSchema, SrCall},
};

use super::{
    config::{Address, RegistryConfig, RegistryLogin},
    failure::{CallFailure, FailureCause},
};
use crate::{
    http::{describe, proxies::Proxies, reload::ReloadingClient, with_causes},
    units::Secret,
};

/// Media type of Confluent's API.
const JSON: &str = "application/vnd.schemaregistry.v1+json";

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    /// By `schema_registry_converter`.
    Converter(SrCall<'a>),
    /// What it cannot ask.
    Plain { method: &'a Method, path: &'a [&'a str], query: Option<&'a str>, body: Option<&'a str> },
}

/// The way to the registry. When a file of certificates or secrets changes, there are new connections.
#[derive(Clone, Debug)]
pub(super) struct Session {
    endpoints: Arc<ReloadingClient<Vec<Endpoint>>>,
    /// Which endpoint answered last.
    answered: Arc<AtomicUsize>,
    proxies: Proxies,
}

/// One address of the registry, and the clients that ask it.
struct Endpoint {
    address: Address,
    settings: SrSettings,
    client: Client,
}

impl Session {
    /// # Errors
    /// A sentence for people: an address that is none, a file that cannot be read.
    pub(super) fn new(config: &RegistryConfig) -> Result<Self, String> {
        let (_, proxies) = Proxies::of_environment().map_err(|error| error.0)?;
        let settings = config.clone();
        let make = move || settings.addresses()?.into_iter().map(|address| Endpoint::new(&settings, address)).collect();
        let endpoints = ReloadingClient::new("registry", config.files(), make)?;
        Ok(Self { endpoints: Arc::new(endpoints), answered: Arc::default(), proxies })
    }

    /// Asks the endpoint that answered last, then the others in their order, until one answers.
    ///
    /// # Errors
    /// What the one that answered says instead; or why none did.
    pub(super) async fn ask(&self, call: Call<'_>) -> Result<RawRegisteredSchema, CallFailure> {
        let endpoints = self.endpoints.current();
        let last = self.answered.load(Ordering::Relaxed);
        let order = [last].into_iter().chain((0..endpoints.len()).filter(|at| *at != last));
        let mut failures = Vec::new();
        for (at, endpoint) in order.filter_map(|at| Some((at, endpoints.get(at)?))) {
            let cause = match endpoint.ask(call).await {
                Ok(answer) => {
                    self.answered.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(cause) => cause,
            };
            let over = self.proxies.over(endpoint.address.url.as_str());
            let failure = CallFailure::at(&endpoint.address, cause, &over);
            if failure.answered() {
                self.answered.store(at, Ordering::Relaxed);
                return Err(failure);
            }
            failures.push(failure);
        }
        Err(CallFailure::of_all(failures))
    }
}

impl Endpoint {
    fn new(config: &RegistryConfig, address: Address) -> Result<Self, String> {
        let builder = || {
            let (builder, _) = Proxies::of_environment()?;
            config.tls.apply(builder)
        };
        let builder = || builder().map_err(|error| error.0);
        let mut settings = SrSettings::new_builder(address.base().to_owned());
        settings.set_timeout(config.timeout);
        match &address.login {
            RegistryLogin::None => {}
            RegistryLogin::Basic(user, password) => {
                settings.set_basic_authorization(user, password.as_ref().map(Secret::expose));
            }
            RegistryLogin::Bearer(token) => _ = settings.set_token_authorization(token.expose()),
        }
        let settings = settings.build_with(builder()?).map_err(|error| error.error)?;
        let client = builder()?.timeout(config.timeout).build().map_err(|error| describe(error).0)?;
        Ok(Self { address, settings, client })
    }

    async fn ask(&self, call: Call<'_>) -> Result<RawRegisteredSchema, FailureCause> {
        let host = self.address.url.host_str().unwrap_or_default();
        match call {
            Call::Converter(call) => {
                perform_sr_call(&self.settings, call).await.map_err(|error| of_converter(&error, host))
            }
            Call::Plain { method, path, query, body } => {
                let mut url = self.at(path);
                url.set_query(query);
                let answer =
                    self.send(method, url, body).await.map_err(|error| FailureCause::of_request(&error, host))?;
                read(answer).await
            }
        }
    }

    async fn send(&self, method: &Method, url: Url, body: Option<&str>) -> reqwest::Result<Response> {
        let mut request = self.client.request(method.clone(), url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, JSON).body(body.to_owned());
        }
        request = match &self.address.login {
            RegistryLogin::None => request,
            RegistryLogin::Basic(user, password) => request.basic_auth(user, password.as_ref().map(Secret::expose)),
            RegistryLogin::Bearer(token) => request.bearer_auth(token.expose()),
        };
        request.send().await
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.address.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

async fn read(answer: Response) -> Result<RawRegisteredSchema, FailureCause> {
    let status = answer.status();
    if status.is_success() {
        return answer.json().await.map_err(|error| FailureCause::Unreadable(describe(error).0));
    }
    Err(FailureCause::Status(status, answer.json().await.ok()))
}

/// The library says the status in its text alone.
fn of_converter(error: &SRCError, host: &str) -> FailureCause {
    let source = error.source();
    if let Some(said) = source.and_then(|source| source.downcast_ref::<RawError>()) {
        let status = error.error.rsplit_once("status ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
        let said = Some(said.clone()).filter(|said| said.error_code != 0);
        return FailureCause::Status(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), said);
    }
    match source.and_then(|source| source.downcast_ref::<reqwest::Error>()) {
        Some(error) if !error.is_decode() => FailureCause::of_request(error, host),
        _ => FailureCause::Unreadable(source.map_or_else(|| error.error.clone(), with_causes)),
    }
}

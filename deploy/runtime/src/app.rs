//! A pipeline and its configuration, before and after they are put together.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use headwater::{
    Delay, EventType, Order, Pipeline,
    http::Http,
    spi::{ConsumerGroup, DEAD_LETTERS, GroupSettings, SpanCounts, Tracing, Work},
};
use headwater_connectors::{
    http::HttpClient,
    kafka::{KafkaConfig, Start},
    otlp::Otlp,
    sinks::{self, SinkConnector},
};
use headwater_dev::Endpoints;
use serde::de::DeserializeOwned;

use crate::config::{
    Config, Guarantee, Kind, Layers, LogFormat, Overlay, Problems, ResolvedConfig, Section,
    group::{bounds, guarantee, needless_connections, sink_connections},
    nearest,
};

/// What a pipeline may need of the outside.
pub struct Deps {
    http: Arc<dyn Http>,
    settings: toml::Table,
    sections: toml::Table,
}

impl Deps {
    /// The HTTP client of this process, with the bounds of `[client]`.
    pub fn http(&self) -> Arc<dyn Http> {
        self.http.clone()
    }

    /// A section of the program's own.
    ///
    /// # Errors
    /// When the program has no such section.
    pub fn section<S: Section>(&self) -> anyhow::Result<S> {
        let section = self.sections.get(S::NAME).cloned();
        let section =
            section.with_context(|| format!("there is no section [{0}]: add Program::section for it", S::NAME))?;
        section.try_into().map_err(|error: toml::de::Error| anyhow::anyhow!("{}: {}", S::NAME, error.message()))
    }

    /// Reads the free section `[settings]`; deny unknown fields to have them refused.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn settings<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let settings = toml::Value::Table(self.settings.clone());
        settings.try_into().map_err(|error: toml::de::Error| anyhow::anyhow!("settings: {}", error.message()))
    }
}

pub(crate) type Build = Box<dyn Fn(&Deps) -> anyhow::Result<Pipeline>>;

/// Configuration that is not checked and a pipeline that is not built yet.
pub struct Loader {
    layers: Layers,
    build: Build,
    tracing: Tracing,
    spans: Arc<SpanCounts>,
}

/// A checked configuration and its pipeline, with the bound topics and sinks of the configuration.
pub struct App {
    pub(crate) config: Config,
    /// The same as it was read, for `config show`.
    pub(crate) tree: toml::Table,
    pub(crate) deps: Deps,
    pub(crate) pipeline: Pipeline,
    pub(crate) groups: Vec<ConfiguredGroup>,
    /// How records are traced.
    pub(crate) tracing: Tracing,
    /// What became of the process's spans.
    pub(crate) spans: Arc<SpanCounts>,
}

/// A group with its bounds and the place where it starts.
#[derive(Clone)]
pub struct ConfiguredGroup {
    /// The group.
    pub group: ConsumerGroup,
    pub(crate) settings: GroupSettings,
    pub(crate) start: Start,
    /// Connections over which a sink writes.
    pub(crate) sink_connections: usize,
    /// What its effects are promised.
    pub(crate) guarantee: Guarantee,
}

impl ConfiguredGroup {
    /// Whether the group's offsets live beside its rows, and Kafka's are a copy.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.group.work, Work::DeadLetters) || self.sink().is_some_and(SinkConnector::keeps_offsets)
    }

    /// What runs its sink, where it is one of a kind that there is.
    pub(crate) fn sink(&self) -> Option<&dyn SinkConnector> {
        sink_of(&self.group)
    }

    /// The delays of its retry topics. A sink has none: it waits with what it cannot write now. A stateful group has none
    /// either: nothing may overtake a record of its key.
    pub(crate) fn delays(&self) -> &[Delay] {
        match self.group.work {
            Work::Process(_) => self.settings.ladder.delays(),
            Work::Stateful(_) | Work::Sink(_) | Work::DeadLetters => &[],
        }
    }

    /// The names of the stores that it keeps, sorted.
    pub(crate) fn stores(&self) -> BTreeSet<&'static str> {
        self.group.stores(self.settings.order)
    }
}

impl Loader {
    pub(crate) fn new(layers: Layers, build: Build, otlp: &Otlp) -> Self {
        Self { layers, build, tracing: otlp.tracing(), spans: otlp.counts() }
    }

    /// The log's format, even where other settings are wrong.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.layers.clone().resolve().map_or(LogFormat::Text, |resolved| resolved.config.log.format)
    }

    /// The largest record that is read, bytes; the standard one where the settings are wrong.
    pub(crate) fn record_limit(&self) -> usize {
        let configured = self.layers.clone().resolve().ok().map(|resolved| resolved.config.kafka.max_record_bytes);
        usize::try_from(configured.unwrap_or(KafkaConfig::default().max_record_bytes)).unwrap_or(usize::MAX)
    }

    /// What points the program's own sections at a local stack.
    pub(crate) fn on_stack(&self, stack: &Endpoints) -> Overlay {
        self.layers.on_stack(stack)
    }

    /// Puts everything together, with a command's own settings over the configured ones.
    ///
    /// # Errors
    /// Everything that is wrong with configuration and pipeline, at once.
    pub fn load(&self, overlay: &[(String, String)]) -> Result<App, Problems> {
        let mut layers = self.layers.clone();
        layers.overlay(overlay);
        let ResolvedConfig { config, tree, mut problems } = layers.resolve()?;
        let (deps, pipeline) = match self.pipeline(&config) {
            Ok(built) => built,
            Err(error) => {
                let why = format!("{error:#}");
                // A file of `[client]` is named already, with its setting.
                if !problems.iter().any(|known| known.ends_with(&why)) {
                    problems.push(why);
                }
                return Err(Problems(problems));
            }
        };
        problems.extend(pipeline.problems());
        let all = pipeline.groups(&config.prefix);
        problems.extend(unknown_groups(&config, &all));
        let (mut groups, names) = (Vec::new(), all.iter().map(|group| group.name.clone()).collect::<Vec<_>>());
        for group in all {
            let kind = Kind::of(&group.work);
            if matches!(group.work, Work::Sink(_)) {
                problems.extend(problems_of_sink(&config, &pipeline, &group));
            }
            match bounds(&config, &group.name, kind, &group.policy) {
                Ok((settings, start)) => {
                    // Where records of events may begin is a choice; a dead letter is never passed over.
                    let start = if group.group_topics().is_some() { start } else { Start::Earliest };
                    let sink_connections = sink_connections(&config, &group.name);
                    let guarantee = guarantee(&config, &group.name, kind, settings.order);
                    if settings.order == Order::Key
                        && let Some(why) = group.unfit_for_key()
                    {
                        problems.push(format!("group {}: {why}", group.name));
                    }
                    groups.push(ConfiguredGroup { group, settings, start, sink_connections, guarantee });
                }
                Err(wrong) => problems.extend(wrong),
            }
        }
        if names == [DEAD_LETTERS] {
            problems.push("the pipeline has no group: register a processor or a sink".to_owned());
        }
        problems.sort();
        problems.dedup();
        Problems::refuse(problems)?;
        let (tracing, spans) = (self.tracing.clone(), self.spans.clone());
        Ok(App { config, tree, deps, pipeline, groups, tracing, spans })
    }

    fn pipeline(&self, config: &Config) -> anyhow::Result<(Deps, Pipeline)> {
        let deps = Deps {
            http: Arc::new(HttpClient::new(&config.client)?),
            settings: config.settings.0.clone(),
            sections: config.sections.0.clone(),
        };
        let mut pipeline = (self.build)(&deps)?;
        for (topic, binding) in &config.topics {
            pipeline = pipeline.bind(topic, binding.clone());
        }
        for (name, sink) in &config.sinks {
            pipeline = pipeline.sink_of_any_kind(name, sink.config());
        }
        Ok((deps, pipeline))
    }
}

impl App {
    /// What the pipeline was made with.
    pub fn deps(&self) -> &Deps {
        &self.deps
    }

    /// What stands before the name of every consumer group.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// The database's address, with its password.
    pub fn database_url(&self) -> &str {
        self.config.postgres.url.expose()
    }

    /// The pipeline, with the bound topics and sinks of the configuration.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Every group of it.
    pub fn groups(&self) -> &[ConfiguredGroup] {
        &self.groups
    }

    /// How records are traced.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// The groups of these names, or all of them.
    ///
    /// # Errors
    /// Names that no group has, with those there are.
    pub(crate) fn select(&self, names: &[String]) -> Result<Vec<ConfiguredGroup>, Problems> {
        let known: Vec<&str> = self.groups.iter().map(|configured| configured.group.name.as_str()).collect();
        let unknown = names.iter().filter(|name| !known.contains(&name.as_str()));
        Problems::refuse(unknown.map(|name| no_group("--group", name, &known)).collect())?;
        let wanted = |configured: &&ConfiguredGroup| names.is_empty() || names.contains(&configured.group.name);
        Ok(self.groups.iter().filter(wanted).cloned().collect())
    }
}

fn sink_of(group: &ConsumerGroup) -> Option<&dyn SinkConnector> {
    if let Work::Sink(sink) = &group.work { sinks::connector(sink.as_ref()) } else { None }
}

fn problems_of_sink(config: &Config, pipeline: &Pipeline, group: &ConsumerGroup) -> Vec<String> {
    let Some(sink) = sink_of(group) else {
        return vec![format!(
            "sink {}: it is of no kind that headwater knows: write into a table or a file",
            group.name
        )];
    };
    let own = sink.problem_of(known(pipeline, sink.event()).as_ref());
    let connections = if sink.keeps_offsets() { None } else { needless_connections(config, &group.name) };
    own.map(|why| format!("sink {}: {why}", group.name)).into_iter().chain(connections).collect()
}

/// The type of a sink's events, where the catalogue has it. What keys the records of a bound topic have is their producer's
/// choice.
fn known(pipeline: &Pipeline, event_type: &str) -> Option<EventType> {
    let catalogue = pipeline.catalogue();
    let bound = catalogue.bindings().any(|(_, binding)| binding.event_type == event_type);
    let keyless = |event: EventType| EventType { key_of: |_, _| Ok(String::new()), ..event };
    catalogue.get(event_type).map(|event| if bound { keyless(*event) } else { *event })
}

fn unknown_groups(config: &Config, groups: &[ConsumerGroup]) -> Vec<String> {
    let known: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let unknown = config.groups.keys().filter(|name| !known.contains(&name.as_str()));
    unknown.map(|name| no_group("groups", name, &known)).collect()
}

fn no_group(place: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("{place}: there is no group `{name}`; did you mean `{near}`?"),
        None => format!("{place}: there is no group `{name}`; there are {}", known.join(", ")),
    }
}

//! The configuration as a whole: layers, problems, secrets.

use std::{collections::BTreeSet, io::Write, time::Duration};

use headwater::{KeyFormat, Order, Policy};
use headwater_connectors::{
    http::HttpConfig,
    kafka::{self, KafkaConfig},
    postgres,
    registry::RegistryConfig,
    store::local::StateConfig,
    units::Secret,
};
use serde::Deserialize;
use tempfile::NamedTempFile;

use super::{
    group::{bounds, guarantee},
    *,
};

/// A section of a program's own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shop {
    url: Secret,
}

impl Section for Shop {
    const NAME: &'static str = "shop";
    const DEFAULTS: &'static str = r#"url = "http://127.0.0.1:8090""#;

    fn problems(&self) -> Vec<String> {
        let problem = "shop.url must be an address".to_owned();
        if self.url.expose().starts_with("http://") { Vec::new() } else { vec![problem] }
    }

    fn on_stack(stack: &headwater_dev::Endpoints) -> Vec<(&'static str, String)> {
        vec![("url", stack.database_url.clone())]
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn resolve(text: &str, variables: &[(&str, &str)]) -> ResolvedConfig {
    let file = file(text);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sections = vec![AddedSection::of::<Shop>()];
    Layers::read(Some(file.path()), variables).with_sections(sections).resolve().unwrap()
}

fn valid(text: &str, variables: &[(&str, &str)]) -> Config {
    let resolved = resolve(text, variables);
    assert_eq!(resolved.problems, Vec::<String>::new());
    resolved.config
}

/// Red when a value of `defaults.toml` differs from the connector's own default.
#[test]
fn the_defaults_are_the_connectors_own() {
    let config = valid("", &[]);
    assert_eq!(config.kafka, KafkaConfig::default());
    assert_eq!(config.registry, RegistryConfig::default());
    assert_eq!(config.client, HttpConfig::default());
    assert_eq!(config.state, StateConfig::default());
    assert_eq!(config.postgres.connector(), postgres::Config::new(config.postgres.url.expose()));
    let (settings, start) = bounds(&config, "any", Kind::Stateless, &Policy::new()).unwrap();
    let standard = headwater::spi::GroupSettings::default();
    assert_eq!(settings, headwater::spi::GroupSettings { drain: Duration::from_secs(18), ..standard });
    assert_eq!(start, kafka::Start::Earliest);
    assert_eq!(bounds(&config, "any", Kind::Sink, &Policy::new()).unwrap().0.linger, Duration::from_millis(100));
}

/// Red when a setting of a section is in no line of `defaults.toml`.
#[test]
fn the_defaults_name_every_setting() {
    let tree = resolve("", &[]).tree;
    for section in
        ["kafka", "kafka.consumer", "kafka.producer", "postgres", "client", "state", "topology", "log", "http"]
    {
        let problem = resolve(&format!("[{section}]\nqqqqqqqqqqqq = 1"), &[]).problems.pop().unwrap();
        let known = problem.split("known here are ").nth(1).unwrap_or_default();
        let place = section.split('.').fold(&toml::Value::Table(tree.clone()), |at, key| &at[key]).clone();
        let shown: BTreeSet<&str> = place.as_table().unwrap().keys().map(String::as_str).collect();
        // A section that is there or not has no default.
        let has_default = |name: &&str| !["tls", "sasl"].contains(name) || shown.contains(name);
        let known: BTreeSet<&str> = known.split(", ").filter(has_default).collect();
        assert_eq!(known, shown, "[{section}]");
    }
}

/// Red when the environment does not win over the file, or the file over the defaults.
#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let text = "prefix = \"shop.\"\n[kafka]\nbootstrap = \"file:1\"\n[kafka.consumer]\ndrain = \"7s\"";
    let config = valid(text, &[("HEADWATER__KAFKA__BOOTSTRAP", "environment:1"), ("UNRELATED", "x")]);
    assert_eq!(config.kafka.bootstrap, "environment:1");
    assert_eq!(config.kafka.consumer.drain, Duration::from_secs(7));
    assert_eq!(config.prefix, "shop.");
    assert_eq!(config.kafka.consumer.session_timeout, Duration::from_secs(45));
}

/// Red when a command's own settings do not win over all others.
#[test]
fn a_command_wins_over_the_environment() {
    let file = file("");
    let variables = [("HEADWATER__HTTP__ADDR".to_owned(), "127.0.0.1:1".to_owned())];
    let mut layers = Layers::read(Some(file.path()), variables);
    layers.overlay(&[("http.addr".to_owned(), "127.0.0.1:2".to_owned())]);
    assert_eq!(layers.resolve().unwrap().config.http.addr.port(), 2);
}

/// Red when a variable is only taken as text, or never.
#[test]
fn a_variable_has_the_type_that_its_setting_needs() {
    let config = valid(
        "",
        &[
            ("HEADWATER__PREFIX", "7"),
            ("HEADWATER__TOPOLOGY__PARTITIONS", "12"),
            ("HEADWATER__KAFKA__CONSUMER__PREFETCH_BYTES", "8MiB"),
            ("HEADWATER__KAFKA__PROPERTIES__socket.keepalive.enable", "true"),
            ("HEADWATER__DEFAULTS__START", "2026-01-01T00:00:00Z"),
            ("HEADWATER__DEFAULTS__LINGER", "250ms"),
        ],
    );
    assert_eq!((config.prefix.as_str(), config.topology.partitions), ("7", 12));
    assert_eq!(config.kafka.consumer.prefetch_bytes, 8 << 20);
    assert_eq!(config.kafka.properties["socket.keepalive.enable"], "true");
    let (settings, start) = bounds(&config, "any", Kind::Stateless, &Policy::new()).unwrap();
    assert_eq!(settings.linger, Duration::from_millis(250));
    assert!(matches!(start, kafka::Start::At(time) if time.millis() == 1_767_225_600_000));
}

/// Red when the parts of a binding are checked alone, a name's case is changed, or a whole section cannot be given.
#[test]
fn names_of_the_users_own_can_come_from_variables() {
    let config = valid(
        "[topics.Legacy]\ntype = \"a.b\"",
        &[
            ("HEADWATER__TOPICS__Legacy__KEY", "opaque"),
            ("HEADWATER__TOPICS__payments__TYPE", "payment.completed"),
            ("HEADWATER__SINKS", r#"{ "audit-sink" = { event = "a.b", table = "audit", mode = "insert" } }"#),
            ("HEADWATER__GROUPS", r#"{ "audit-sink" = { batch_records = 5 } }"#),
        ],
    );
    assert_eq!((config.topics["Legacy"].event_type.as_str(), config.topics["Legacy"].key), ("a.b", KeyFormat::Opaque));
    assert_eq!(config.topics["payments"].event_type, "payment.completed");
    let sink = config.sinks["audit-sink"].config();
    assert_eq!(sink.downcast_ref::<headwater::Sink>().unwrap().table, "audit");
    assert_eq!(bounds(&config, "audit-sink", Kind::Sink, &Policy::new()).unwrap().0.batch_records, 5);
}

/// Red when the first problem hides the others, a message names neither the key nor its place, or that `:8080` is no address is
/// not followed by what to write.
#[test]
fn every_problem_is_named_at_once() {
    let text = "prefix = \"events.shop.\"\ninstnce = \"x\"\n[kafak]\nx = 1\n[kafka.consumer]\ndrain = \"soon\"\n[http]\naddr = \":8080\"\n[kafka.properties]\nacks = 1\n[topics.p]\nkey = \"text\"";
    let resolved = resolve(text, &[("HEADWATER__HTTP__ADR", "127.0.0.1:1"), ("HEADWATER__TOPOLOGY__REPLICATION", "0")]);
    let problems = resolved.problems.join("\n");
    for part in [
        "there is no setting `instnce`; did you mean `instance`?",
        "what begins with `events.` are topics of events",
        "there is no setting `kafak`; did you mean `kafka`?",
        "`soon` is no duration",
        "`acks` cannot be set",
        "missing field `type`",
        "http.adr (HEADWATER__HTTP__ADR): there is no setting `adr`; did you mean `addr`?",
        "`:8080` is no address to listen on: write an IP address and a port, 0.0.0.0:8080 for every interface",
        "topology.partitions, replication and min_insync_replicas must be at least 1",
    ] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
}

/// Red when an empty section with a wrong name passes.
#[test]
fn an_empty_section_of_a_wrong_name_is_a_problem() {
    let problems = resolve("[regstry]", &[]).problems;
    assert!(problems[0].contains("did you mean `registry`?"), "{problems:?}");
}

/// Red when a file that cannot be read or parsed passes, or the parser's quote of the line is printed.
#[test]
fn a_broken_file_is_named_with_its_line_and_without_its_text() {
    let problems = resolve("prefix = \"\"\n[postgres]\nurl = \"postgres://u:hunter2@h", &[]).problems;
    assert!(problems[0].contains(", line 3: "), "{problems:?}");
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
    let missing = Layers::read(Some("/nowhere/headwater.toml".as_ref()), []).resolve().unwrap().problems;
    assert!(missing[0].contains("cannot read the configuration file /nowhere/headwater.toml"), "{missing:?}");
}

const SECRETS: &str = "[postgres]\nurl = \"postgres://me:hunter2@db:5432/shop?sslpassword=hunter2\"\n\
    [registry]\nurl = \"http://key:hunter2@registry:8081\"\npassword = \"hunter2\"\n\
    [shop]\nurl = \"http://hunter2@shop\"\n\
    [kafka.properties]\n\"sasl.username\" = \"hunter2\"\n\"sasl.password\" = \"hunter2\"\n\
    [settings]\nmail_url = \"smtp://mail?auth=hunter2\"\napi_token = \"hunter2\"\nplain = 7\nhook.url = \"hunter2\"";

/// Red when a place where secrets stand is left out of the masking.
#[test]
fn secrets_are_masked() {
    let resolved = resolve(SECRETS, &[]);
    assert_eq!(resolved.problems, Vec::<String>::new());
    let shown = masked(&resolved.tree);
    assert!(!shown.contains("hunter2"), "{shown}");
    for part in ["postgres://me:***@db:5432/shop", "http://key:***@registry:8081", "http://***@shop", "plain = 7"] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    assert!(!format!("{:?}", resolved.config).contains("hunter2"), "{:?}", resolved.config);
}

/// Red when addresses in a list are not taken from a file or a variable, or their passwords or a path is masked wrongly (`hide_all`
/// replaced by `hide`; `_file` not looked at).
#[test]
fn several_registries_come_as_a_list_or_a_text() {
    let (file, variable) = ("[registry]\nurl = [\"https://a\", \"https://u:hunter2@b\"]", "HEADWATER__REGISTRY__URL");
    let list = valid(file, &[]);
    for text in [r#"["https://a", "https://u:hunter2@b"]"#, "https://a,https://u:hunter2@b"] {
        let resolved = resolve("", &[(variable, text)]);
        assert_eq!(resolved.config.registry.url, list.registry.url);
        let shown = masked(&resolved.tree);
        assert!(
            shown.contains("https://a") && shown.contains("https://u:***@b") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&password, "hunter2").unwrap();
    let path = password.path().to_str().unwrap();
    let resolved = resolve("", &[("HEADWATER__REGISTRY__PASSWORD_FILE", path), ("HEADWATER__REGISTRY__USER", "me")]);
    assert_eq!(resolved.problems, Vec::<String>::new());
    let shown = masked(&resolved.tree);
    assert!(shown.contains(path) && !shown.contains("hunter2"), "{shown}");
}

/// Red when a file of `[client]` or `[registry]` that cannot be read passes, or is named twice.
#[test]
fn files_of_certificates_are_looked_at() {
    let problems = resolve("[client.tls]\nca = \"/nowhere/a\"\n[registry.tls]\nca = \"/nowhere/b\"", &[]).problems;
    let named = ["registry.tls: cannot read /nowhere/b", "client.tls: cannot read /nowhere/a"];
    assert!(
        problems.len() == 2 && problems.iter().zip(named).all(|(why, named)| why.starts_with(named)),
        "{problems:?}"
    );
}

/// Red when a wrong value of a secret setting is quoted.
#[test]
fn a_problem_with_a_secret_does_not_quote_it() {
    let text =
        "[registry]\npassword = 4711\nurl = \"hunter2\"\n[postgres]\nurl = \"hunter2\"\n[shop]\nurl = \"hunter2\"";
    let problems = resolve(text, &[]).problems;
    assert!(problems.len() >= 4, "{problems:?}");
    let text = problems.join("\n");
    assert!(!text.contains("hunter2") && !text.contains("4711"), "{problems:?}");
}

/// Red when an address of a database that cannot be read is no problem before somebody connects (`problem` not asked), or its
/// password is quoted.
#[test]
fn a_database_address_that_cannot_be_read_is_a_problem() {
    let problems = resolve("[postgres]\nurl = \"postgres://me:hunter2@db:54x/shop\"", &[]).problems;
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.starts_with("postgres.url: ") && problem.contains("port"), "{problem}");
    assert!(!problem.contains("hunter2"), "{problem}");
}

/// Red when `show` leaves something out, or prints what is no TOML.
#[test]
fn what_show_prints_can_be_read_back() {
    let text = "prefix = \"shop.\"\ninstance = \"till-7\"\n[topics.\"pay.ments\"]\ntype = \"payment.completed\"\n[sinks.s]\nevent = \"a.b\"\ntable = \"t\"\nkey = [\"k\"]\n[groups.s]\nlinger = \"1s\"";
    let first = resolve(text, &[]);
    let again = resolve(&masked(&first.tree), &[]);
    assert_eq!(again.problems, Vec::<String>::new());
    assert_eq!(again.tree, first.tree);
}

/// Red when a ladder or a breaker of a sink, which has neither, is taken in silence, or a ladder that is none is not shown one.
#[test]
fn what_only_processors_have_is_refused_of_a_sink() {
    let text = "[groups.any]\nretry = [\"1s\"]\norder = \"partition\"\n[groups.any.breakers.shop]\nprobes = 1";
    let config = valid(text, &[]);
    assert!(bounds(&config, "any", Kind::Stateless, &Policy::new()).is_ok());
    let problems = bounds(&config, "any", Kind::Sink, &Policy::new()).unwrap_err();
    let named = ["groups.any.retry", "groups.any.order", "groups.any.breakers"];
    assert!(
        problems.len() == 3 && named.iter().zip(&problems).all(|(name, why)| why.starts_with(name)),
        "{problems:?}"
    );
    let problems = resolve("[defaults]\nretry = 3", &[]).problems.join("\n");
    assert!(problems.contains("such as [\"1s\", \"10s\"]"), "{problems}");
}

/// Red when a setting that a stateful group cannot keep is taken in silence.
#[test]
fn what_cannot_hold_of_a_stateful_group_is_refused() {
    let text = "[groups.any]\norder = \"none\"\n[groups.any.breakers.shop]\nprobes = 1";
    let problems = bounds(&valid(text, &[]), "any", Kind::Stateful, &Policy::new()).unwrap_err();
    let named = ["groups.any.order", "groups.any.breakers"];
    assert!(
        problems.len() == 2 && named.iter().all(|name| problems.iter().any(|why| why.starts_with(name))),
        "{problems:?}"
    );
}

/// Red when a stateful group takes the order `none` of the defaults, when the order of the defaults or of the code says nothing,
/// when the order `key` leaves a group at least once, or when a setting that says so is taken in silence.
#[test]
fn the_order_decides_what_is_promised() {
    let bounds =
        |text: &str, kind, policy: &Policy| bounds(&valid(text, &[]), "any", kind, policy).map(|(all, _)| all.order);
    let none = Policy::new();
    for (text, stateless, stateful) in [
        ("", Order::None, Order::Key),
        ("[defaults]\norder = \"partition\"", Order::Partition, Order::Partition),
        ("[groups.any]\norder = \"partition\"", Order::Partition, Order::Partition),
        ("[groups.any]\norder = \"key\"", Order::Key, Order::Key),
    ] {
        assert_eq!(bounds(text, Kind::Stateless, &none), Ok(stateless), "{text}");
        assert_eq!(bounds(text, Kind::Stateful, &none), Ok(stateful), "{text}");
    }
    assert_eq!(bounds("", Kind::Stateless, &Policy::new().order(Order::Key)), Ok(Order::Key));
    let config = valid("", &[]);
    assert_eq!(guarantee(&config, "any", Kind::Stateless, Order::Key), Guarantee::ExactlyOnce);
    assert_eq!(guarantee(&config, "any", Kind::Stateless, Order::Partition), Guarantee::AtLeastOnce);
    let text = "[groups.any]\norder = \"key\"\ndelivery = \"at-least-once\"";
    let problems = bounds(text, Kind::Stateless, &none).unwrap_err();
    assert!(problems.len() == 1 && problems[0].starts_with("groups.any.delivery"), "{problems:?}");
}

/// Red when what `[defaults]` says of stateless groups takes exactly once from a stateful one, which would have to say it
/// itself; or when one that says so commits in transactions, gathers for one, or has an order that is kept in them.
#[test]
fn a_stateful_group_is_exactly_once_unless_it_says_otherwise() {
    let config = valid("[defaults]\ndelivery = \"at-least-once\"\n[groups.told]\ndelivery = \"at-least-once\"", &[]);
    assert_eq!(guarantee(&config, "any", Kind::Stateful, Order::Key), Guarantee::ExactlyOnce);
    assert_eq!(guarantee(&config, "told", Kind::Stateful, Order::Partition), Guarantee::AtLeastOnce);
    let order = |name| bounds(&config, name, Kind::Stateful, &Policy::new()).unwrap().0.order;
    assert_eq!((order("any"), order("told")), (Order::Key, Order::Partition));
    let linger = |name| bounds(&config, name, Kind::Stateful, &Policy::new()).unwrap().0.linger;
    assert_eq!((linger("any"), linger("told")), (Duration::from_millis(100), Duration::ZERO));
}

/// Red when a section of the program's own has no defaults, does not take its settings from a file, the variables and the local
/// stack, is not what the pipeline is told, or is not checked by its type: keys, values and what it says of itself.
#[test]
fn a_section_of_the_programs_own_is_as_good_as_any() {
    let url =
        |resolved: &ResolvedConfig| resolved.config.sections.0["shop"]["url"].as_str().unwrap_or_default().to_owned();
    assert_eq!(url(&resolve("", &[])), "http://127.0.0.1:8090");
    assert_eq!(url(&resolve("[shop]\nurl = \"http://file\"", &[])), "http://file");
    let told = [("HEADWATER__SHOP__URL", "http://environment")];
    assert_eq!(url(&resolve("[shop]\nurl = \"http://file\"", &told)), "http://environment");
    assert_eq!(resolve("", &told).tree["shop"]["url"].as_str(), Some("http://environment"));
    for (text, why) in [
        ("[shopp]\nurl = \"http://x\"", "did you mean `shop`?"),
        ("[shop]\nurk = 1", "shop.urk"),
        ("[shop]\nurk = 1", "did you mean `url`?"),
        ("[shop]\nurl = 1", "not a value that this setting can have"),
        ("[shop]\nurl = \"ftp://x\"", "shop.url must be an address"),
    ] {
        let problems = resolve(text, &[]).problems;
        assert!(problems.len() == 1 && problems[0].contains(why), "{text}: {problems:?}");
    }
    let stack = headwater_dev::Endpoints {
        kafka_bootstrap: String::new(),
        schema_registry_url: String::new(),
        database_url: "http://stack".to_owned(),
        warehouse_url: String::new(),
    };
    let layers = Layers::read(Some(file("").path()), []).with_sections(vec![AddedSection::of::<Shop>()]);
    assert_eq!(layers.on_stack(&stack), [("shop.url".to_owned(), "http://stack".to_owned())]);
}

/// Red when a program's own section takes the place of one that every program has.
#[test]
fn a_section_has_a_name_of_its_own() {
    struct Kafka;
    impl<'de> Deserialize<'de> for Kafka {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }
    impl Section for Kafka {
        const NAME: &'static str = "kafka";
        const DEFAULTS: &'static str = "";
    }
    let layers = Layers::read(Some(file("").path()), []).with_sections(vec![AddedSection::of::<Kafka>()]);
    let problems = layers.resolve().map_or_else(|problems| problems.0, |resolved| resolved.problems);
    assert!(problems.join("\n").contains("two sections are named [kafka]"), "{problems:?}");
}

/// Red when a section of HTTP with nothing in it is a problem, a file of no use is none, one problem hides the others, a token of
/// a broken file is quoted, or the file's path is hidden.
#[test]
fn what_is_wrong_with_http_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "shop hunter2").unwrap();
    let text = format!("[http]\ntoken_file = \"{}\"\nprobe_addr = \"127.0.0.1:0\"", tokens.display());
    let resolved =
        resolve(&text, &[("HEADWATER__HTTP__PEERS", r#"["*.shop"]"#), ("HEADWATER__HTTP__DELEGATES", r#"["desk"]"#)]);
    assert_eq!(resolved.problems, Vec::<String>::new());
    assert_eq!(resolved.config.http.token_file.as_deref(), Some(tokens.as_path()));
    assert!(masked(&resolved.tree).contains(&tokens.display().to_string()), "{}", masked(&resolved.tree));
    assert_eq!(valid("", &[]).http.token_file, None);
    std::fs::write(&tokens, "shop hunter2 hunter3").unwrap();
    let text = format!(
        "[http]\naddr = \"127.0.0.1:80\"\nprobe_addr = \"127.0.0.1:80\"\ntoken_file = \"{}\"\npeers = [\"a:80\"]\n\
         [http.tls]\ncert = \"/nowhere/cert.pem\"",
        tokens.display()
    );
    let problems = resolve(&text, &[]).problems.join("\n");
    for part in ["line 1", "`a:80` is no pattern", "http.probe_addr is http.addr", "cert and key, which go together"] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
    assert!(!problems.contains("hunter"), "{problems}");
    let problems = resolve("[http]\ndelegates = [\"desk\"]", &[]).problems.join("\n");
    assert!(problems.starts_with("http.delegates wants http.token_file"), "{problems}");
}

/// Red when a probe is sent to an address that nobody listens on, in plain text where TLS is spoken, or to port 0.
#[test]
fn a_probe_knows_where_to_ask() {
    let at = |text: &str| valid(&format!("[http]\n{text}"), &[]).http.probed_at();
    assert_eq!(at("addr = \"0.0.0.0:8080\"").as_deref(), Some("http://127.0.0.1:8080"));
    assert_eq!(at("addr = \"[::]:8080\"").as_deref(), Some("http://[::1]:8080"));
    assert_eq!(at("addr = \"127.0.0.1:0\""), None);
    assert_eq!(at("addr = \"127.0.0.1:0\"\nprobe_addr = \"10.0.0.7:81\"").as_deref(), Some("http://10.0.0.7:81"));
    let mut http = valid("[http]\nprobe_addr = \"0.0.0.0:81\"", &[]).http;
    http.tls = Some(crate::auth::ServerTlsConfig::default());
    assert_eq!(http.probed_at().as_deref(), Some("http://127.0.0.1:81"));
    http.probe_addr = None;
    assert_eq!(http.probed_at().as_deref(), Some("https://127.0.0.1:8080"));
}

/// Red when a sink of a misspelt kind, of two or of none is taken, or it is not said what to write.
#[test]
fn a_sink_says_once_where_it_writes() {
    let text = "[sinks.a]\nevent = \"a.b\"\nfile = \"lines\"\n[sinks.b]\nevent = \"a.b\"\nfiel = \"lines\"\n\
                [sinks.c]\nevent = \"a.b\"\nfile = \"lines\"\ntable = \"t\"\n[sinks.d]\nevent = \"a.b\"";
    let resolved = resolve(text, &[("HEADWATER__SINKS__e__EVENT", "a.b"), ("HEADWATER__SINKS__e__FILE", "lines")]);
    let kept: Vec<&str> = resolved.config.sinks.keys().map(String::as_str).collect();
    assert_eq!(kept, ["a", "e"]);
    let problems = resolved.problems.join("\n");
    for part in [
        "there is no setting `fiel`; did you mean `file`?",
        "`table` and `file` are given: make it two sinks",
        "give `table`, a table in postgres, or `file`, a file of JSON lines",
    ] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
}

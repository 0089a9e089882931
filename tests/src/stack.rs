//! The stack that all tests of a run share; started at the first use, gone with the process.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
};

use headwater_connectors::security::tls::install_provider;
use headwater_dev::{Apicurio, Endpoints, Stack, StackConfig};
use tokio::sync::watch;

/// A running stack and where it listens: the one that tests share, or one that a test has started for itself.
pub struct SharedStack {
    /// Where everything listens.
    pub endpoints: Endpoints,
    /// Where it keeps its data.
    pub data: PathBuf,
    /// Held for the life of the process where it is shared: its servers end with us.
    _stack: Option<Mutex<Stack>>,
}

impl SharedStack {
    /// The stack that listens here, which somebody else holds.
    pub fn at(endpoints: Endpoints, data: PathBuf) -> Self {
        // A test's own HTTP client wants it too.
        install_provider();
        Self { endpoints, data, _stack: None }
    }

    /// A stack that is held from now on, with its folder.
    pub(crate) fn of(stack: Stack, data: &Path) -> Self {
        let shared = Self::at(stack.endpoints().clone(), data.to_owned());
        Self { _stack: Some(Mutex::new(stack)), ..shared }
    }
}

/// The stack of this run, on a fresh folder under `target_tmp` (`env!("CARGO_TARGET_TMPDIR")` of the test).
///
/// # Panics
/// When it does not start; the message says what is missing.
pub fn stack(target_tmp: &str) -> &'static SharedStack {
    static STACK: OnceLock<SharedStack> = OnceLock::new();
    STACK.get_or_init(|| {
        let filter = std::env::var("HEADWATER_LOG").unwrap_or_else(|_| "warn".to_owned());
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
        start_open(free_folder(Path::new(target_tmp), "stack"))
    })
}

/// Another stack, for tests that would see what all others leave on the shared topics; started at its first use too.
///
/// # Panics
/// As [`stack`].
pub fn quiet_stack(target_tmp: &str) -> &'static SharedStack {
    static STACK: OnceLock<SharedStack> = OnceLock::new();
    STACK.get_or_init(|| start_open(free_folder(Path::new(target_tmp), "quiet")))
}

/// The first folder of this kind of stack that no other run uses at this time, emptied. Two kinds may start at once.
pub(crate) fn free_folder(target_tmp: &Path, kind: &str) -> PathBuf {
    let folders = (0..8).map(|n| target_tmp.join(format!("{kind}-{n}")));
    let free = |folder: &PathBuf| headwater_dev::remove_data(folder).is_ok();
    folders
        .into_iter()
        .find(free)
        .expect("a folder of an earlier run can be removed: is another stack on each of them?")
}

/// The base address of an Apicurio Registry, Confluent's API; started at the first use, gone with the process.
///
/// # Panics
/// When it does not start; the message says what is missing.
pub fn apicurio(stack: &SharedStack) -> String {
    static APICURIO: OnceLock<Mutex<Apicurio>> = OnceLock::new();
    let start = || {
        let data = stack.data.join("apicurio");
        let cache = StackConfig::new(&data).cache;
        Mutex::new(serve(async move { Apicurio::start(&data, &cache).await }))
    };
    APICURIO.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner).url()
}

fn start_open(data: PathBuf) -> SharedStack {
    let config = StackConfig { for_tests: true, ..StackConfig::new(&data) };
    serve(async move { Ok(SharedStack::of(start(config).await?, &data)) })
}

/// Starts a stack that nobody cancels.
pub(crate) async fn start(config: StackConfig) -> anyhow::Result<Stack> {
    let (_keep, cancel) = watch::channel(false);
    Stack::start(config, cancel).await
}

/// Starts servers on a runtime of their own: a test's ends with the test.
pub(crate) fn serve<T: Send + 'static>(start: impl Future<Output = anyhow::Result<T>> + Send + 'static) -> T {
    let (started, starting) = mpsc::channel();
    let serve = move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        started.send(runtime.block_on(start)).expect("somebody waits");
        runtime.block_on(std::future::pending::<()>());
    };
    std::thread::Builder::new().name("servers".to_owned()).spawn(serve).expect("a thread");
    starting.recv().expect("the servers' thread lives").expect("they start")
}

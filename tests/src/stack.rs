//! The stack that all tests of a run share; started at the first use, gone with the process.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, mpsc},
};

use headwater_dev::{Endpoints, Stack, StackConfig};
use tokio::sync::watch;

/// A running stack and where it listens.
pub struct SharedStack {
    /// Where everything listens.
    pub endpoints: Endpoints,
    /// Where it keeps its data.
    pub data: PathBuf,
    /// Held for the life of the process: its servers end with us.
    _stack: Mutex<Stack>,
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
        start(&Path::new(target_tmp).join("stack"))
    })
}

/// Servers live on a runtime of their own: a test's ends with the test.
fn start(data: &Path) -> SharedStack {
    headwater_dev::remove_data(data).expect("the last run's data can be removed");
    let config = StackConfig { for_tests: true, ..StackConfig::new(data) };
    let (started, starting) = mpsc::channel();
    let serve = move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (_keep, cancel) = watch::channel(false);
        started.send(runtime.block_on(Stack::start(config, cancel))).expect("somebody waits");
        runtime.block_on(std::future::pending::<()>());
    };
    std::thread::Builder::new().name("stack".to_owned()).spawn(serve).expect("a thread");
    let stack = starting.recv().expect("the stack's thread lives").expect("the stack starts");
    SharedStack { endpoints: stack.endpoints().clone(), data: data.to_owned(), _stack: Mutex::new(stack) }
}

//! Rules of this crate and of the framework below it that only the compiler and cargo can check.

use std::{env, process::Command};

/// Every signature that the label takes, next to the wrong ones: this file would not compile if one were refused.
#[allow(dead_code, reason = "they are compiled, not run")]
mod right {
    use std::future::Future;

    use headwater::{Any, Draft, Emit, Event, Result, on_event};
    use headwater_schemas::{OrderFulfilled, PaymentCompleted, ReceiptRequested};

    #[derive(Clone)]
    struct Desk;

    #[on_event("payment.completed")]
    async fn payload(_payment: PaymentCompleted) -> Result<()> {
        Ok(())
    }

    #[on_event("payment.completed")]
    pub(super) async fn event(payment: Event<PaymentCompleted>) -> headwater::Result<Option<PaymentCompleted>> {
        Ok(Some(payment.data))
    }

    #[on_event("payment.*")]
    async fn pattern(_any: Event<Any>) -> Result<Vec<ReceiptRequested>> {
        Ok(Vec::new())
    }

    #[on_event("payment.completed")]
    async fn dependency(_desk: Desk, _payment: PaymentCompleted) -> Result<(Vec<OrderFulfilled>, ())> {
        Ok((Vec::new(), ()))
    }

    #[on_event("payment.completed")]
    async fn opaque(_payment: PaymentCompleted) -> Result<impl Emit> {
        Ok(None::<Draft<OrderFulfilled>>)
    }

    #[on_event("payment.completed")]
    fn future(payment: PaymentCompleted) -> impl Future<Output = Result<PaymentCompleted>> + Send {
        std::future::ready(Ok(payment))
    }

    #[on_event("payment.completed")]
    fn stateful(total: &mut i64, payment: PaymentCompleted) -> Result<Option<OrderFulfilled>> {
        *total += payment.amount_cents;
        Ok(None)
    }

    #[on_event("no.such.event")]
    #[cfg(any())]
    async fn left_out(_payment: Missing) -> Result<()> {
        Ok(())
    }
}

/// The compiler whose words `tests/wrong` quotes.
const COMPILER: &str = "rustc 1.95.";

/// Red when the sentence of `Input`, `Emit` or `IntoProcessor` is dropped, or one of the label's checks, or its span.
#[test]
fn wrong_signatures_are_answered_with_a_sentence() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("--version").output().expect("the compiler's version").stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(COMPILER) {
        eprintln!("SKIPPED: the answers are pinned in the words of {COMPILER}x, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/wrong/*.rs");
}

/// Clients, and what they stand on: none may be below the framework or the processors.
const CLIENTS: [&str; 14] = [
    "axum",
    "fjall",
    "h2",
    "hyper",
    "mio",
    "native-tls",
    "rdkafka",
    "reqwest",
    "rustls",
    "schema_registry_converter",
    "socket2",
    "sqlx",
    "tungstenite",
    "ureq",
];

/// Every client that a crate depends on, and tokio's `net`.
fn io_of(package: &str) -> Vec<String> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "-e", "normal,features", "--prefix", "none", "-p", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(tree.contains("serde v1"), "this is no tree of {package}:\n{tree}");
    let client = |line: &str| {
        let name = line.split(' ').next().unwrap_or_default();
        CLIENTS.iter().any(|c| name.strip_prefix(c).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_'])))
    };
    let net = |line: &str| line.starts_with("tokio feature \"net\"") || line.starts_with("tokio feature \"full\"");
    let mut found: Vec<_> = tree.lines().filter(|line| client(line) || net(line)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

/// Red when `reqwest`, or tokio with `net`, stands in the dependencies of either.
#[test]
fn neither_the_framework_nor_the_processors_know_an_io_client() {
    for package in ["headwater", "headwater-schemas", "headwater-processors"] {
        assert_eq!(io_of(package), [""; 0], "below {package}");
    }
    // The check itself, on the crate that has them all.
    let connectors = io_of("headwater-connectors").join("\n");
    for known in ["rdkafka v", "rdkafka-sys v", "sqlx-core v", "reqwest v", "tokio feature \"net\""] {
        assert!(connectors.contains(known), "`{known}` is not seen in\n{connectors}");
    }
}

//! A user's own program, outside the workspace: the files that `docs/your-own-program.md` shows, built and run as they stand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use apache_avro::{Schema, types::Value};
use headwater_tests::{ForeignClient, Process, encode, eventually, patience, register};
use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::{PROGRAM, space};

/// Where the page has Headwater's sources, as the program's manifest sees them.
const SOURCES: &str = "../headwater/";

const SOON: Duration = Duration::from_mins(1);

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace")
}

/// The page's files by name: blocks whose line before ends with a name, `` `src/main.rs`: ``.
fn files() -> Vec<(String, String)> {
    let page = fs::read_to_string(workspace().join("docs/your-own-program.md")).expect("the page");
    let parts: Vec<&str> = page.split("```").collect();
    let named = |pair: &[&str]| {
        let (_, name) = pair[0].trim_end().strip_suffix("`:")?.rsplit_once('`')?;
        let (_, text) = pair[1].split_once('\n')?;
        Some((name.to_owned(), text.replace(SOURCES, &format!("{}/", workspace().display()))))
    };
    parts.chunks_exact(2).filter_map(named).collect()
}

/// Builds the program in this folder, with what is built already wherever it is the same.
async fn build(folder: &Path) -> PathBuf {
    for (name, text) in files() {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    // The versions that are fetched already.
    fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).expect("copied");
    let built = Path::new(PROGRAM).parent().expect("a folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--offline", "--target-dir"]).arg(built.parent().expect("a folder"));
    // The workspace's own profile, or everything is built anew.
    cargo.args(["--config", "profile.dev.debug='line-tables-only'", "--config", "profile.dev.package.'*'.debug=false"]);
    cargo.args(built.ends_with("release").then_some("--release"));
    let build = cargo.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience(Duration::from_mins(10)), build).await;
    let output = output.expect("built in time").expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built.join("parcels")
}

/// A scan as a foreign client writes it.
fn scan(id: u32, schema: &Schema, parcel: &str, place: &str) -> Vec<u8> {
    let text = |text: &str| Value::String(text.to_owned());
    let fields = [
        ("parcel_id", text(parcel)),
        ("place", text(place)),
        ("scanned_at", Value::TimestampMicros(1_767_225_600_000_000)),
    ];
    encode(id, schema, Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// The page's program, outside the workspace: it applies its topology, what a foreign client sends becomes a row and a
/// state that it answers for, and it stops when it is asked to.
/// Red when the page's manifest lacks a crate that its program uses, `#[on_event]` names another event than the function
/// takes, the state's field has another name, or the pipeline has no sink.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_own_program_is_built_outside_the_workspace_and_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = build(folder.path()).await;
    let program = program.to_str().expect("text");
    let space = space("program").await.without_warehouse();
    let (code, _, err) = Process::run(program, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");

    let text = fs::read_to_string(folder.path().join("schemas/parcel.scanned.avsc")).expect("the page's schema");
    let schema = Schema::parse_str(&text).expect("valid");
    let id = register(&space, "events.parcel-value", &text).await;
    let foreign = ForeignClient::new(&space);
    for (parcel, place) in [("p1", "Lyon"), ("p1", "Lyon"), ("p2", "Oslo"), ("p1", "Bern")] {
        foreign.send("events.parcel", Some(parcel), Some(&scan(id, &schema, parcel, place)), &[]);
    }
    foreign.flush();

    let mut process = Process::start(program, &space, "run", &["run"], &[]);
    let row =
        "select count(*) from public.parcels where (parcel_id, place, scans) in (('p1', 'Bern', 3), ('p2', 'Oslo', 1))";
    eventually("both parcels are where they were last", SOON, async || space.count(row).await == 2).await;
    let url = format!("{}/v1/state/follow-parcel/journeys/p1", process.address().await);
    let counted = async || {
        let state: Json = reqwest::get(&url).await.expect("it answers").json().await.expect("json");
        state["value"] == json!({"place": "Bern", "scans": 3})
    };
    eventually("it answers for a parcel's journey", SOON, counted).await;
    assert!(process.stop().await.success(), "{}", process.log());
}

//! The sink into a file: every payment is a line, whatever is killed or cannot be written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use headwater_tests::{Process, eventually};
use serde_json::Value as Json;

use crate::{
    PROGRAM,
    failure::retry::applied,
    faults::{outage::ready, supervision},
    space,
};

const SOON: Duration = Duration::from_mins(1);
const CONFIG: &str = "[sinks.paid]\nevent = \"payment.completed\"\nfile = \"lines/paid.jsonl\"\n\
                      [defaults]\nbatch_records = 200\nbackoff_max = \"1s\"\n";

/// The lines of a file that are of this topic, each whole JSON; but for a last one that is being written.
fn lines(file: &Path, topic: &str) -> Vec<Json> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line| serde_json::from_str::<Json>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(line).filter(|line| line["topic"] == topic).collect()
}

/// The places of the records of these lines, each with its id.
fn places(lines: &[Json]) -> BTreeMap<(i64, i64), BTreeSet<String>> {
    let mut places: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in lines {
        let number = |name: &str| line[name].as_i64().expect("a number");
        let id = line["id"].as_str().expect("an id").to_owned();
        places.entry((number("partition"), number("offset"))).or_default().insert(id);
    }
    places
}

/// Writes the beginning of a line, and holds the file's lock until it is closed.
fn begin_line(path: &Path, beginning: &[u8]) -> File {
    let mut file = File::options().append(true).open(path).expect("there");
    file.lock().expect("locked");
    file.write_all(beginning).expect("written");
    file
}

/// Two processes of one group append to one file. It cannot be written at first, is locked by another program for a while, and
/// cannot be written again amid the load; both are killed in turn, and one leaves half a line: every payment is there, a
/// tombstone too, and every line whole. Red when the file's lock is not asked for (nobody waits for the other program then, and
/// its line is torn), when half a line is not cut off (the next line begins behind it), when a unit is dropped, when one is
/// committed before it is written, or when an outage is not waited for, on `/readyz` and in `groups` with what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_are_lines_whatever_is_killed_or_cannot_be_written() {
    let space = space("file_sink").await;
    let (topic, foreign, payments) = applied(&space, 4, CONFIG).await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "show"], &[], "").await;
    assert!(code == 0 && out.contains("writes file lines/paid.jsonl"), "{out}{err}");
    let mut sent = 0;
    let mut send = |count: usize| {
        for n in sent..sent + count {
            let order = format!("o{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, None)), &[]);
        }
        foreign.flush();
        sent += count;
    };
    let (folder, file) = (space.dir.join("lines"), space.dir.join("lines/paid.jsonl"));
    let start = |name: &str| Process::start(PROGRAM, &space, name, &["run", "--group", "paid"], &[]);
    let distinct = || places(&lines(&file, &topic)).len();

    send(5_000);
    let mut one = start("one");
    let http = one.address().await;
    let waits = async |http: &str| {
        let (status, text) = ready(http).await;
        status == 503 && text.contains("paid") && text.contains("make its folder")
    };
    eventually("/readyz says that the folder is not there", SOON, async || waits(&http).await).await;
    fs::create_dir(&folder).expect("made");
    eventually("every payment is a line", SOON, async || distinct() == 5_000).await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;

    let mut two = start("two");
    eventually("the other is ready", SOON, async || ready(&two.address().await).await.0 == 200).await;
    // A program that keeps to the lock writes a line in two parts.
    let mut other = begin_line(&file, b"{\"topic\":");
    send(20_000);
    let locked = async |http: &str| ready(http).await.1.contains("another process has had it locked");
    eventually("/readyz says that the file is locked", SOON, async || locked(&http).await).await;
    other.write_all(b"\"other\"}\n").expect("written");
    drop(other);
    eventually("some of them are lines", SOON, async || distinct() > 7_000).await;
    one.kill().await;
    // As much of a line as a kill amid a write leaves.
    drop(begin_line(&file, b"{\"category\":\"dom"));
    eventually("the other goes on", SOON, async || distinct() > 10_000).await;
    one = start("one");
    two.kill().await;

    fs::rename(&folder, space.dir.join("away")).expect("renamed");
    send(999);
    foreign.send(&topic, Some("gone"), None, &[]);
    foreign.flush();
    let http = one.address().await;
    eventually("/readyz says that the folder has gone", SOON, async || waits(&http).await).await;
    eventually("`groups` says it too", SOON, async || {
        supervision::group(&space, "paid", &http).await.to_string().contains("make its folder")
    })
    .await;
    fs::rename(space.dir.join("away"), &folder).expect("renamed");
    two = start("two");
    eventually("every payment is a line", SOON, async || distinct() == 26_000).await;
    let group = format!("{}.paid", space.name);
    eventually("the group is through", SOON, async || foreign.passed(&group, &topic) == 26_000).await;
    assert!(one.stop().await.success(), "{}", one.log());
    assert!(two.stop().await.success(), "{}", two.log());

    assert_eq!(lines(&file, "other").len(), 1, "the line that was written in two parts is whole");
    let lines = lines(&file, &topic);
    let places = places(&lines);
    let source: BTreeSet<(i64, i64)> =
        foreign.read(&topic).iter().map(|seen| (i64::from(seen.place.0), seen.place.1)).collect();
    assert_eq!(places.keys().copied().collect::<BTreeSet<_>>(), source);
    assert!(places.values().all(|ids| ids.len() == 1), "a line that comes again has the id of the first");
    assert!(one.log().contains("half a line") || two.log().contains("half a line"), "the half line was met and cut");
    let tombstone = lines.iter().find(|line| line["key"] == "gone").expect("a line");
    assert_eq!((&tombstone["data"], &tombstone["type"]), (&Json::Null, &Json::from("payment.completed")));
    println!("26000 payments, {} lines again", lines.len() - places.len());
}

/// What says nothing to a sink into a file is refused, and where a table is asked for, that it is none; `config show` gives
/// it back. Red when such a setting is taken in silence, as a folder is where `FileSink` does not ask whether a file is named, or
/// when a file passes for a table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sink_into_a_file_cannot_have_is_refused() {
    let space = space("file_sink_settings").await;
    let path = space.dir.join("headwater.toml");
    let run = async |config: String, arguments: &[&str]| {
        fs::write(&path, config).expect("written");
        Process::run(PROGRAM, &space, arguments, &[], "").await
    };
    let (code, out, err) = run(CONFIG.to_owned(), &["config", "show"]).await;
    assert!(code == 0 && out.contains("file = \"lines/paid.jsonl\""), "{out}{err}");
    let (code, out, err) = run(CONFIG.to_owned(), &["topology", "apply"]).await;
    assert_eq!(code, 0, "{out}{err}");
    for (more, arguments, why) in [
        (
            "[groups.paid]\nsink_connections = 2",
            &["config", "check"][..],
            "groups.paid.sink_connections: of sinks into",
        ),
        ("[groups.paid]\nretry = [\"1s\"]", &["config", "check"], "groups.paid.retry: of processors only"),
        ("[sinks.dir]\nevent = \"payment.completed\"\nfile = \"lines/\"", &["config", "check"], "`lines/`, a folder"),
        ("", &["load", "payment.completed", "--to-table", "paid"], "there is no sink `paid` into a table"),
    ] {
        let (code, out, err) = run(format!("{CONFIG}{more}\n"), arguments).await;
        assert!(code == 2 && err.contains(why), "{arguments:?} {code}: {out}{err}");
    }
}

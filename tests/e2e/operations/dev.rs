//! `headwater dev`: the whole set-up by one command, and a clean end at any moment.

use std::{path::Path, process::Stdio, time::Duration};

use headwater_tests::{eventually, patience};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::PROGRAM;

/// A folder of this name for a stack of its own, empty.
fn folder(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    headwater_dev::remove_data(&folder).expect("an old folder can be removed");
    folder
}

fn dev(folder: &Path, args: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["dev", "--http", "127.0.0.1:0", "--data"])
        .arg(folder)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts")
}

/// Processes whose command line names the folder.
fn left_over(folder: &Path) -> Vec<String> {
    let name = folder.display().to_string();
    let lines = std::fs::read_dir("/proc").expect("proc").filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&name)).collect()
}

/// Red when the demo prints what it sent instead of what it read back, or leaves a server behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_prints_what_became_of_its_events_and_ends() {
    let folder = folder("demo");
    let demo = dev(&folder, &["--demo"]).wait_with_output();
    let output =
        tokio::time::timeout(patience(Duration::from_mins(3)), demo).await.expect("the demo ends").expect("output");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for part in ["KAFKA_BOOTSTRAP", "payment.completed", "order.fulfilled", "receipt.requested", "orders", "receipts"] {
        assert!(out.contains(part), "{part} is not printed:\n{out}");
    }
    ids_are_of_what_was_read_back(&out);
    assert!(!folder.join("endpoints.env").exists(), "nothing runs, so nothing can be reached");
    eventually("no process is left", Duration::from_secs(15), async || left_over(&folder).is_empty()).await;
    headwater_dev::remove_data(&folder).expect("removed");
}

/// The ids in the causation tree follow from each other as the contract says, which only those that were on the broker do;
/// and the rows name them too.
fn ids_are_of_what_was_read_back(out: &str) {
    let tree = out.find("the causation tree").map(|at| &out[at..]).unwrap_or_else(|| panic!("no tree in:\n{out}"));
    let id = |event_type: &str| {
        let after =
            tree.split_once(&format!("{event_type} ")).unwrap_or_else(|| panic!("no {event_type} in:\n{tree}")).1;
        after.split(',').next().unwrap_or_default().to_owned()
    };
    let payment = id("payment.completed");
    let namespace = uuid::Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);
    for (event_type, processor) in [("order.fulfilled", "fulfil-order"), ("receipt.requested", "send-receipt")] {
        let name = format!("kafka://events.payment\n{payment}\n{processor}\n0");
        let derived = uuid::Uuid::new_v5(&namespace, name.as_bytes()).to_string();
        assert_eq!(id(event_type), derived, "{event_type} in:\n{tree}");
        assert!(tree.contains(&format!("hw_event_id {derived}, hw_causation_id {payment}")), "its row in:\n{tree}");
    }
}

/// Red when a signal during the start is ignored, or a server outlives the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_in_the_middle_of_starting_leaves_nothing_behind() {
    for (delay, signal) in [(300, Signal::INT), (1_500, Signal::TERM), (3_000, Signal::INT)] {
        let folder = folder("interrupted");
        let broker = || folder.join("kafka/console.log").exists();
        let mut child = dev(&folder, &["--stack-only"]);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if delay == 3_000 {
            eventually("the broker is starting", Duration::from_mins(1), async || broker()).await;
        }
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(pid, signal).expect("sent");
        let status = tokio::time::timeout(patience(Duration::from_secs(30)), child.wait())
            .await
            .expect("it ends")
            .expect("status");
        assert!(status.success(), "after {delay} ms: {status}");
        // The broker's folder is made ready by another program first, which takes a second.
        assert!(delay > 300 || !broker(), "the broker was started after the signal");
        eventually("no process is left", Duration::from_secs(15), async || left_over(&folder).is_empty()).await;
        headwater_dev::remove_data(&folder).expect("removed");
    }
}

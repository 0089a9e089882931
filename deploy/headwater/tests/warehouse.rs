//! `[warehouse]`: the product's own section of the configuration.

use std::process::{Command, Output};

/// `config` with this argument, in an empty folder, with this warehouse.
fn config(argument: &str, warehouse: Option<&str>) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["config", argument])
        .env_clear()
        .envs(warehouse.map(|url| ("HEADWATER__WAREHOUSE__URL", url)))
        .current_dir(folder.path())
        .output()
        .expect("the program runs")
}

/// Red when the product lacks the section, its default is another one, or its secret is printed.
#[test]
fn the_warehouse_is_configured() {
    let shown = |warehouse| String::from_utf8(config("show", warehouse).stdout).expect("text");
    let plain = shown(None);
    assert!(plain.contains("[warehouse]\nurl = \"http://127.0.0.1:8090\""), "{plain}");
    let masked = shown(Some("http://hunter2@warehouse"));
    assert!(masked.contains("http://***@warehouse") && !masked.contains("hunter2"), "{masked}");
}

/// Red when what is no address is taken, or quoted.
#[test]
fn what_is_no_address_of_a_warehouse_is_refused() {
    let output = config("check", Some("hunter2"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("warehouse.url must be an address") && !said.contains("hunter2"), "{said}");
}

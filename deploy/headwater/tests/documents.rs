//! What is written beside the program stays true to it: the pages' picture, the files of the image and of compose, the
//! completions and the manual.

use std::process::{Command, Output, Stdio};

const OPERATION: &str = include_str!("../../../docs/operation.md");
const COMPOSE: &str = include_str!("../../compose.yaml");
const DOCKERFILE: &str = include_str!("../../Dockerfile");

/// The program with these arguments and no configuration but these variables.
fn headwater(arguments: &[&str], variables: &[(String, String)]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().cloned())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

/// What it prints when it succeeds.
fn printed(arguments: &[&str]) -> String {
    let output = headwater(arguments, &[]);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Red when the pipeline or the drawing has changed and the page's picture has not.
#[test]
fn the_picture_in_the_pages_is_what_the_command_draws() {
    let block = OPERATION.split_once("```mermaid\n").and_then(|(_, rest)| rest.split_once("```")).expect("a picture").0;
    let drawn = printed(&["topology", "show", "--format", "mermaid"]);
    assert_eq!(block, drawn, "copy what `headwater topology show --format mermaid` prints into docs/operation.md");
}

/// Red when a setting is renamed, or a value is none that it can have (`REPLICATION: "0"`, a sampler that there is not), and
/// these files still say it.
#[test]
fn compose_and_the_image_set_only_what_can_be_configured() {
    let compose = COMPOSE.lines().filter_map(|line| line.trim().split_once(": "));
    let image = DOCKERFILE.split_whitespace().filter_map(|word| word.split_once('='));
    let variables: Vec<(String, String)> = compose
        .chain(image)
        .filter(|(name, _)| name.starts_with("HEADWATER__") || name.starts_with("OTEL_"))
        .map(|(name, value)| (name.to_owned(), without_shell(value.trim_matches('"')).to_owned()))
        .collect();
    assert!(variables.len() >= 12, "found only {variables:?}");
    let output = headwater(&["config", "check"], &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `${NAME:-value}` is where nobody sets it.
fn without_shell(value: &str) -> &str {
    value.split_once(":-").filter(|_| value.starts_with("${")).map_or(value, |(_, rest)| rest.trim_end_matches('}'))
}

/// Red when the completions are another program's, or lack commands, options or their values.
#[test]
fn bash_completes_commands_options_and_values() {
    let script = r#"
        source /dev/stdin
        complete_last() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _headwater headwater "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[*]}"
        }
        complete_last headwater topo
        complete_last headwater topology show --for
        complete_last headwater topology show --format mer
        complete_last headwater dlq re
    "#;
    let folder = tempfile::tempdir().expect("a folder");
    let completions = folder.path().join("completions");
    std::fs::write(&completions, printed(&["completions", "bash"])).expect("written");
    let input = std::fs::File::open(&completions).expect("there");
    let output = Command::new("bash").args(["--norc", "-c", script]).stdin(input).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["topology", "--format", "mermaid", "redrive"], "{output:?}");
}

/// Red when a page lacks its title or its examples, or an unknown command is answered with a page.
#[test]
fn every_command_has_a_page_of_the_manual() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH headwater 1") && page.contains("headwater\\-topology(1)"), "{page}");
    let page = printed(&["man", "dlq", "redrive"]);
    assert!(page.contains(".TH headwater-dlq-redrive 1") && page.contains("Examples:"), "{page}");
    assert_eq!(headwater(&["man", "dlq", "nothing"], &[]).status.code(), Some(2));
}

//! What is written beside the program stays true to it: the pages' picture, the files of the image and of compose, the
//! completions and the manual.

use std::process::{Command, Output, Stdio};

const OPERATION: &str = include_str!("../../../docs/operation.md");
const SECURITY: &str = include_str!("../../../docs/security.md");
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

/// The page's block of this language within its part on least privilege.
fn acls_block(language: &str) -> &'static str {
    let (_, part) = SECURITY.split_once("\n## Least privilege\n").expect("the part");
    let block = part.split_once(&format!("```{language}\n")).and_then(|(_, rest)| rest.split_once("```"));
    block.expect("a block").0
}

/// Red when the export has changed and the page has not.
#[test]
fn the_permissions_in_the_pages_are_what_the_command_lists() {
    let listed = printed(&["topology", "export", "--format", "acls"]);
    let block = acls_block("text");
    assert!(listed.contains(block), "copy it from what `headwater topology export --format acls` prints:\n{listed}");
}

/// Red when the page's script reads other columns than the command prints, leaves a line out, or hands Kafka's tool an option
/// that it has not.
#[test]
fn the_pages_script_hands_each_permission_to_kafkas_tool() {
    let tool = "kafka-acls.sh() { printf '%s|' \"$@\"; echo; }";
    let folder = tempfile::tempdir().expect("a folder");
    let listed = folder.path().join("acls.txt");
    let permissions = printed(&["topology", "export", "--format", "acls", "--principal", "User:CN={group},O=Acme Ltd"]);
    std::fs::write(&listed, &permissions).expect("written");
    let script =
        acls_block("sh").replace("headwater topology export --format acls", &format!("cat {}", listed.display()));
    let output = Command::new("bash").args(["--norc", "-c", &format!("{tool}\n{script}")]).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = permissions.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(said.lines().count(), lines.count(), "{output:?}");
    let common = "--bootstrap-server|kafka:9092|--command-config|admin.properties|--add|--allow-principal|";
    let one = "User:CN=fulfil-order,O=Acme Ltd|--topic|fulfil-order.|--resource-pattern-type|prefixed|\
               --operation|Read|--operation|Write|--operation|Describe|";
    assert!(said.lines().any(|line| line == format!("{common}{one}")), "{said}");
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

//! `[http]`.

use super::*;

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

//! The configuration for people to read: the whole tree as TOML, with secrets as `***`.

use headwater_connectors::registry::addresses_in;
use toml::{Table, Value};

const HIDDEN: &str = "***";
/// The setting that may hold several addresses.
const REGISTRIES: [&str; 2] = ["registry", "url"];
/// Words of which one stands in the name of every setting that holds a secret.
const SECRET_WORDS: [&str; 8] =
    ["password", "secret", "token", "credential", "pem", "sasl.username", "oauthbearer.config", "api_key"];

/// The tree as TOML that can be read back; a secret reads `***`.
pub(crate) fn masked(tree: &Table) -> String {
    let mut tree = tree.clone();
    mask(&mut Vec::new(), &mut tree);
    tree.to_string()
}

/// Whether a setting's value must not be printed. The path of a file that holds a secret is none.
pub(super) fn is_secret(path: &[String]) -> bool {
    let name = path.last().map(|name| name.to_lowercase()).unwrap_or_default();
    !name.ends_with("_file") && (name == "url" || SECRET_WORDS.iter().any(|word| name.contains(word)))
}

fn mask(path: &mut Vec<String>, tree: &mut Table) {
    for (key, value) in tree.iter_mut() {
        path.push(key.clone());
        match value {
            Value::Table(below) => mask(path, below),
            Value::String(text) if *path == REGISTRIES => *text = hide_all(text),
            Value::String(text) if is_secret(path) || text.contains("://") => *text = hide(text),
            Value::Array(list) if *path == REGISTRIES => {
                let shown = |one: &Value| Value::String(one.as_str().map_or_else(|| HIDDEN.to_owned(), hide_all));
                *list = list.iter().map(shown).collect();
            }
            value if is_secret(path) => *value = Value::String(HIDDEN.to_owned()),
            _ => {}
        }
        path.pop();
    }
}

/// The same of addresses with commas between them.
fn hide_all(text: &str) -> String {
    addresses_in(text).iter().map(|one| hide(one)).collect::<Vec<_>>().join(",")
}

/// An address without its password, or `***` for anything else.
fn hide(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return HIDDEN.to_owned() };
    // A query may carry a password under many names, and a password an unescaped slash or question mark.
    let Some((user, host)) = rest.rsplit_once('@') else {
        return if rest.contains(['?', '#']) { format!("{scheme}://{HIDDEN}") } else { text.to_owned() };
    };
    let host = host.split(['?', '#']).next().unwrap_or_default();
    match user.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{HIDDEN}@{host}"),
        None if scheme.starts_with("postgres") => format!("{scheme}://{user}@{host}"),
        None => format!("{scheme}://{HIDDEN}@{host}"),
    }
}

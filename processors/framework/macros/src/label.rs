//! The label's text: an event's name, or a pattern over names.

use syn::{Error, LitStr, Result};

/// Refuses what can be neither a name nor a pattern. Whether a pattern is allowed depends on the argument's type, which
/// only the compiler knows.
pub(crate) fn valid(label: &LitStr) -> Result<()> {
    match problem(&label.value()) {
        Some(problem) => Err(Error::new(label.span(), problem)),
        None => Ok(()),
    }
}

fn problem(text: &str) -> Option<String> {
    let segments: Vec<_> = text.split('.').collect();
    let last = segments.len() - 1;
    segments.iter().enumerate().find_map(|(i, segment)| match *segment {
        "" => Some("an event's name is dotted segments, like `payment.completed`: one of these is empty".to_owned()),
        "#" if i < last => Some("`#` stands for the rest of a name, so only the last segment can be `#`".to_owned()),
        "#" | "*" => None,
        s if s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') => None,
        s if s.contains(['*', '#']) => {
            Some(format!("`{s}` mixes a wildcard with text: `*` and `#` stand for whole segments"))
        }
        s => Some(format!("`{s}` is no segment of an event's name: use letters, digits, `_` and `-`")),
    })
}

#[cfg(test)]
mod tests {
    use super::problem;

    /// Red when the check of empty segments, of `#` before the end, of mixed segments or of characters is dropped.
    #[test]
    fn a_label_is_a_name_or_a_pattern() {
        for fine in ["payment.completed", "analysis.*", "error.#", "*", "#", "*.completed", "a-b.c_d.v2"] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for (wrong, why) in [
            ("", "empty"),
            ("payment.", "empty"),
            ("payment..completed", "empty"),
            ("#.completed", "last segment"),
            ("pay*.completed", "mixes"),
            ("payment completed", "letters"),
        ] {
            assert!(problem(wrong).is_some_and(|p| p.contains(why)), "{wrong}: {:?}", problem(wrong));
        }
    }
}

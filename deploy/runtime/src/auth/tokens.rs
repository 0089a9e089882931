//! Tokens: who holds which, as lines of a file say.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use headwater_connectors::units::{Secret, SecretSource};
use sha2::{Digest as _, Sha256};

use super::reloaded::Reloaded;

/// The tokens of a file, in its order. One name may have several: while a token rotates both generations are valid.
pub(crate) struct Tokens {
    first: Secret,
    all: Vec<Token>,
}

/// A token, kept by its hash.
struct Token {
    name: String,
    hash: [u8; 32],
}

impl Tokens {
    /// What a file says, read anew when it changes.
    ///
    /// # Errors
    /// Every problem with it by its line, without the token.
    pub(crate) fn open(file: &Path) -> Result<Reloaded<Self>, Vec<String>> {
        let read = file.to_owned();
        Reloaded::open("http.token_file", [file.to_owned()], move || Self::read(read.clone()))
    }

    fn read(file: PathBuf) -> Result<Self, Vec<String>> {
        let of_file = |why: String| format!("http.token_file {}: {why}", file.display());
        let text = SecretSource::File(file.clone()).read().map_err(|why| vec![format!("http.token_file: {why}")])?;
        Self::parse(text.expose()).map_err(|problems| problems.into_iter().map(of_file).collect())
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut first, mut all, mut problems) = (None, Vec::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match name_and_token(line) {
                Ok((name, token)) => {
                    first.get_or_insert_with(|| Secret::new(token));
                    all.push((number, Token { name: name.to_owned(), hash: hash(token) }));
                }
                Err(why) => problems.push(format!("line {number}: {why}")),
            }
        }
        for (at, (number, token)) in all.iter().enumerate() {
            if let Some((earlier, _)) = all[..at].iter().find(|(_, other)| other.hash == token.hash) {
                problems.push(format!("line {number}: the token is that of line {earlier}: give each name its own"));
            }
        }
        match first {
            Some(first) if problems.is_empty() => {
                Ok(Self { first, all: all.into_iter().map(|(_, token)| token).collect() })
            }
            None if problems.is_empty() => Err(vec!["it holds no token: write lines `name token`".to_owned()]),
            _ => Err(problems),
        }
    }

    /// The one that is shown to other instances.
    pub(crate) fn first(&self) -> &Secret {
        &self.first
    }

    /// Who holds this token. How long that takes does not say how much of it is right.
    pub(crate) fn holder(&self, shown: &str) -> Option<&str> {
        let shown = hash(shown);
        self.all.iter().fold(None, |found, token| if same(&token.hash, &shown) { Some(&token.name) } else { found })
    }
}

impl fmt::Debug for Tokens {
    /// Names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.iter().map(|token| &token.name)).finish()
    }
}

/// Neither a name nor a token is quoted where it is wrong: one may stand in the other's place.
fn name_and_token(line: &str) -> Result<(&str, &str), &'static str> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(token), None) = (words.next(), words.next(), words.next()) else {
        return Err("a name and a token are wanted, with a blank between them");
    };
    if name.len() > 100 || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@')) {
        return Err("the name must be 1 to 100 of a-z, A-Z, 0-9, `-`, `_`, `.`, `@`");
    }
    if !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err("the token must be of letters, digits and signs of ASCII, since a header carries it");
    }
    Ok((name, token))
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when only the first or the last token is taken, a name has one token only, a comment is a token, or another one than
    /// the first is shown.
    #[test]
    fn every_token_of_the_file_is_taken_and_the_first_is_shown() {
        let tokens = Tokens::parse("# who asks\n\nshop new-7f3a\nshop old-11c0\n  desk\tdesk-token \n").unwrap();
        assert_eq!(tokens.first().expose(), "new-7f3a");
        for (token, holder) in [
            ("new-7f3a", Some("shop")),
            ("old-11c0", Some("shop")),
            ("desk-token", Some("desk")),
            ("new-7f3", None),
            ("new-7f3a ", None),
            ("", None),
            ("shop", None),
            ("who", None),
        ] {
            assert_eq!(tokens.holder(token), holder, "{token}");
        }
        assert_eq!(format!("{tokens:?}"), r#"{"shop", "shop", "desk"}"#);
    }

    /// Red when a wrong line is passed over, the first hides the others, a line has another number, or a message quotes it.
    #[test]
    fn every_wrong_line_is_named_and_none_is_quoted() {
        let text = "shop hunter2\n# fine\nhunter3\nshop hunter4 hunter4\nsh/op hunter5\nshop hünter6\ndesk hunter2";
        let problems = Tokens::parse(text).unwrap_err();
        let starts: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        assert_eq!(starts, ["line 3", "line 4", "line 5", "line 6", "line 7"], "{problems:?}");
        assert!(problems[4].contains("that of line 1"), "{problems:?}");
        let all = problems.join("\n");
        assert!(!all.contains("nter") && !all.contains("sh/op"), "{all}");
        assert_eq!(Tokens::parse("# none\n").unwrap_err().len(), 1);
    }

    /// Red when a file that is not there is none of the setting's problems.
    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let problems = Tokens::open("/nowhere/tokens".as_ref()).err().unwrap();
        assert!(problems.len() == 1 && problems[0].starts_with("http.token_file: "), "{problems:?}");
        assert!(problems[0].contains("/nowhere/tokens"), "{problems:?}");
    }
}

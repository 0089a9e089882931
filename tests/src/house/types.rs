//! A type's methods stand in its own file, and a struct has at most a dozen fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree, token_stream::IntoIter};

use super::{DOZEN, TOP, files, root};

/// Structs that have more fields, since what they mirror has: the file, the struct and what that is.
const MIRRORS: [(&str, &str, &str); 8] = [
    ("connectors/src/postgres/dead_letters/query.rs", "Summary", "a row of the table of dead letters"),
    ("deploy/load/src/arguments.rs", "Load", "the command line of `headwater load`"),
    ("deploy/runtime/src/config/group_config.rs", "GroupConfig", "a section [groups.NAME] of headwater.toml"),
    ("deploy/runtime/src/config/tree.rs", "Config", "headwater.toml"),
    ("processors/framework/src/event.rs", "Meta", "the headers of an event"),
    (
        "processors/framework/src/failure/dead_letter.rs",
        "DeadLetter",
        "a record of a dead-letter topic with its headers",
    ),
    ("processors/framework/src/pipeline/settings.rs", "GroupSettings", "a section [groups.NAME], every key resolved"),
    ("processors/framework/src/wire/headers.rs", "Attributes", "the headers of a record"),
];

/// What a file says of types, but not in tests.
#[derive(Debug, Default, PartialEq, Eq)]
struct FileTypes {
    /// Those that it defines, each with the number of its named fields.
    fields: BTreeMap<String, usize>,
    /// Those that have methods here which are no trait's.
    methods: BTreeSet<String>,
}

impl FileTypes {
    fn of(text: &str) -> Self {
        let mut found = Self::default();
        found.read(text.parse().expect("rust"), true);
        found
    }

    /// `in_items` where an item may begin with the first token: `impl` in a type is no block.
    fn read(&mut self, tokens: TokenStream, in_items: bool) {
        let (mut tests, mut begins) = (false, in_items);
        let mut tokens = tokens.into_iter();
        while let Some(token) = tokens.next() {
            let block = matches!(&token, TokenTree::Ident(word) if begins && word == "impl");
            let fields = matches!(&token, TokenTree::Ident(word) if word == "struct");
            let named = fields || matches!(&token, TokenTree::Ident(word) if word == "enum" || word == "trait");
            begins = match token {
                _ if block || named => {
                    let (head, body) = item(&mut tokens);
                    if !std::mem::take(&mut tests) {
                        let count = if fields { named_fields(body.clone()) } else { 0 };
                        match head.first() {
                            _ if block => self.methods.extend(owner(&head)),
                            Some(TokenTree::Ident(name)) => _ = self.fields.insert(name.to_string(), count),
                            _ => {}
                        }
                        self.read(body, true);
                    }
                    true
                }
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    if !std::mem::take(&mut tests) {
                        self.read(group.stream(), true);
                    }
                    true
                }
                TokenTree::Group(group) => {
                    let is_attribute = group.delimiter() == Delimiter::Bracket;
                    tests |= is_attribute && group.stream().to_string().starts_with("cfg (test");
                    self.read(group.stream(), false);
                    is_attribute
                }
                TokenTree::Punct(mark) if mark.as_char() == ';' => {
                    tests = false;
                    true
                }
                TokenTree::Ident(word) => word == "unsafe",
                _ => false,
            };
        }
    }
}

/// What stands before an item's body, and the body, which is empty where there is none.
fn item(tokens: &mut IntoIter) -> (Vec<TokenTree>, TokenStream) {
    let mut head = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return (head, group.stream()),
            TokenTree::Punct(mark) if mark.as_char() == ';' => break,
            token => head.push(token),
        }
    }
    (head, TokenStream::new())
}

/// The type that an `impl` block with this head gives methods; none where they are a trait's, or a macro names the type.
fn owner(head: &[TokenTree]) -> Option<String> {
    let (mut depth, mut before, mut name) = (0, ' ', None);
    for token in head {
        match token {
            TokenTree::Punct(mark) => match mark.as_char() {
                '$' => return None,
                '<' => depth += 1,
                '>' if before != '-' => depth -= 1,
                _ => {}
            },
            TokenTree::Ident(word) if depth == 0 && word == "for" => return None,
            TokenTree::Ident(word) if depth == 0 && word == "where" => break,
            TokenTree::Ident(word) if depth == 0 => name = Some(word.to_string()),
            _ => {}
        }
        before = if let TokenTree::Punct(mark) = token { mark.as_char() } else { ' ' };
    }
    name
}

/// How many fields of a struct's body have a name: what stands before a colon that is not of a path.
fn named_fields(body: TokenStream) -> usize {
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let ends = |pair: &&[TokenTree]| {
        let [TokenTree::Ident(_), TokenTree::Punct(mark)] = pair else { return false };
        mark.as_char() == ':' && mark.spacing() == Spacing::Alone
    };
    tokens.windows(2).filter(ends).count()
}

/// What each file says of types, by its path from the root; tests apart.
fn all() -> BTreeMap<PathBuf, FileTypes> {
    let all = TOP.iter().flat_map(|top| files(&root().join(top)));
    let named = all.map(|path| (path.strip_prefix(root()).expect("below the root").to_owned(), path));
    let is_test = |path: &Path| path.iter().skip(1).any(|part| part == "tests" || part == "tests.rs" || part == "e2e");
    let code = named.filter(|(name, _)| !is_test(name));
    code.map(|(name, path)| (name, FileTypes::of(&fs::read_to_string(path).expect("a file")))).collect()
}

/// Red when methods of a type stand in a file that does not define it, such as an `impl Cluster` of `groups.rs`.
#[test]
fn the_methods_of_a_type_stand_in_its_own_file() {
    for (path, types) in all() {
        let elsewhere = types.methods.iter().filter(|name| !types.fields.contains_key(*name));
        assert_eq!(
            elsewhere.collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "{} gives methods to types of other files: make functions or a small type of them, or move them",
            path.display()
        );
    }
}

/// Red when a struct has a thirteenth field and mirrors nothing, or when one that mirrors something has no longer so many.
#[test]
fn a_struct_has_at_most_a_dozen_fields() {
    let all = all();
    for (path, types) in &all {
        let mirrors = |name: &String| MIRRORS.iter().any(|(file, known, _)| path == Path::new(file) && name == known);
        for (name, fields) in types.fields.iter().filter(|(name, _)| !mirrors(name)) {
            assert!(*fields <= DOZEN, "{name} of {} has {fields} fields: it is two types", path.display());
        }
    }
    for (file, name, what) in MIRRORS {
        let fields = all.get(Path::new(file)).and_then(|types| types.fields.get(name)).copied();
        assert!(fields > Some(DOZEN), "{name} of {file} ({what}) has {fields:?} fields: it needs no exception");
    }
}

/// The rules above on a text that is made for them. Red when a block of a generic type, of one behind a path or of a `dyn` is not
/// found, when a trait's block, a type's `impl`, a macro's or a test's counts, or when a field is not, or its type is, counted.
#[test]
fn the_types_and_methods_of_a_file_are_found() {
    let text = "
        #[derive(Debug)] pub struct A<T: Fn(u8) -> u8> where T: Copy { pub a: std::vec::Vec<T>, pub(crate) b: ::std::x::Y, c: u8 }
        enum B { One { a: u8 } } struct C(u8, u8); struct D; trait E { fn e(); }
        impl<T: Fn(u8) -> u8> A<T> where for<'a> T: Copy { fn f(g: impl Fn()) -> impl Iterator<Item = u8> { struct F { a: u8 } } }
        #[must_use] impl super::g::G<'_> {} unsafe impl H {} impl dyn E {} impl E for I {} impl<T> From<T> for B {}
        fn h() -> impl Sized { let i: &dyn Fn() = &|| {}; }
        macro_rules! j { ($k:ident) => { struct $k { a: u8 } impl $k { fn l() {} } }; }
        #[cfg(test)] impl M {} #[cfg(test)] struct N { a: u8 } #[cfg(test)] mod tests { struct O; impl P {} } impl Q {}";
    let FileTypes { fields, methods } = FileTypes::of(text);
    let fields: Vec<(&str, usize)> = fields.iter().map(|(name, fields)| (name.as_str(), *fields)).collect();
    assert_eq!(fields, [("A", 3), ("B", 0), ("C", 0), ("D", 0), ("E", 0), ("F", 1)]);
    assert_eq!(methods.iter().collect::<Vec<_>>(), ["A", "E", "G", "H", "Q"]);
}

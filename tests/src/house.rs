//! Rules of the house that a machine can check: no circles of modules, no folder that nobody can take in, no endless file, no
//! event of the product in what every program has, a short README, no link that leads nowhere; of types `house/types.rs` tells.

mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Modules of a folder at most.
const DOZEN: usize = 12;
/// The README has fewer lines.
const README_LINES: usize = 300;
/// Lines of a file at most, its tests included.
const LINES: usize = 500;
/// The top-level folders with Rust files.
const TOP: [&str; 6] = ["processors", "schemas", "connectors", "deploy", "tests", "benches"];
/// The crates in which names stand for one thing, and modules use each other in no circle.
const IN_ORDER: [&str; 5] =
    ["processors/framework/src", "connectors/src", "deploy/runtime/src", "deploy/load/src", "deploy/headwater/src"];

/// A module by its path from the crate's root, which is empty.
type Module = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The modules of a crate but for its tests, each with its file.
fn modules(src: &Path) -> BTreeMap<Module, PathBuf> {
    let module = |path: &Path| -> Module {
        let inner = path.strip_prefix(src).expect("below").with_extension("");
        let parts = inner.iter().map(|part| part.to_string_lossy().into_owned());
        parts.filter(|part| part != "lib").collect()
    };
    let all = files(src).into_iter().map(|path| (module(&path), path));
    all.filter(|(module, _)| !module.iter().any(|part| part == "tests")).collect()
}

/// What a module names of its crate: paths that begin with `crate`, `super`, `self` or one of its own modules; but not in tests.
fn named(here: &Module, children: &BTreeSet<&str>, tokens: TokenStream) -> Vec<Module> {
    let (mut found, mut tests) = (Vec::new(), false);
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && std::mem::take(&mut tests) => {}
            TokenTree::Group(group) => {
                tests |= group.delimiter() == Delimiter::Bracket && group.stream().to_string().starts_with("cfg (test");
                found.extend(named(here, children, group.stream()));
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => tests = false,
            TokenTree::Ident(first) => {
                let first = first.to_string();
                if !is_colon(tokens.peek()) {
                    continue;
                }
                let base = match first.as_str() {
                    "crate" => Vec::new(),
                    "self" => here.clone(),
                    "super" => here[..here.len().saturating_sub(1)].to_vec(),
                    child if children.contains(child) => [here.as_slice(), std::slice::from_ref(&first)].concat(),
                    _ => continue,
                };
                paths(base, &mut tokens, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// The paths that go on behind `base`, as `::a::{b, c::d}`.
fn paths(
    mut base: Module,
    tokens: &mut std::iter::Peekable<proc_macro2::token_stream::IntoIter>,
    found: &mut Vec<Module>,
) {
    while is_colon(tokens.peek()) {
        tokens.next();
        if !is_colon(tokens.peek()) {
            break;
        }
        tokens.next();
        match tokens.next() {
            Some(TokenTree::Ident(part)) if part == "super" => _ = base.pop(),
            Some(TokenTree::Ident(part)) => base.push(part.to_string()),
            Some(TokenTree::Group(group)) => {
                let mut inner = group.stream().into_iter().peekable();
                while let Some(token) = inner.next() {
                    if let TokenTree::Ident(part) = token {
                        let own = part == "self";
                        paths(
                            if own { base.clone() } else { [&base[..], &[part.to_string()]].concat() },
                            &mut inner,
                            found,
                        );
                    }
                }
                return;
            }
            _ => {}
        }
    }
    found.push(base);
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':')
}

/// Which modules each module uses.
fn arrows(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let all = modules(src);
    let uses = |here: &Module, path: &PathBuf| {
        let children = all.keys().filter(|one| one.len() == here.len() + 1 && one.starts_with(here));
        let children: BTreeSet<&str> = children.filter_map(|one| one.last().map(String::as_str)).collect();
        let tokens = fs::read_to_string(path).expect("a file").parse().expect("rust");
        let ends = named(here, &children, tokens).into_iter().filter_map(|mut path| {
            while !all.contains_key(&path) {
                path.pop()?;
            }
            Some(path)
        });
        // What the root has is a face for other crates.
        ends.filter(|end| end != here && !end.is_empty()).collect()
    };
    all.iter().filter(|(here, _)| !here.is_empty()).map(|(here, path)| (here.clone(), uses(here, path))).collect()
}

/// The modules from which a way leads back to them.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let leads_back = |start: &Module| {
        let (mut next, mut seen) = (vec![start], BTreeSet::new());
        while let Some(module) = next.pop() {
            for end in arrows.get(module).into_iter().flatten() {
                if end == start {
                    return true;
                }
                if seen.insert(end) {
                    next.push(end);
                }
            }
        }
        false
    };
    arrows.keys().filter(|module| leads_back(module)).map(|module| module.join("::")).collect()
}

/// Red when two modules of a crate use each other, directly or around others.
#[test]
fn no_modules_use_each_other_in_a_circle() {
    let found: Vec<String> = IN_ORDER.iter().flat_map(|src| circles(&arrows(&root().join(src)))).collect();
    assert!(found.is_empty(), "{found:?}: use what is below, or move what both need below both");
}

/// The rule above on modules that are made for it. Red when a path is not followed: `self`, `super`, a child's name, braces, or
/// one within an expression; or when tests count.
#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    write("lib.rs", "mod a; mod b; mod c; pub use a::A;");
    for (in_a, in_b) in [
        ("use crate::b::B;", "use super::{a::{self, A}};"),
        ("use super::b;", "fn f() { g(crate::a::A::new()) }"),
        ("mod inner; pub use inner::I;", ""),
        ("mod inner; fn f() { self::inner::i() }", ""),
    ] {
        write("a.rs", in_a);
        write("a/inner.rs", if in_a.contains("inner") { "use super::A;" } else { "" });
        write("b.rs", in_b);
        assert_eq!(circles(&arrows(folder.path())).len(), 2, "{in_a} {in_b}");
    }
    write("a.rs", "use crate::{b::B, c}; #[cfg(test)] mod tests { use crate::b; }");
    write("a/inner.rs", "");
    write("b.rs", "use crate::c::C; #[cfg(test)] pub(crate) mod tests { use crate::a; }");
    write("c.rs", "use std::fmt;");
    assert_eq!(circles(&arrows(folder.path())), Vec::<String>::new());
}

/// The types that a file defines for others, whoever may see them.
fn types(text: &str) -> Vec<String> {
    let mut tokens = text.parse::<TokenStream>().expect("rust").into_iter().peekable();
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        if !matches!(&token, TokenTree::Ident(word) if word == "pub") {
            continue;
        }
        // Who may see it.
        tokens.next_if(|token| matches!(token, TokenTree::Group(_)));
        let words = ["struct", "enum", "union", "trait", "type"];
        let is_type = tokens.next_if(|token| words.contains(&token.to_string().as_str())).is_some();
        found.extend(tokens.next_if(|_| is_type).map(|name| name.to_string()));
    }
    found
}

/// Red when two types of a crate that others see have one name; those of a connector that are named as every one's
/// stand apart.
#[test]
fn a_name_stands_for_one_thing() {
    for src in IN_ORDER {
        let mut names: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in modules(&root().join(src)).into_values() {
            for name in types(&fs::read_to_string(&path).expect("a file")) {
                names.entry(name).or_default().push(path.clone());
            }
        }
        names.retain(|name, paths| paths.len() > 1 && !["Config", "Error"].contains(&name.as_str()));
        assert!(names.is_empty(), "{names:#?}: name each for what it is");
    }
}

/// Red when a type is not found, whoever may see it, or one that nobody else sees is.
#[test]
fn the_types_of_a_file_are_found() {
    let text = "pub struct A; pub(crate) enum B {} pub(in crate::a) type C = u8; struct D; pub fn e() {} \
                pub trait F { type G; } impl F for A { type G = u8; } pub use f::H;";
    assert_eq!(types(text), ["A", "B", "C", "F"]);
}

/// Red when a folder has more modules than one can take in at a glance; a module and the folder of what is inside it are one.
#[test]
fn a_folder_has_at_most_a_dozen_modules() {
    let mut folders: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for top in TOP.map(|top| root().join(top)) {
        for path in files(&top) {
            for one in path.ancestors().take_while(|one| *one != top) {
                let (Some(folder), Some(name)) = (one.parent(), one.file_stem()) else { continue };
                folders.entry(folder.to_owned()).or_default().insert(name.to_string_lossy().into_owned());
            }
        }
    }
    for (folder, modules) in folders {
        assert!(modules.len() <= DOZEN, "{} has {}: {modules:?}", folder.display(), modules.len());
    }
}

/// Red when a file is longer than anybody reads.
#[test]
fn no_file_is_endless() {
    for top in TOP {
        for path in files(&root().join(top)) {
            let lines = fs::read_to_string(&path).expect("a file").lines().count();
            assert!(lines <= LINES, "{} has {lines} lines, {LINES} at most: take a part out of it", path.display());
        }
    }
}

/// Red when what every program has (its help, its messages, its docs) names an event or a topic of the product's.
#[test]
fn what_every_program_has_names_no_event_of_ours() {
    let schemas = fs::read_dir(root().join("schemas/avro")).expect("a folder");
    let types: Vec<String> =
        schemas.map(|one| one.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    let topics = types.iter().filter_map(|name| name.split('.').next()).map(|domain| format!("events.{domain}"));
    let ours: Vec<String> = types.iter().cloned().chain(topics).collect();
    for path in
        ["deploy/runtime/src", "deploy/load/src"].iter().flat_map(|src| modules(&root().join(src)).into_values())
    {
        let text = fs::read_to_string(&path).expect("a file");
        let found = ours.iter().find(|name| text.contains(name.as_str()));
        assert_eq!(found, None, "{}: give an example of another domain", path.display());
    }
}

/// A page's text, without its blocks of code.
fn prose(page: &Path) -> String {
    let (mut text, mut in_code) = (String::new(), false);
    for line in fs::read_to_string(page).expect("a page").lines() {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        if !in_code && !is_fence {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// The links of a page to files and headings that there are not; what other sites have is theirs.
fn broken_links(page: &Path) -> Vec<String> {
    let text = prose(page);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let leads = |link: &str| {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() { page.to_owned() } else { page.with_file_name(path) };
        target.exists() && (anchor.is_empty() || anchors(&prose(&target)).contains(anchor))
    };
    let broken = links.filter(|link| !link.contains("://") && !leads(link));
    broken.map(|link| format!("{} leads to {link}", page.display())).collect()
}

/// Red when the README is no longer read at a sitting.
#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).expect("a file").lines().count();
    assert!(
        lines < README_LINES,
        "README.md has {lines} lines, and should have fewer than {README_LINES}: move a part to docs/"
    );
}

/// Red when a file or a heading that a page leads to is renamed or gone.
#[test]
fn every_link_of_a_page_leads_somewhere() {
    let entries = fs::read_dir(root().join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let pages = entries.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let broken: Vec<String> = pages.chain([root().join("README.md")]).flat_map(|page| broken_links(&page)).collect();
    assert_eq!(broken, Vec::<String>::new());
}

/// The rule above on pages that are made for it. Red when a link's file or its heading is not looked for, when a page's own
/// headings or the second link of a line are forgotten, or when code and other sites count.
#[test]
fn a_broken_link_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");
    fs::write(folder.path().join("other.md"), "# `Two` words, here\n```\n# code\n```\n").expect("written");
    for (link, is_there) in [
        ("other.md", true),
        ("none.md", false),
        ("other.md#two-words-here", true),
        ("other.md#code", false),
        ("none.md#two-words-here", false),
        ("#own", true),
        ("#other", false),
        ("https://example.org/none", true),
    ] {
        let text = format!("# Own\n[one](other.md) and [two]({link})\n```\n[three](none.md)\n```\n");
        fs::write(&page, text).expect("written");
        assert_eq!(broken_links(&page).is_empty(), is_there, "{link}");
    }
}

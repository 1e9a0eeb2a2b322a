// SPDX-License-Identifier: GPL-3.0-or-later
//! Dead code that rustc cannot see, because what is `pub` in a library may be used elsewhere: public items that no product code
//! names, and variants of public enums that no product code builds. By words, so it overlooks what shares its name with
//! something alive.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;

use super::{files_below, relative, root};

/// What only tests and the simulator ask for, and why that is right.
const FOR_TESTS: &[(&str, &str)] = &[
    ("Now::plus", "moves the clock that a test holds"),
    ("Engine::invariants", "what the simulator asks after each step"),
    ("Engine::bound_instances", "what the engine's own tests observe"),
    ("Driver::is_stalled", "the simulator's promises differ while the journal refuses"),
    ("Journal::storage_mut", "a test fills the disk"),
    ("SlurmFacts::with_cluster_name", "a test has no slurm.conf"),
    ("Emulator::metadata_url", "the emulator's metadata service is read by tests"),
    ("Emulator::with_world", "a test of figures sets the world up without requests"),
];

/// Enums and variants that product code reads and writes and does not build, and who does.
const PARSED: &[(&str, &str)] = &[
    ("Scalar", "a value of config.json"),
    ("LogLevel", "a value of config.json"),
    ("LogFormat", "a value of config.json"),
    ("NodeNaming", "a value of partitions.json"),
    ("AfterMaxHibernation", "a value of partitions.json"),
    ("Command", "a request to the emulator's control port, as JSON"),
    ("BootOutcome", "a value of an emulator's scenario, as JSON"),
    ("Operation::Panic", "only a test asks for it"),
    ("RefusalKind::Unknown", "a kind of a newer release, by serde(other)"),
    ("NodeStateChange::PowerUp", "what an administrator does in the simulator"),
    ("NodeStateChange::Down", "what an administrator does in the simulator"),
    ("HostLogLevel::Debug", "a level that the C interface has"),
];

const KINDS: &[&str] = &["fn", "struct", "enum", "const", "static", "trait", "type"];

struct File {
    path: String,
    words: Vec<String>,
}

/// Words and signs without comments, texts and what is compiled for tests only.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let raw = matches!(&rest[..end], "r" | "br") && rest[end..].starts_with(['"', '#']);
            if raw {
                end + raw_text(&rest[end..])
            } else {
                words.push(rest[..end].to_owned());
                end
            }
        } else if first == '"' {
            text_literal(rest)
        } else if first == '\'' {
            character(rest)
        } else if let Some(sign) =
            ["::", "=>", "==", "!=", "||", "->"].iter().find(|sign| rest.starts_with(**sign))
        {
            words.push((*sign).to_owned());
            2
        } else {
            if !first.is_whitespace() {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    without_tests(words)
}

fn text_literal(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

fn raw_text(rest: &str) -> usize {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    if !rest[hashes..].starts_with('"') {
        return hashes;
    }
    rest[hashes + 1..].find(&end).map_or(rest.len(), |at| hashes + 1 + at + end.len())
}

/// A character, or the sign of a lifetime.
fn character(rest: &str) -> usize {
    let mut after = rest.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            rest[from..].find('\'').map_or(rest.len(), |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Behind the bracket that closes the one at `open`.
fn closed(words: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate().skip(open) {
        match word.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    words.len()
}

fn begins(words: &[String], at: usize, expected: &[&str]) -> bool {
    words.get(at..at + expected.len()).is_some_and(|found| found.iter().eq(expected))
}

/// The end of the item at `at`: its semicolon or its block.
fn end_of_item(words: &[String], mut at: usize) -> usize {
    while at < words.len() {
        match words[at].as_str() {
            ";" => return at + 1,
            "{" => return closed(words, at),
            "(" | "[" => at = closed(words, at),
            _ => at += 1,
        }
    }
    at
}

fn without_tests(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let test = begins(&words, at, &["#", "[", "cfg", "(", "test", ")"])
            || begins(&words, at, &["#", "[", "cfg", "(", "any", "(", "test", ","]);
        if test {
            while begins(&words, at, &["#", "["]) {
                at = closed(&words, at + 1);
            }
            at = end_of_item(&words, at);
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

/// Which words stand in an import or in the head of an `impl`: neither uses what it names.
fn aside(words: &[String]) -> Vec<bool> {
    let mut aside = vec![false; words.len()];
    let mut at = 0;
    while at < words.len() {
        let first =
            at == 0 || matches!(words[at - 1].as_str(), "}" | "{" | ";" | "]" | ")" | "pub" | "unsafe");
        let end = match words[at].as_str() {
            "use" if first => words[at..].iter().position(|word| word == ";"),
            "impl" if first => words[at..].iter().position(|word| word == "{"),
            _ => None,
        };
        let length = end.unwrap_or(1);
        if end.is_some() {
            aside[at..at + length].fill(true);
        }
        at += length;
    }
    aside
}

struct Item {
    /// With the type whose method it is, as far as there is one.
    name: String,
    path: String,
    function: bool,
}

/// The type whose methods follow the head of an `impl`, without its parameters.
fn implementer(head: &[String]) -> String {
    let mut name = "";
    let mut depth = 0_usize;
    for word in head.iter().take_while(|word| !matches!(word.as_str(), "{" | "where")) {
        match word.as_str() {
            "<" => depth += 1,
            ">" => depth = depth.saturating_sub(1),
            word if depth == 0 && word.starts_with(char::is_uppercase) => name = word,
            _ => {}
        }
    }
    name.to_owned()
}

/// The public items of a file.
fn items(file: &File) -> Vec<Item> {
    let words = &file.words;
    let mut items = Vec::new();
    let mut owner = String::new();
    for at in 0..words.len() {
        let first = at == 0 || matches!(words[at - 1].as_str(), "}" | "{" | ";" | "]" | "unsafe");
        if words[at] == "impl" && first {
            owner = implementer(&words[at + 1..]);
        }
        if words[at] != "pub" {
            continue;
        }
        let mut kind = at + 1;
        while kind + 1 < words.len()
            && matches!(words[kind].as_str(), "const" | "async" | "unsafe")
            && KINDS.contains(&words[kind + 1].as_str())
        {
            kind += 1;
        }
        if kind + 1 < words.len() && KINDS.contains(&words[kind].as_str()) {
            let function = words[kind] == "fn";
            let takes_self = function
                && words[kind + 2..]
                    .iter()
                    .take(8)
                    .take_while(|word| *word != ":")
                    .any(|word| word == "self");
            let name = &words[kind + 1];
            let name = if takes_self { format!("{owner}::{name}") } else { name.clone() };
            items.push(Item { name, path: file.path.clone(), function });
        }
    }
    items
}

fn unused_items(files: &[File]) -> BTreeSet<String> {
    let (mut named, mut called) = (HashSet::new(), HashSet::new());
    for file in files {
        let words = &file.words;
        for (at, aside) in aside(words).into_iter().enumerate() {
            let before = at.checked_sub(1).map_or("", |at| words[at].as_str());
            if aside || KINDS.contains(&before) {
                continue;
            }
            let after = words.get(at + 1).map_or("", String::as_str);
            named.insert(words[at].as_str());
            // Called, named by its path, or given as an argument.
            let argument = matches!(before, "(" | ",") && matches!(after, ")" | ",");
            if before == "::" || argument || matches!(after, "(" | "::") {
                called.insert(words[at].as_str());
            }
        }
    }
    let items = files.iter().filter(|file| file.path.starts_with("crates/")).flat_map(items);
    let unused = items.filter(|item| {
        let name = item.name.rsplit("::").next().unwrap_or(&item.name);
        !if item.function { called.contains(name) } else { named.contains(name) }
    });
    unused.map(|item| format!("{}: {}", item.path, item.name)).collect()
}

struct Enumeration {
    name: String,
    path: String,
    variants: Vec<String>,
    body: std::ops::Range<usize>,
}

/// The public enums of a file that a program builds; those that only a parser builds have all their variants from outside.
fn enumerations(file: &File) -> Vec<Enumeration> {
    let words = &file.words;
    let mut found = Vec::new();
    for at in 0..words.len() {
        if !begins(words, at, &["pub", "enum"]) {
            continue;
        }
        // The attributes stand between the end of the item before and here.
        let before = words[..at].iter().rposition(|word| matches!(word.as_str(), ";" | "}")).unwrap_or(0);
        let derived = |name: &str| words[before..at].iter().any(|word| word == name);
        if derived("ValueEnum") || derived("Subcommand") || derived("Deserialize") && !derived("Serialize") {
            continue;
        }
        let Some(open) = words[at..].iter().position(|word| word == "{").map(|from| at + from) else {
            continue;
        };
        let body = open + 1..closed(words, open) - 1;
        let mut variants = Vec::new();
        let mut place = body.start;
        while place < body.end {
            let begins_one = matches!(words[place - 1].as_str(), "{" | "," | "]");
            match words[place].as_str() {
                "(" | "[" | "{" => place = closed(words, place),
                // An error that `?` builds from another one.
                _ if begins(words, place + 1, &["(", "#", "[", "from", "]"]) => place += 1,
                word => {
                    if begins_one && word.starts_with(char::is_uppercase) {
                        variants.push(word.to_owned());
                    }
                    place += 1;
                }
            }
        }
        found.push(Enumeration { name: words[at + 2].clone(), path: file.path.clone(), variants, body });
    }
    found
}

/// Whether the path from `start` up to `end` is compared with, or matched, and not built.
fn is_pattern(words: &[String], start: usize, end: usize) -> bool {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    if start > 0 && matches!(word(start - 1), "==" | "!=") {
        return true;
    }
    let mut at = if matches!(word(end), "(" | "{") { closed(words, end) } else { end };
    if word(at) == "if" {
        return true;
    }
    // Outwards through the tuples and structures of a larger pattern.
    for _ in 0..4 {
        if matches!(word(at), "=>" | "|" | "=" | "==" | "!=") {
            return true;
        }
        let mut depth = 0_usize;
        let outer = (at..words.len()).find(|at| {
            match word(*at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 0 => return true,
                ")" | "]" | "}" => depth -= 1,
                ";" if depth == 0 => return true,
                _ => {}
            }
            false
        });
        match outer {
            Some(outer) if word(outer) != ";" => at = outer + 1,
            _ => return false,
        }
    }
    false
}

/// Whether the place is inside the brackets of `matches!`.
fn in_matches(words: &[String], place: usize) -> bool {
    let mut depth = 0_usize;
    for at in (0..place).rev() {
        match words[at].as_str() {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" if depth > 0 => depth -= 1,
            "(" if at > 1 && words[at - 1] == "!" && words[at - 2] == "matches" => return true,
            "{" | ";" => return false,
            _ => {}
        }
    }
    false
}

fn unbuilt_variants(files: &[File]) -> BTreeSet<String> {
    let enumerations: Vec<Enumeration> =
        files.iter().filter(|file| file.path.starts_with("crates/")).flat_map(enumerations).collect();
    let mut with_variant: HashMap<&str, Vec<&Enumeration>> = HashMap::new();
    for enumeration in &enumerations {
        for variant in &enumeration.variants {
            with_variant.entry(variant).or_default().push(enumeration);
        }
    }
    let mut built = HashSet::new();
    for file in files {
        let words = &file.words;
        let aside = aside(words);
        for (at, word) in words.iter().enumerate() {
            let Some(candidates) = with_variant.get(word.as_str()) else { continue };
            if aside[at] || words.get(at + 1).is_some_and(|next| next == "::") {
                continue;
            }
            let qualified = at > 1 && words[at - 1] == "::";
            let start = if qualified { at - 2 } else { at };
            for enumeration in candidates {
                let inside = file.path == enumeration.path && enumeration.body.contains(&at);
                let key = (enumeration.name.as_str(), word.as_str());
                let meant = if qualified {
                    let name = words[start].as_str();
                    name == enumeration.name
                        || name == "Self" && file.path == enumeration.path
                        || words.windows(3).any(|w| w[0] == enumeration.name && w[1] == "as" && w[2] == name)
                } else {
                    words.windows(3).any(|w| {
                        w[0] == enumeration.name && w[1] == "::" && matches!(w[2].as_str(), "{" | "*")
                    })
                };
                if !inside
                    && !built.contains(&key)
                    && meant
                    && !is_pattern(words, start, at + 1)
                    && !in_matches(words, start)
                {
                    built.insert(key);
                }
            }
        }
    }
    let all = enumerations.iter().flat_map(|of| of.variants.iter().map(move |variant| (of, variant)));
    let unbuilt = all.filter(|(of, variant)| !built.contains(&(of.name.as_str(), variant.as_str())));
    unbuilt.map(|(of, variant)| format!("{}: {}::{variant}", of.path, of.name)).collect()
}

fn product() -> Vec<File> {
    let mut paths = Vec::new();
    for folder in ["src", "crates"] {
        files_below(&root().join(folder), &mut paths);
    }
    let mut files = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let short = relative(path);
        let name = short.rsplit('/').next().unwrap_or_default();
        if short.contains("/tests/") || name == "testing.rs" || name.ends_with("tests.rs") {
            continue;
        }
        let words = words(&fs::read_to_string(path).expect("text"));
        files.push(File { path: short, words });
    }
    files
}

/// What was found beside the exceptions, and exceptions that nothing needs.
fn beside(found: &BTreeSet<String>, exceptions: &[(&str, &str)]) -> Vec<String> {
    let meant = |finding: &str, exception: &str| {
        finding.split_once(": ").is_some_and(|(_, name)| {
            name.strip_prefix(exception).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let unexpected = found.iter().filter(|finding| !exceptions.iter().any(|(of, _)| meant(finding, of)));
    let stale = exceptions.iter().filter(|(of, _)| !found.iter().any(|finding| meant(finding, of)));
    unexpected.cloned().chain(stale.map(|(of, _)| format!("no exception is needed for {of}"))).collect()
}

#[test]
fn product_code_names_every_public_item() {
    assert_eq!(beside(&unused_items(&product()), FOR_TESTS), [] as [String; 0]);
}

#[test]
fn product_code_builds_every_variant() {
    assert_eq!(beside(&unbuilt_variants(&product()), PARSED), [] as [String; 0]);
}

#[test]
fn dead_items_and_variants_are_noticed() {
    let file = |path: &str, text: &str| File { path: path.into(), words: words(text) };
    let unused = |text: &str| unused_items(&[file("crates/a/src/lib.rs", text)]).len();
    assert_eq!(unused("pub fn dead() {}"), 1);
    assert_eq!(unused("pub fn alive() {} fn f() { alive() }"), 0);
    assert_eq!(unused("pub fn dead() {} // dead()\nconst A: &str = \"dead()\";"), 1);
    assert_eq!(unused("pub fn dead() {} #[cfg(test)] mod tests { fn f() { dead() } }"), 1);
    assert_eq!(unused("pub struct Dead; impl Dead { } pub use a::Dead;"), 1);
    assert_eq!(unused("pub const fn dead(self) {} struct A { dead: u8 }"), 1);
    let unbuilt = |text: &str| unbuilt_variants(&[file("crates/a/src/lib.rs", text)]).len();
    assert_eq!(unbuilt("pub enum E { A, #[b(C)] B(u8) } fn f() { E::A; E::B(1) }"), 0);
    assert_eq!(unbuilt("pub enum E { A, B } fn f() { match E::A { E::A => 1, E::B => 2 } }"), 1);
    assert_eq!(unbuilt("pub enum E { A } fn f(e: E) { if let Some(E::A) = e {} }"), 1);
    assert_eq!(unbuilt("pub enum E { A } fn f(e: E) { matches!(e, E::A) || e == E::A }"), 1);
    assert_eq!(unbuilt("pub enum E { A } fn f() { match x { 1 => g(Self::A), _ => h() } }"), 0);
    assert_eq!(unbuilt("use E::*; pub enum E { A } fn f() -> E { A }"), 0);
    assert_eq!(unbuilt("#[derive(Deserialize)] pub enum E { A }"), 0);
}

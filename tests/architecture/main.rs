// SPDX-License-Identifier: GPL-3.0-or-later
//! The module map of docs/architecture.md, held by reading the sources: which module may know which.

mod specification;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A layer of src/ and the layers that it may name. Arrows point down only.
const LAYERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("config", &["core"]),
    ("cloud", &["core"]),
    ("slurm", &["core"]),
    ("journal", &["core"]),
    ("observe", &["core"]),
    // Another party's view of EC2 must not share code with what it is there to test.
    ("emulator", &[]),
    ("driver", &["core", "journal"]),
    ("runtime", &["core", "config", "cloud", "slurm", "journal", "driver", "observe"]),
    ("ffi", &["core", "config", "cloud", "slurm", "journal", "observe", "runtime"]),
    ("cli", &["core", "config", "cloud", "slurm", "journal", "observe", "runtime"]),
    ("bin", &["core", "config", "cloud", "slurm", "journal", "observe", "runtime", "cli", "emulator"]),
];

/// Words that a pure layer has no use for: time, files, network, threads and what would bring them.
const IMPURE: &[&str] = &[
    "tokio",
    "aws_config",
    "aws_sdk_ec2",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "SystemTime",
    "Instant::now",
    "Zoned::now",
    "Timestamp::now",
    "getrandom",
    // A generator with a seed of its own is fine: it gives the same numbers again.
    "Rng::new",
    "fastrand::u32",
    "fastrand::u64",
    "fastrand::usize",
    "fastrand::f64",
    "fastrand::shuffle",
    "fastrand::choice",
];

const AWS: &[&str] = &[
    "aws_sdk_ec2",
    "aws_config",
    "aws_sdk_sts",
    "aws_credential_types",
    "aws_runtime",
    "aws_smithy_http_client",
];

struct Source {
    /// Below the root of the project, with `/`.
    path: String,
    /// Without line comments, so that prose may name anything.
    code: String,
}

impl Source {
    fn new(path: impl Into<String>, text: &str) -> Self {
        let lines = text.lines().map(|line| line.find("//").map_or(line, |at| &line[..at]));
        Self { path: path.into(), code: lines.collect::<Vec<_>>().join("\n") }
    }

    /// The directory or file directly below src/.
    fn layer(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split_once('/').map_or(rest.trim_end_matches(".rs"), |(layer, _)| layer))
    }

    fn has_word(&self, word: &str) -> bool {
        let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).any(|(at, _)| {
            !self.code[..at].ends_with(part_of_name)
                && !self.code[at + word.len()..].starts_with(part_of_name)
        })
    }

    /// The modules that follow `root` (`crate::`, or the crate's name in programs), also in braces.
    fn names_after(&self, root: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (at, _) in self.code.match_indices(root) {
            if self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &self.code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                names.extend(heads_of_group(group));
            } else {
                names.insert(identifier(rest).to_owned());
            }
        }
        names
    }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// `a::{b, c}, d}…` gives `a` and `d`: the first names of a group whose brace is already open.
fn heads_of_group(text: &str) -> Vec<String> {
    let (mut heads, mut depth, mut at_head) = (Vec::new(), 0, true);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && !c.is_whitespace() => {
                heads.push(identifier(&text[at..]).to_owned());
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

/// Uses that point upwards or sideways.
fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources {
        let Some(layer) = source.layer().filter(|layer| *layer != "lib") else { continue };
        let Some(below) = layers.get(layer) else {
            wrong.push(format!("{}: the layer {layer} is not on the map", source.path));
            continue;
        };
        let mut used = source.names_after("crate::");
        used.extend(source.names_after("slurm_ec2_fleet::"));
        // A layer's own root file reaches its siblings by `super` too.
        if source.path == format!("src/{layer}/mod.rs") || source.path == format!("src/{layer}.rs") {
            used.extend(source.names_after("super::"));
        }
        for name in used {
            if layers.contains_key(name.as_str()) && name != layer && !below.contains(&name.as_str()) {
                wrong.push(format!("{}: {layer} must not know {name}", source.path));
            }
        }
    }
    wrong
}

/// Places outside of src/cloud/ec2 that name a crate of the AWS SDK.
fn sdk_elsewhere(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.path != "src/cloud/ec2.rs" && !source.path.starts_with("src/cloud/ec2/"))
        .flat_map(|source| AWS.iter().filter(|word| source.has_word(word)).map(move |word| (source, word)))
        .map(|(source, word)| format!("{}: {word}", source.path))
        .collect()
}

/// `config` reads its own files; beyond that both layers are functions of their arguments.
fn impurities(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let may_read = match source.layer() {
            Some("core") => false,
            Some("config") => true,
            _ => continue,
        };
        for word in IMPURE {
            if source.has_word(word) && !(may_read && *word == "std::fs") {
                found.push(format!("{}: {word}", source.path));
            }
        }
    }
    found
}

fn unsafe_elsewhere(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.layer() != Some("ffi") && source.has_word("unsafe"))
        .map(|source| source.path.clone())
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, into);
        } else {
            into.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/")
}

fn our_sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files_below(&root().join("src"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(paths.len() > 20, "src/ was found");
    paths.iter().map(|path| Source::new(relative(path), &fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn arrows_point_down() {
    assert_eq!(wrong_arrows(&our_sources()), [] as [String; 0]);
}

#[test]
fn one_module_names_the_aws_sdk() {
    let sources = our_sources();
    assert_eq!(sdk_elsewhere(&sources), [] as [String; 0]);
    assert!(sources.iter().any(|source| source.path == "src/cloud/ec2.rs" && source.has_word("aws_sdk_ec2")));
}

#[test]
fn core_and_config_are_pure() {
    assert_eq!(impurities(&our_sources()), [] as [String; 0]);
}

#[test]
fn unsafe_code_is_at_the_c_boundary_only() {
    assert_eq!(unsafe_elsewhere(&our_sources()), [] as [String; 0]);
}

/// What these SDK features bring has no place in slurmctld: a SIGCHLD handler and child processes, a browser login.
#[test]
fn the_sdk_starts_no_process() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    for name in ["aws-config", "aws-sdk-ec2"] {
        let line = manifest.lines().find(|line| line.starts_with(&format!("{name} ="))).expect(name);
        assert!(line.contains("default-features = false"), "{line}");
        for feature in ["credentials-process", "\"sso\"", "\"rustls\"", "credentials-login"] {
            assert!(!line.contains(feature), "{line}");
        }
    }
}

/// The simulator compiles these three layers, optimised, in a minute. A dependency of theirs on the SDK would make that ten.
const WITHOUT_THE_SDK: &[&str] = &["core", "driver", "journal"];

fn modules_without_the_feature(lib: &str) -> Vec<&str> {
    let mut gated = false;
    let mut free = Vec::new();
    for line in lib.lines() {
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
            && !gated
        {
            free.push(name);
        }
        gated = line == r#"#[cfg(feature = "aws")]"#;
    }
    free
}

#[test]
fn the_simulator_is_built_without_the_sdk() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains(r#"default = ["aws"]"#), "an ordinary build is the whole product");
    for line in manifest.lines().filter(|line| line.starts_with("aws-")) {
        assert!(line.contains("optional = true"), "{line}");
    }
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    assert_eq!(modules_without_the_feature(&lib), WITHOUT_THE_SDK);
    for name in WITHOUT_THE_SDK {
        let (_, below) = LAYERS.iter().find(|(layer, _)| layer == name).expect("a layer");
        assert!(below.iter().all(|layer| WITHOUT_THE_SDK.contains(layer)), "{name} stands on {below:?}");
    }
    let conditional: Vec<String> = our_sources()
        .into_iter()
        .filter(|source| source.path != "src/lib.rs" && source.code.contains("cfg(feature"))
        .map(|source| source.path)
        .collect();
    assert_eq!(conditional, [] as [String; 0], "one place knows of the feature");
}

#[test]
fn every_source_names_its_licence() {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "c_shim", "deploy"] {
        if root().join(folder).is_dir() {
            files_below(&root().join(folder), &mut paths);
        }
    }
    let kinds = ["rs", "c", "h", "py", "sh"];
    paths
        .retain(|path| path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind)));
    let without: Vec<String> = paths
        .iter()
        .filter(|path| {
            let text = fs::read_to_string(path).expect("text");
            !text.lines().take(3).any(|line| line.contains("SPDX-License-Identifier: GPL-3.0-or-later"))
        })
        .map(|path| relative(path))
        .collect();
    assert_eq!(without, [] as [String; 0]);
}

#[test]
fn the_checks_notice_what_they_are_for() {
    let source = |path: &str, text: &str| [Source::new(path, text)];
    let arrows = |path: &str, text: &str| wrong_arrows(&source(path, text)).len();
    assert_eq!(arrows("src/core/a.rs", "use crate::config::Site;"), 1);
    assert_eq!(arrows("src/core/a.rs", "use crate::core::site; // not crate::config"), 0);
    assert_eq!(arrows("src/core/mod.rs", "use super::slurm::x;"), 1);
    assert_eq!(arrows("src/cloud/a.rs", "use crate::{core::{site, tag}, slurm::x, cloud::y};"), 1);
    assert_eq!(arrows("src/runtime/a.rs", "use crate::{cli::x, ffi};"), 2);
    assert_eq!(arrows("src/emulator/a.rs", "crate::core::time::f()"), 1);
    assert_eq!(arrows("src/bin/a.rs", "slurm_ec2_fleet::ffi::x()"), 1);
    assert_eq!(arrows("src/newlayer/a.rs", ""), 1);
    assert_eq!(arrows("src/lib.rs", "pub mod cli;"), 0);
    assert_eq!(sdk_elsewhere(&source("src/cloud/mod.rs", "use aws_sdk_ec2::Client;")).len(), 1);
    assert_eq!(sdk_elsewhere(&source("src/cloud/ec2/reply.rs", "use aws_sdk_ec2::Client;")).len(), 0);
    assert_eq!(impurities(&source("src/core/a.rs", "let t = SystemTime::now();")).len(), 1);
    assert_eq!(impurities(&source("src/core/a.rs", "std::fs::read(path)")).len(), 1);
    assert_eq!(impurities(&source("src/config/a.rs", "std::fs::read(path)")).len(), 0);
    assert_eq!(impurities(&source("src/core/a.rs", "let tokio_like = 1;")).len(), 0);
    assert_eq!(unsafe_elsewhere(&source("src/slurm/a.rs", "unsafe { f() }")).len(), 1);
    assert_eq!(unsafe_elsewhere(&source("src/ffi/a.rs", "unsafe { f() }")).len(), 0);
}

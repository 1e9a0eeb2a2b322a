// SPDX-License-Identifier: GPL-3.0-or-later
//! The map of docs/architecture.md: which crate may depend on which, and what Cargo does not hold by itself.

mod contract;
mod members;
mod pages;
mod specification;
mod tidy;
mod tiers;

use std::fs;
use std::path::{Path, PathBuf};

use members::{Kind, Member};

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

    fn is_of(&self, member: &str) -> bool {
        self.path
            .strip_prefix("crates/")
            .and_then(|rest| rest.strip_prefix(member))
            .is_some_and(|rest| rest.starts_with('/'))
    }

    fn has_word(&self, word: &str) -> bool {
        let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).any(|(at, _)| {
            !self.code[..at].ends_with(part_of_name)
                && !self.code[at + word.len()..].starts_with(part_of_name)
        })
    }
}

/// `config` reads its own files; beyond that both crates are functions of their arguments.
fn impurities(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let may_read = source.is_of("config");
        if !may_read && !source.is_of("core") {
            continue;
        }
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
        .filter(|source| !source.path.starts_with("src/ffi/") && source.has_word("unsafe"))
        .map(|source| source.path.clone())
        .collect()
}

/// A file is a module of one crate: one that is compiled into two is checked, and its tests run, twice.
fn included_by_path(sources: &[Source]) -> Vec<String> {
    let attribute = concat!("#[", "path");
    sources
        .iter()
        .filter(|source| source.code.contains(attribute))
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

fn sources_in(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        files_below(&root().join(folder), &mut paths);
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(paths.len() > 5, "{folders:?} were found");
    paths.iter().map(|path| Source::new(relative(path), &fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn arrows_point_down() {
    assert_eq!(members::wrong_arrows(&members::all()), [] as [String; 0]);
}

#[test]
fn one_crate_names_the_aws_sdk() {
    let members = members::all();
    assert_eq!(members::sdk_elsewhere(&members), [] as [String; 0]);
    let ec2 = members.iter().find(|member| member.name == "ec2").expect("crates/ec2");
    assert!(ec2.outside(Kind::Normal).contains("aws-sdk-ec2"));
}

/// What one of these lists gains is compiled into everything above it.
#[test]
fn core_and_the_plugin_depend_on_what_they_need_and_no_more() {
    let members = members::all();
    let outside = |name: &str| {
        let member = members.iter().find(|member| member.name == name).expect(name);
        member.outside(Kind::Normal).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(outside("core"), ["fastrand", "indexmap", "schemars", "serde", "serde_json", "thiserror"]);
    assert_eq!(outside("plugin"), ["indexmap", "libc"]);
}

/// Also not through others: a web framework and a command line are for programs.
#[test]
fn slurmctld_loads_no_web_framework_and_no_command_line() {
    let loaded = members::tree_of("slurm-ec2-fleet");
    assert!(loaded.contains("aws-sdk-ec2"), "{loaded:?}");
    for name in ["axum", "clap", "clap_builder", "insta", "proptest", "ureq"] {
        assert!(!loaded.contains(name), "{name}");
    }
}

/// Cargo joins the features that the selected members ask for. If one of them has fewer alone, `-p` compiles aws-sdk-ec2 a second
/// time, which takes minutes.
#[test]
fn a_build_of_one_member_uses_the_sdk_of_a_build_of_all() {
    for member in ["slurm-ec2-fleet", "slurm-ec2-fleet-ec2", "slurm-ec2-fleet-runtime", "slurm-ec2-fleet-cli"]
    {
        assert_eq!(members::other_features(member), [] as [String; 0], "{member}");
    }
}

#[test]
fn core_and_config_are_pure() {
    assert_eq!(impurities(&sources_in(&["crates"])), [] as [String; 0]);
}

#[test]
fn unsafe_code_is_at_the_c_boundary_only() {
    assert_eq!(unsafe_elsewhere(&sources_in(&["src", "crates"])), [] as [String; 0]);
}

#[test]
fn no_file_is_compiled_into_two_crates() {
    assert_eq!(included_by_path(&sources_in(&["src", "crates", "tests", "examples"])), [] as [String; 0]);
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
    assert_eq!(members::with_features_of_their_own(&members::all()), [] as [String; 0]);
}

#[test]
fn every_source_names_its_licence() {
    let mut paths = Vec::new();
    for folder in ["src", "crates", "tests", "examples", "c_shim", "deploy"] {
        files_below(&root().join(folder), &mut paths);
    }
    let kinds = ["rs", "c", "h", "py", "sh"];
    paths.retain(|path| {
        let named = path.file_name().is_some_and(|name| name == "Cargo.toml");
        named || path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind))
    });
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
    assert_eq!(impurities(&source("crates/core/src/a.rs", "let t = SystemTime::now();")).len(), 1);
    assert_eq!(impurities(&source("crates/core/src/a.rs", "std::fs::read(path)")).len(), 1);
    assert_eq!(impurities(&source("crates/config/src/a.rs", "std::fs::read(path)")).len(), 0);
    assert_eq!(impurities(&source("crates/runtime/src/a.rs", "std::fs::read(path)")).len(), 0);
    assert_eq!(impurities(&source("crates/core/src/a.rs", "let tokio_like = 1; // not tokio")).len(), 0);
    assert_eq!(unsafe_elsewhere(&source("crates/slurm/src/a.rs", "unsafe { f() }")).len(), 1);
    assert_eq!(unsafe_elsewhere(&source("src/ffi/a.rs", "unsafe { f() }")).len(), 0);
    assert_eq!(included_by_path(&source("tests/a.rs", concat!("#[", "path = \"b.rs\"]"))).len(), 1);
    let member = |name: &str, normal: &[&str], dev: &[&str]| [Member::new(name, normal, dev)];
    let arrows =
        |name: &str, normal: &[&str], dev: &[&str]| members::wrong_arrows(&member(name, normal, dev)).len();
    assert_eq!(arrows("core", &["slurm-ec2-fleet-config"], &[]), 1);
    assert_eq!(arrows("core", &[], &["slurm-ec2-fleet-journal"]), 1);
    assert_eq!(arrows("ec2", &["slurm-ec2-fleet-core", "slurm-ec2-fleet-slurm"], &[]), 1);
    assert_eq!(arrows("ec2", &["slurm-ec2-fleet-emulator"], &[]), 1);
    assert_eq!(arrows("ec2", &["slurm-ec2-fleet-core"], &["slurm-ec2-fleet-emulator"]), 0);
    assert_eq!(arrows("runtime", &["slurm-ec2-fleet-cli", "slurm-ec2-fleet"], &[]), 2);
    assert_eq!(arrows("emulator", &["slurm-ec2-fleet-core"], &[]), 1);
    assert_eq!(arrows("newcomer", &[], &[]), 1);
    let sdk =
        |name: &str, normal: &[&str], dev: &[&str]| members::sdk_elsewhere(&member(name, normal, dev)).len();
    assert_eq!(sdk("runtime", &["aws-config"], &[]), 1);
    assert_eq!(sdk("runtime", &[], &["aws-sdk-ec2"]), 1);
    assert_eq!(sdk("emulator", &["aws-sdk-ec2"], &[]), 1);
    assert_eq!(sdk("emulator", &[], &["aws-sdk-ec2"]), 0);
    assert_eq!(sdk("ec2", &["aws-sdk-ec2", "aws-runtime"], &[]), 0);
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld must offer is used, and what the shim hands over is read: a symbol that is demanded for nothing makes the
//! plugin passive on a Slurm without it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{files_below, root};

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// All files below a folder of the project that end in `ending`, without unit tests, as one text.
fn text_below(folder: &str, ending: &str) -> String {
    let mut files: Vec<PathBuf> = Vec::new();
    files_below(&root().join(folder), &mut files);
    files
        .iter()
        .filter(|path| path.to_string_lossy().ends_with(ending) && !path.ends_with("tests.rs"))
        .map(|path| fs::read_to_string(path).expect("a source file"))
        .collect()
}

/// Names that follow `before` in a text.
fn names_after(text: &str, before: &str) -> BTreeSet<String> {
    text.match_indices(before).map(|(at, _)| identifier(&text[at + before.len()..]).to_owned()).collect()
}

/// Members of the structures `ec2fleet_…` of the contract that carry something; functions and strings as well as numbers.
fn members_of_the_contract(header: &str) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for body in header.split("\nstruct ec2fleet_").skip(1) {
        let body = body.split("\n};").next().unwrap_or_default();
        for line in body.lines().skip(1) {
            let declaration = line.split("/*").next().unwrap_or_default().trim();
            let name = match declaration.split_once("(*") {
                Some((_, function)) => identifier(function),
                None => declaration.strip_suffix(';').map_or("", |rest| {
                    rest.rsplit(|c: char| c.is_whitespace() || c == '*').next().unwrap_or_default()
                }),
            };
            let in_the_middle = line.starts_with("\t\t") || line.trim_start().starts_with('*');
            if !name.is_empty() && name != "reserved" && !in_the_middle {
                members.insert(name.to_owned());
            }
        }
    }
    members
}

#[test]
fn every_symbol_that_the_shim_demands_is_used() {
    let list = fs::read_to_string(root().join("c_shim/slurmctld_symbols.c")).expect("the list of symbols");
    let demanded: BTreeSet<String> =
        ["\tSLURMCTLD(", "\tLIBSLURM("].iter().flat_map(|row| names_after(&list, row)).collect();
    assert!(demanded.len() > 30 && demanded.contains("update_node"), "{demanded:?}");
    let mut used = names_after(&text_below("c_shim", ".c"), "slurmctld.");
    // A sentence of a comment may end in that word.
    used.remove("");
    assert_eq!(demanded.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new(), "demanded for nothing");
    assert_eq!(
        used.difference(&demanded).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "used and not looked for"
    );
}

#[test]
fn every_member_of_the_contract_is_used_by_the_library() {
    let header = fs::read_to_string(root().join("c_shim/plugin_abi.h")).expect("the contract");
    let members = members_of_the_contract(&header);
    for name in ["abi_version", "lock_held_ns", "strerror", "node_names", "max_time", "slurm_conf"] {
        assert!(members.contains(name), "{name} is not among {members:?}");
    }
    let library = text_below("src/ffi", ".rs");
    let mut used = names_after(&library, ".");
    // A structure that the library fills.
    used.extend(
        library.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, _)| name.to_owned()),
    );
    assert_eq!(members.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new());
}

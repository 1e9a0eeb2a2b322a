// SPDX-License-Identifier: GPL-3.0-or-later
//! The tiers of the engine: `cx` ← `ground` ← deciders ← the engine itself; and how large its parts may be.

use super::{Source, sources_in};

const ENGINE: &str = "crates/core/src/engine/";

/// Who decides, and whom each may call: at most two others, and never in a circle.
const DECIDERS: &[(&str, &[&str])] = &[
    ("groups", &[]),
    ("launch", &[]),
    ("hibernation", &[]),
    ("node_fleets", &["launch", "groups"]),
    ("demand", &["launch", "groups"]),
    ("reconcile", &["groups"]),
];

/// Files of `ground` that act on several stores. Every other one is a store, and names no other.
const ACTS: &[&str] = &["mod", "bind", "adopt", "fail"];

const MOST_FIELDS: usize = 14;
const MOST_LINES: usize = 500;
const MOST_LINES_OF_A_FUNCTION: usize = 80;

/// What of a file is compiled outside of tests.
fn production(source: &Source) -> &str {
    source.code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// Below the engine's folder, without `.rs`: `ground/tags`.
fn place(source: &Source) -> Option<&str> {
    let place = source.path.strip_prefix(ENGINE)?.strip_suffix(".rs")?;
    (!place.split('/').any(|part| part == "tests")).then_some(place)
}

/// The rooms that a file names, each with the part of it: `("ground", "tags")`.
fn named(source: &Source) -> Vec<(&str, &str)> {
    let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let after =
        source.code.match_indices("crate::engine::").map(|(at, path)| &source.code[at + path.len()..]);
    after
        .map(|rest| {
            let (room, rest) = rest.split_at(word(rest));
            let part = rest.strip_prefix("::").map_or("", |rest| &rest[..word(rest)]);
            (room, part)
        })
        .collect()
}

/// The rooms that a room may name besides itself; `None`: it is the engine, which may name all.
fn may_name(room: &str) -> Option<Vec<&str>> {
    match room {
        "cx" => Some(vec![]),
        "ground" => Some(vec!["cx"]),
        _ => {
            let (_, others) = DECIDERS.iter().find(|(decider, _)| *decider == room)?;
            Some(["cx", "ground"].iter().chain(*others).copied().collect())
        }
    }
}

fn upward(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let Some(place) = place(source) else { continue };
        let (room, part) = place.split_once('/').unwrap_or((place, ""));
        let Some(allowed) = may_name(room) else { continue };
        for (other, store) in named(source) {
            if other != room && !allowed.contains(&other) {
                wrong.push(format!("{place} names {other}"));
            }
            let is_store = |file: &str| !ACTS.contains(&file);
            if (room, other) == ("ground", "ground") && is_store(part) && store != part {
                wrong.push(format!("the store {place} names {other}::{store}"));
            }
        }
        if production(source).contains("super::") {
            wrong.push(format!("{place} names a room by `super`, which this test does not follow"));
        }
    }
    wrong
}

fn deciders_that_know_too_many() -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, (decider, others)) in DECIDERS.iter().enumerate() {
        if others.len() > 2 {
            wrong.push(format!("{decider} calls more than two others"));
        }
        for other in *others {
            if !DECIDERS[..place].iter().any(|(earlier, _)| earlier == other) {
                wrong.push(format!("{decider} calls {other}, which may call it"));
            }
        }
    }
    wrong
}

/// Each block that a line opens, with the lines between that one and the line that closes it.
fn blocks(source: &Source, opens: fn(&str) -> bool) -> Vec<(&str, Vec<&str>)> {
    let lines: Vec<&str> = source.code.lines().collect();
    let mut blocks = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !opens(line.trim_start()) || line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let closes = |line: &&str| {
            line.len() > indent && line[..indent] == " ".repeat(indent) && line[indent..].starts_with('}')
        };
        let body: Vec<&str> = lines[at + 1..].iter().take_while(|line| !closes(line)).copied().collect();
        blocks.push((line.trim(), body));
    }
    blocks
}

fn too_large(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let Some(place) = place(source) else { continue };
        let lines = source.code.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{place} has {lines} lines"));
        }
        let is_struct = |line: &str| line.contains("struct ") && line.ends_with('{');
        for (head, body) in blocks(source, is_struct) {
            let fields = body.iter().filter(|line| line.contains(": ")).count();
            if fields > MOST_FIELDS {
                wrong.push(format!("{place}: {head} has {fields} fields"));
            }
        }
        let is_function = |line: &str| {
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            line.starts_with("fn ") || line.starts_with("const fn ")
        };
        for (head, body) in blocks(source, is_function) {
            if body.len() > MOST_LINES_OF_A_FUNCTION {
                wrong.push(format!("{place}: {head} has {} lines", body.len()));
            }
        }
    }
    wrong
}

#[test]
fn no_part_of_the_engine_names_what_is_above_it() {
    let sources = sources_in(&[ENGINE.trim_end_matches('/')]);
    assert_eq!(upward(&sources), [] as [String; 0]);
    assert_eq!(deciders_that_know_too_many(), [] as [String; 0]);
}

#[test]
fn no_part_of_the_engine_is_too_large() {
    assert_eq!(too_large(&sources_in(&[ENGINE.trim_end_matches('/')])), [] as [String; 0]);
}

#[test]
fn an_arrow_that_points_up_and_a_part_that_is_too_large_are_noticed() {
    let names = |place: &str, text: &str| {
        upward(&[Source::new(format!("{ENGINE}{place}.rs"), &format!("use crate::engine::{text};"))]).len()
    };
    assert_eq!(names("cx/calls", "ground::Ground"), 1);
    assert_eq!(names("cx/calls", "cx::Cx"), 0);
    assert_eq!(names("ground/tags", "cx::Cx"), 0);
    assert_eq!(names("ground/tags", "ground::sleepers::Sleepers"), 1);
    assert_eq!(names("ground/tags", "ground::Ground"), 1);
    assert_eq!(names("ground/bind", "ground::sleepers::Sleepers"), 0);
    assert_eq!(names("ground/bind", "demand::Demand"), 1);
    assert_eq!(names("groups/calls", "ground::Ground"), 0);
    assert_eq!(names("groups/calls", "launch::Launching"), 1);
    assert_eq!(names("demand/power", "groups::GroupFleets"), 0);
    assert_eq!(names("demand/power", "reconcile::Reconcile"), 1);
    assert_eq!(names("reconcile", "Engine"), 1);
    assert_eq!(names("admin", "demand::Demand"), 0);
    let large = |text: &str| too_large(&[Source::new(format!("{ENGINE}cx/a.rs"), text)]).len();
    let fields = |count| format!("struct A {{\n{}}}\n", "    a: u32,\n".repeat(count));
    assert_eq!((large(&fields(14)), large(&fields(15))), (0, 1));
    let function =
        |count| format!("impl A {{\n    fn a() {{\n{}    }}\n}}\n", "        a();\n".repeat(count));
    assert_eq!((large(&function(80)), large(&function(81))), (0, 1));
    assert_eq!((large(&"a\n".repeat(500)), large(&"a\n".repeat(501))), (0, 1));
}

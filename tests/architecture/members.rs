// SPDX-License-Identifier: GPL-3.0-or-later
//! The members of the workspace as their manifests describe them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::root;

/// A member, the members that it stands on, and those that only its tests know. A member stands on what is above it in
/// this list, so no arrow of the map points up.
const MAP: &[(&str, &[&str], &[&str])] = &[
    ("core", &[], &[]),
    // Another party's view of EC2 must not share code with what it is there to test.
    ("emulator", &[], &[]),
    ("rig", &[], &["core"]),
    ("config", &["core"], &["cli", "ec2"]),
    ("control", &["core"], &[]),
    ("ec2", &["core"], &["emulator"]),
    ("journal", &["core"], &[]),
    ("observe", &["core"], &[]),
    ("slurm", &["core"], &[]),
    ("runtime", &["core", "config", "control", "ec2", "journal", "observe", "slurm"], &[]),
    ("plugin", &["core", "slurm", "runtime"], &[]),
    (
        "cli",
        &["core", "config", "control", "ec2", "journal", "observe", "slurm", "runtime"],
        &["emulator", "rig"],
    ),
    ("sim", &["core", "journal"], &[]),
    ("bench", &["core", "rig"], &[]),
    ("demo", &["rig"], &[]),
];

/// Members whose tests call the emulator as any program with an AWS SDK would.
const TESTED_WITH_THE_SDK: &[&str] = &["cli", "emulator"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of what is built, or of building it.
    Normal,
    /// Of tests alone.
    Dev,
}

pub struct Member {
    /// The package's name without `slurm-ec2-fleet-`; that of the root package, which is nothing else, is `plugin`.
    pub name: String,
    /// Names of packages.
    dependencies: Vec<(Kind, String)>,
    features: Vec<String>,
}

fn short(package: &str) -> Option<&str> {
    let rest = package.strip_prefix("slurm-ec2-fleet")?;
    if rest.is_empty() { Some("plugin") } else { rest.strip_prefix('-') }
}

impl Member {
    #[cfg(test)]
    pub fn new(name: &str, normal: &[&str], dev: &[&str]) -> Self {
        let of =
            |kind, names: &[&str]| names.iter().map(|name| (kind, (*name).to_owned())).collect::<Vec<_>>();
        Self {
            name: name.to_owned(),
            dependencies: [of(Kind::Normal, normal), of(Kind::Dev, dev)].concat(),
            features: Vec::new(),
        }
    }

    fn named(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.dependencies.iter().filter(move |(of, _)| *of == kind).map(|(_, name)| name.as_str())
    }

    /// Other members, by their short names.
    fn inside(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.named(kind).filter_map(short)
    }

    /// Packages of other projects.
    pub fn outside(&self, kind: Kind) -> BTreeSet<String> {
        self.named(kind).filter(|name| short(name).is_none()).map(str::to_owned).collect()
    }
}

fn cargo(arguments: &[&str]) -> String {
    let ran = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(ran.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

pub fn all() -> Vec<Member> {
    let text = cargo(&["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let members: Vec<Member> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| Member {
            name: short(&text(&package["name"])).expect("a name of ours").to_owned(),
            dependencies: package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .map(|dependency| {
                    let kind = if dependency["kind"] == "dev" { Kind::Dev } else { Kind::Normal };
                    (kind, text(&dependency["name"]))
                })
                .filter(|(_, name)| name != "bindgen")
                .collect(),
            features: package["features"].as_object().expect("features").keys().cloned().collect(),
        })
        .collect();
    assert!(members.len() >= MAP.len(), "every member is there");
    members
}

/// The packages that are compiled into `package`.
pub fn tree_of(package: &str) -> BTreeSet<String> {
    let text = cargo(&["tree", "--offline", "--locked", "-p", package, "-e", "normal", "--prefix", "none"]);
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The packages in a build of `selected` with the features that they have there, one "name version features" each.
fn features_in(selected: &[&str], edges: &str) -> BTreeSet<String> {
    let common = ["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p} {f}", "-e", edges];
    let text = cargo(&[&common, selected].concat());
    // A package that is named again has a mark at the end.
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// What the SDK stands on, and has other features in a build of `member` alone than in a build of everything.
pub fn other_features(member: &str) -> Vec<String> {
    let below_the_sdk = tree_of("slurm-ec2-fleet-ec2");
    let everything = features_in(&["--workspace"], "normal,build,dev");
    let mut other = Vec::new();
    for edges in ["normal,build", "normal,build,dev"] {
        let alone = features_in(&["-p", member], edges);
        other.extend(alone.difference(&everything).cloned());
    }
    other.retain(|line| {
        let name = line.split(' ').next().unwrap_or_default();
        below_the_sdk.contains(name) && short(name).is_none()
    });
    other
}

/// Dependencies that point upwards or sideways, and members that are on no map.
pub fn wrong_arrows(members: &[Member]) -> Vec<String> {
    let mut wrong = Vec::new();
    for member in members {
        let Some(place) = MAP.iter().position(|(name, ..)| *name == member.name) else {
            wrong.push(format!("{} is not on the map", member.name));
            continue;
        };
        let (name, below, for_tests) = MAP[place];
        for other in below {
            assert!(
                MAP[..place].iter().any(|(name, ..)| name == other),
                "{name} stands before {other} on the map"
            );
        }
        for (kind, allowed) in [(Kind::Normal, below), (Kind::Dev, for_tests)] {
            for other in
                member.inside(kind).filter(|other| !allowed.contains(other) && !below.contains(other))
            {
                wrong.push(format!("{name} must not know {other}"));
            }
        }
    }
    wrong
}

/// Members beside `ec2` that name a crate of the AWS SDK.
pub fn sdk_elsewhere(members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    for member in members.iter().filter(|member| member.name != "ec2") {
        for kind in [Kind::Normal, Kind::Dev] {
            let for_tests = kind == Kind::Dev && TESTED_WITH_THE_SDK.contains(&member.name.as_str());
            let named = member.outside(kind).into_iter().filter(|name| name.starts_with("aws-"));
            found.extend(named.filter(|_| !for_tests).map(|name| format!("{}: {name}", member.name)));
        }
    }
    found
}

/// A feature compiles what stands on its member in two ways; core's fixtures for tests are worth that.
pub fn with_features_of_their_own(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .filter(|member| match member.name.as_str() {
            "core" => member.features != ["testing"],
            _ => !member.features.is_empty(),
        })
        .map(|member| member.name.clone())
        .collect()
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Hostlists against `scontrol`, and by property.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use ec2fleet_core::hostlist::{HostlistError, MAX_NAMES, expand, expand_bounded, fold, fold_ordered};
use proptest::prelude::*;

/// One scontrol process answers many `show` commands, which it reads from its standard input.
struct Scontrol {
    dir: tempfile::TempDir,
}

impl Scontrol {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(
            dir.path().join("slurm.conf"),
            "ClusterName=test\nSlurmctldHost=localhost(127.0.0.1)\nNodeName=n1 CPUs=1\nPartitionName=p Nodes=ALL\n",
        )
        .expect("slurm.conf is written");
        Self { dir }
    }

    /// The answer to each command, its lines joined by spaces.
    fn ask(&self, commands: &[String]) -> Vec<String> {
        let mut child = Command::new("scontrol")
            .env("SLURM_CONF", self.dir.path().join("slurm.conf"))
            .env_remove("TERM")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scontrol is installed (package slurm-client)");
        let mut input = child.stdin.take().expect("a pipe");
        let commands_text: String = commands.iter().map(|command| format!("{command}\n")).collect();
        let text = format!("show hostnames a\n{commands_text}");
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("scontrol ends");
        writer.join().expect("the writer ends").expect("scontrol reads its input");
        let stdout = String::from_utf8(output.stdout).expect("scontrol prints ASCII here");
        // The prompt stands before each answer. Built with readline, scontrol also repeats the command in a line
        // of its own, cut to the width of a terminal; the first command shows which it is.
        let mut parts = stdout.split("scontrol: ").skip(1);
        let repeats = parts.next().expect("an answer to the first command").starts_with("show");
        let answers: Vec<String> = parts
            .take(commands.len())
            .map(|part| {
                let answer =
                    if repeats { part.split_once('\n').map_or("", |(_, answer)| answer) } else { part };
                answer.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(answers.len(), commands.len(), "scontrol answered every command");
        answers
    }
}

fn pick<'a>(rng: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

const PREFIXES: [&str; 14] = [
    "aws-spot-",
    "aws-od-",
    "n",
    "gpu",
    "a1b",
    "a01b",
    "a10b",
    "a2b",
    "rack-7-",
    "x-",
    "N",
    "n-",
    "p4d",
    "z_",
];

fn number(rng: &mut fastrand::Rng) -> String {
    let value = match rng.u8(..4) {
        0 => rng.u32(..12),
        1 => rng.u32(95..105),
        2 => rng.u32(990..1_010),
        _ => rng.u32(..200_000),
    };
    if rng.u8(..3) == 0 { format!("{value:0width$}", width = rng.usize(1..6)) } else { value.to_string() }
}

fn expression(rng: &mut fastrand::Rng) -> String {
    let mut items = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let mut item = pick(rng, &PREFIXES).to_owned();
        match rng.u8(..8) {
            0 => {}
            1 => item.push_str(&number(rng)),
            kind => {
                for bracket in 0..if kind == 2 { 2 } else { 1 } {
                    if bracket > 0 {
                        item.push_str(pick(rng, &["b", "-", "r-", ""]));
                    }
                    let ranges: Vec<String> = (0..rng.usize(1..4))
                        .map(|_| {
                            let low = number(rng);
                            if rng.bool() {
                                return low;
                            }
                            let high = low.parse::<u32>().expect("digits") + rng.u32(..15);
                            format!("{low}-{high}")
                        })
                        .collect();
                    item.push_str(&format!("[{}]", ranges.join(",")));
                }
            }
        }
        items.push(item);
    }
    items.join(",")
}

/// Names near each other, so that ranges form; `padded` numbers in one prefix all have one width.
fn names(rng: &mut fastrand::Rng, mixed_widths: bool) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let prefix = pick(rng, &PREFIXES);
        let width = if mixed_widths { None } else { Some(prefix.len() % 4) };
        let mut value = [0, 7, 95, 998][rng.usize(..4)] + rng.u32(..4);
        for _ in 0..rng.usize(1..8) {
            let width = width.unwrap_or_else(|| rng.usize(..4));
            names.push(format!("{prefix}{value:0width$}"));
            value = match rng.u8(..6) {
                0 => rng.u32(..1_200),
                1 => value,
                2 => value + 2,
                _ => value + 1,
            };
        }
        if rng.u8(..5) == 0 {
            names.push(format!("{prefix}login"));
        }
        if rng.u8(..8) == 0 {
            names.push(prefix.to_owned());
        }
    }
    names
}

/// 100,000 generated inputs give what the installed Slurm gives.
#[test]
fn agrees_with_scontrol() {
    let scontrol = Scontrol::new();
    let mut rng = fastrand::Rng::with_seed(0x5eed_2205);
    for _round in 0..10 {
        let mut commands = Vec::new();
        let mut ours = Vec::new();
        for _ in 0..4_000 {
            let expression = expression(&mut rng);
            ours.push(expand(&expression).expect("a well-formed expression").join(" "));
            commands.push(format!("show hostnames {expression}"));
        }
        for _ in 0..3_000 {
            let names = names(&mut rng, true);
            ours.push(fold_ordered(&names));
            commands.push(format!("show hostlist {}", names.join(",")));
        }
        for _ in 0..3_000 {
            let unique: BTreeSet<String> = names(&mut rng, false).into_iter().collect();
            let mut unique: Vec<String> = unique.into_iter().collect();
            rng.shuffle(&mut unique);
            ours.push(fold(&unique));
            commands.push(format!("show hostlistsorted {}", unique.join(",")));
        }
        let theirs = scontrol.ask(&commands);
        for ((command, ours), theirs) in commands.iter().zip(&ours).zip(&theirs) {
            assert_eq!(ours, theirs, "{command}");
        }
    }
}

#[test]
fn broken_expressions_are_refused() {
    for text in [
        "n[",
        "n]",
        "n[1",
        "n[1-2",
        "n1]",
        "n[]",
        "n[,1]",
        "n[1,,2]",
        "n[1,]",
        "n[3-1]",
        "n[a-b]",
        "n[-1]",
        "n[1-]",
        "n[+1]",
        "n[0x1-0x2]",
        "n[1-2-3]",
        "n[1-2]x",
        "n[1-2],m[",
        "[[1]]",
        "n[1][",
        "n[1]]",
        "n[ 1]",
        "n[1 - 2]",
        "n[1.5]",
        "n[١]",
        "n[9999999999999999999]",
    ] {
        let error = expand(text).expect_err(text);
        assert!(!matches!(error, HostlistError::TooMany { .. }), "{text}: {error}");
    }
}

#[test]
fn separators_and_empty_items() {
    assert_eq!(expand("").unwrap(), Vec::<String>::new());
    assert_eq!(expand(" a,,b\tc\n").unwrap(), ["a", "b", "c"]);
}

#[test]
fn the_count_is_bounded_without_making_the_names() {
    let too_many = Err(HostlistError::TooMany { limit: MAX_NAMES });
    assert_eq!(expand("n[0-999999999999999999]"), too_many);
    assert_eq!(expand("n[0-999999999999999999][0-999999999999999999]x[0-999999999999999999]"), too_many);
    assert_eq!(expand("n[0-99999],m"), too_many);
    assert_eq!(expand("n[0-99999]").unwrap().len(), MAX_NAMES);
    assert_eq!(expand_bounded("a,b,c", 2), Err(HostlistError::TooMany { limit: 2 }));
}

#[test]
fn node_names_of_a_site_fold() {
    let names: Vec<String> = (0..12).map(|i| format!("aws-spot-{i}")).collect();
    assert_eq!(fold(&names), "aws-spot-[0-11]");
    assert_eq!(fold_ordered(["aws-spot-12"]), "aws-spot-12");
    assert_eq!(fold_ordered(["aws-a-3", "aws-a-1", "aws-a-2", "", "aws-b-1"]), "aws-a-[3,1-2],aws-b-1");
    assert_eq!(fold(["n99999999999999999999", "n2", "n1", "n2"]), "n[1-2],n99999999999999999999");
    assert_eq!(fold(Vec::<String>::new()), "");
}

fn any_name() -> impl Strategy<Value = String> {
    ("[a-zA-Z][a-z0-9_.-]{0,6}", prop_oneof![Just(String::new()), "[0-9]{1,4}", "[0-9]{17,22}"])
        .prop_map(|(stem, digits)| stem + &digits)
}

proptest! {
    #[test]
    fn expand_undoes_fold_ordered(names in proptest::collection::vec(any_name(), 0..40)) {
        prop_assert_eq!(expand(&fold_ordered(&names)).unwrap(), names);
    }

    #[test]
    fn fold_is_the_set(names in proptest::collection::vec(any_name(), 0..40)) {
        let folded = fold(&names);
        let back = expand(&folded).unwrap();
        let set: BTreeSet<&String> = names.iter().collect();
        prop_assert_eq!(back.len(), set.len(), "each once: {}", folded);
        prop_assert_eq!(back.iter().collect::<BTreeSet<_>>(), set);
        let mut reversed = names.clone();
        reversed.reverse();
        prop_assert_eq!(fold(&reversed), folded, "the order given does not matter");
    }

    #[test]
    fn consecutive_numbers_fold_into_one_range(start in 0_u32..100_000, count in 2_u32..300) {
        let names: Vec<String> = (start..start + count).map(|i| format!("p-g-{i}")).collect();
        prop_assert_eq!(fold_ordered(&names), format!("p-g-[{start}-{}]", start + count - 1));
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        let _ = expand_bounded(&text, 1_000);
    }

    #[test]
    fn any_near_expression_is_answered(text in "[an0-9,\\[\\] -]{0,40}") {
        if let Ok(names) = expand_bounded(&text, 1_000) {
            prop_assert!(names.len() <= 1_000);
            prop_assert!(names.iter().all(|n| !n.is_empty() && !n.contains([',', '[', ']', ' '])));
        }
    }
}

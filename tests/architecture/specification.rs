// SPDX-License-Identifier: GPL-3.0-or-later
//! SPECIFICATION.md: each promise has its own number, and the tests that are said to hold it exist.

use std::fs;

use super::{files_below, relative, root};

struct Promise {
    number: String,
    held_by: String,
}

fn promises(specification: &str) -> Vec<Promise> {
    let cells = |line: &str| {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
        Some((cells.next()?.to_owned(), cells.next_back()?.to_owned()))
    };
    let rows = specification.lines().filter_map(cells);
    let numbered = rows.filter(|(number, _)| number.starts_with(|c: char| c.is_ascii_digit()));
    numbered.map(|(number, held_by)| Promise { number, held_by }).collect()
}

/// Names of test functions between backquotes; `…` at the end stands for the rest of a name.
fn tests_named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '…');
        name.contains('_') && name.chars().all(letters)
    })
}

fn faults(specification: &str, sources: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, promise) in promises(specification).iter().enumerate() {
        let expected = (place + 1).to_string();
        if promise.number != expected {
            faults.push(format!("promise {} has the number of promise {expected}", promise.number));
        }
        if promise.held_by.is_empty() {
            faults
                .push(format!("promise {} says neither what holds it nor that nothing does", promise.number));
        }
        for name in tests_named(&promise.held_by) {
            let signature = match name.strip_suffix('…') {
                Some(beginning) => format!("fn {beginning}"),
                None => format!("fn {name}("),
            };
            if !sources.contains(&signature) {
                faults.push(format!("promise {}: there is no test {name}", promise.number));
            }
        }
    }
    faults
}

#[test]
fn every_promise_has_its_number_and_tests_that_exist() {
    let mut files = Vec::new();
    for folder in ["src", "crates", "tests"] {
        files_below(&root().join(folder), &mut files);
    }
    files.retain(|file| relative(file).ends_with(".rs"));
    let sources: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let specification = fs::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    assert!(promises(&specification).len() > 50, "the table is not read");
    assert_eq!(faults(&specification, &sources), Vec::<String>::new());
}

#[test]
fn a_repeated_number_and_a_missing_test_are_noticed() {
    let sources = "fn it_holds() {}";
    let good = "| 1 | A. | tests `it_holds`, `it_…` |\n| 2 | B. | mutant `NoFence` |";
    assert_eq!(faults(good, sources), Vec::<String>::new());
    assert_eq!(faults("| 1 | A. | `it_holds_not` |", sources).len(), 1);
    assert_eq!(faults("| 1 | A. | x |\n| 1 | B. | x |", sources).len(), 1);
    assert_eq!(faults("| 1 | A. | |", sources).len(), 1);
}

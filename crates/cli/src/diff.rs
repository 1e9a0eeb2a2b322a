// SPDX-License-Identifier: GPL-3.0-or-later
//! Differences of two short texts, line by line.

use std::fmt::Write;

/// Unchanged lines that are shown around a change.
const AROUND: usize = 3;

/// In the unified format of diff(1); empty if the texts are the same.
#[must_use]
pub fn unified(old_name: &str, new_name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let lines = script(&old, &new);
    let mut out = format!("--- {old_name}\n+++ {new_name}\n");
    let mut at = 0;
    while let Some(first) = (at..lines.len()).find(|i| lines[*i].0 != ' ') {
        let start = first.saturating_sub(AROUND).max(at);
        // A hunk ends where twice as many unchanged lines follow as are shown.
        let mut last = first;
        for (i, line) in lines.iter().enumerate().skip(first) {
            if line.0 != ' ' {
                last = i;
            } else if i - last > 2 * AROUND {
                break;
            }
        }
        let end = (last + AROUND + 1).min(lines.len());
        let count =
            |sign: char, upto: &[(char, &str)]| upto.iter().filter(|l| l.0 == ' ' || l.0 == sign).count();
        let (old_start, old_count) = (count('-', &lines[..start]), count('-', &lines[start..end]));
        let (new_start, new_count) = (count('+', &lines[..start]), count('+', &lines[start..end]));
        // A range without lines is named by the line before it.
        let place = |start: usize, count: usize| if count == 0 { start } else { start + 1 };
        let _ = writeln!(
            out,
            "@@ -{},{old_count} +{},{new_count} @@",
            place(old_start, old_count),
            place(new_start, new_count)
        );
        for (sign, line) in &lines[start..end] {
            let _ = writeln!(out, "{sign}{line}");
        }
        at = end;
    }
    out
}

/// Every line of both, marked as kept, removed or added: a longest common subsequence.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let same_start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same_start;
    let same_end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[same_start..old.len() - same_end], &new[same_start..new.len() - same_end]);
    let mut longest = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let mut lines: Vec<(char, &str)> = old[..same_start].iter().map(|line| (' ', *line)).collect();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    lines.extend(old[old.len() - same_end..].iter().map(|line| (' ', *line)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        let new = "a\nb\nC\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\n";
        assert_eq!(
            unified("o", "n", old, new),
            "--- o\n+++ n\n@@ -1,6 +1,6 @@\n a\n b\n-c\n+C\n d\n e\n f\n@@ -10,3 +10,4 @@\n j\n k\n l\n+m\n"
        );
        assert_eq!(unified("o", "n", "", "x\n"), "--- o\n+++ n\n@@ -0,0 +1,1 @@\n+x\n");
        assert_eq!(unified("o", "n", "x\n", ""), "--- o\n+++ n\n@@ -1,1 +0,0 @@\n-x\n");
        assert_eq!(unified("o", "n", "same", "same"), "");
    }

    /// Taking the kept and removed lines gives the old text back, the kept and added ones the new.
    #[test]
    fn scripts_give_both_texts_back() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let mut text =
                || (0..rng.usize(..12)).map(|_| ["a", "b", "c"][rng.usize(..3)]).collect::<Vec<_>>();
            let (old, new) = (text(), text());
            let lines = script(&old, &new);
            let side = |other: char| lines.iter().filter(|l| l.0 != other).map(|l| l.1).collect::<Vec<_>>();
            assert_eq!((side('+'), side('-')), (old, new));
        }
    }
}

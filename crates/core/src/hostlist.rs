// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's hostlist expressions: `gpu-a-[0-3,7]` and the names that it stands for.
//!
//! The grammar is that of `scontrol show hostnames` (checked against Slurm 22.05 in `tests/core/hostlist.rs`):
//! names are separated by commas or white space; a name is text with any number of bracketed lists of numbers
//! and ranges, and nothing follows the last bracket; the first number of a range sets the width that all of
//! its numbers are padded to with zeros. Where Slurm silently repairs a broken expression
//! (`n[1-2`, `n[1-]`), this module refuses it: a node that was not meant must never be resumed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

/// Names that [`expand`] gives at most. Slurm itself stops at 64 Ki for one range.
pub const MAX_NAMES: usize = 100_000;

/// Digits that are read as a number; longer ones are part of the text of the name.
const MAX_DIGITS: usize = 18;

/// Why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostlistError {
    #[error("hostlist \"{text}\": a bracket is not closed, or closed without being opened")]
    Unbalanced { text: String },
    #[error("hostlist \"{text}\": \"{range}\" is not a number or a range such as 1-4")]
    BadRange { text: String, range: String },
    #[error("hostlist \"{text}\": text follows the last bracket; Slurm allows none")]
    TrailingText { text: String },
    #[error("hostlist \"{text}\": white space inside brackets")]
    Space { text: String },
    #[error("hostlist stands for more than {limit} names")]
    TooMany { limit: usize },
}

/// The names of a hostlist expression, in its order, duplicates kept; at most [`MAX_NAMES`].
///
/// # Errors
/// When the expression is malformed or stands for too many names.
pub fn expand(text: &str) -> Result<Vec<String>, HostlistError> {
    expand_bounded(text, MAX_NAMES)
}

/// As [`expand`], with at most `limit` names.
///
/// # Errors
/// When the expression is malformed or stands for more than `limit` names.
pub fn expand_bounded(text: &str, limit: usize) -> Result<Vec<String>, HostlistError> {
    let mut names = Vec::new();
    for item in split_items(text)? {
        expand_item(item, limit, &mut names)?;
    }
    Ok(names)
}

/// Split at the commas and white space that are not inside brackets.
fn split_items(text: &str) -> Result<Vec<&str>, HostlistError> {
    let unbalanced = || HostlistError::Unbalanced { text: excerpt(text) };
    let mut items = Vec::new();
    let mut start = 0;
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' if inside => return Err(unbalanced()),
            ']' if !inside => return Err(unbalanced()),
            '[' => inside = true,
            ']' => inside = false,
            c if c.is_whitespace() && inside => return Err(HostlistError::Space { text: excerpt(text) }),
            c if (c == ',' || c.is_whitespace()) && !inside => {
                items.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    if inside {
        return Err(unbalanced());
    }
    items.push(&text[start..]);
    items.retain(|item| !item.is_empty());
    Ok(items)
}

/// Inclusive, with the width to pad to.
struct Range {
    low: u64,
    high: u64,
    width: usize,
}

impl Range {
    fn parse(text: &str, whole: &str) -> Result<Self, HostlistError> {
        let bad = || HostlistError::BadRange { text: excerpt(whole), range: excerpt(text) };
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let number = |digits: &str| -> Result<u64, HostlistError> {
            if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            digits.parse().map_err(|_| bad())
        };
        let range = Self { low: number(low)?, high: number(high)?, width: low.len() };
        if range.low > range.high { Err(bad()) } else { Ok(range) }
    }

    fn count(&self) -> u64 {
        self.high - self.low + 1
    }
}

fn expand_item(item: &str, limit: usize, names: &mut Vec<String>) -> Result<(), HostlistError> {
    let mut parts: Vec<(&str, Vec<Range>)> = Vec::new();
    let mut rest = item;
    while let Some((prefix, tail)) = rest.split_once('[') {
        let Some((ranges, after)) = tail.split_once(']') else {
            return Err(HostlistError::Unbalanced { text: excerpt(item) });
        };
        let ranges = ranges.split(',').map(|r| Range::parse(r, item)).collect::<Result<_, _>>()?;
        parts.push((prefix, ranges));
        rest = after;
    }
    if parts.is_empty() {
        if names.len() >= limit {
            return Err(HostlistError::TooMany { limit });
        }
        names.push(item.to_owned());
        return Ok(());
    }
    if !rest.is_empty() {
        return Err(HostlistError::TrailingText { text: excerpt(item) });
    }
    // Counted before anything is made: "n[0-999999999][0-999999999]" must cost nothing.
    let count = parts.iter().try_fold(1_u64, |product, (_, ranges)| {
        let sum = ranges.iter().try_fold(0_u64, |sum, r| sum.checked_add(r.count()))?;
        product.checked_mul(sum)
    });
    let room = (limit.saturating_sub(names.len())) as u64;
    if count.is_none_or(|count| count > room) {
        return Err(HostlistError::TooMany { limit });
    }
    let mut made = vec![String::new()];
    for (prefix, ranges) in &parts {
        let mut next = Vec::new();
        for stem in &made {
            for range in ranges {
                for number in range.low..=range.high {
                    next.push(format!("{stem}{prefix}{number:0width$}", width = range.width));
                }
            }
        }
        made = next;
    }
    names.append(&mut made);
    Ok(())
}

/// As much of an expression as an error message needs.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A name and where its trailing number starts.
#[derive(Clone)]
struct Name<'a> {
    text: Cow<'a, str>,
    number_at: usize,
    number: u64,
}

impl<'a> Name<'a> {
    fn new(text: Cow<'a, str>) -> Self {
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let number_at = if digits > MAX_DIGITS { text.len() } else { text.len() - digits };
        let number = text[number_at..].parse().unwrap_or(0);
        Self { text, number_at, number }
    }

    fn prefix(&self) -> &str {
        &self.text[..self.number_at]
    }

    fn digits(&self) -> &str {
        &self.text[self.number_at..]
    }

    fn has_number(&self) -> bool {
        self.number_at < self.text.len()
    }
}

/// The shortest expression that [`expand`] turns back into these names in this very order, duplicates kept,
/// as `scontrol show hostlist` prints it.
///
/// Empty names are left out. Names must not hold commas, brackets or white space; Slurm has no such nodes.
#[must_use]
pub fn fold_ordered<I>(names: I) -> String
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let names: Vec<I::Item> = names.into_iter().collect();
    let names: Vec<Name> = names
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| !name.is_empty())
        .map(|name| Name::new(Cow::Borrowed(name)))
        .collect();
    write_folded(&names)
}

/// The expression for a set of names: sorted, each name once.
///
/// The order is that of `scontrol show hostlistsorted`: by the text before the number, where runs of digits
/// count as numbers (`rack2` before `rack10`), then by the width of the number and its value.
#[must_use]
pub fn fold<I>(names: I) -> String
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let names: Vec<I::Item> = names.into_iter().collect();
    let mut names: Vec<Name> = names
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| !name.is_empty())
        .map(|name| Name::new(Cow::Borrowed(name)))
        .collect();
    names.sort_by(compare);
    names.dedup_by(|a, b| a.text == b.text);
    write_folded(&names)
}

/// Sort names as [`fold`] does.
pub fn sort<S: AsRef<str>>(names: &mut [S]) {
    names.sort_by(|a, b| {
        compare(&Name::new(Cow::Borrowed(a.as_ref())), &Name::new(Cow::Borrowed(b.as_ref())))
    });
}

fn compare(a: &Name, b: &Name) -> Ordering {
    compare_natural(a.prefix(), b.prefix())
        .then_with(|| a.has_number().cmp(&b.has_number()))
        .then_with(|| a.digits().len().cmp(&b.digits().len()))
        .then_with(|| a.number.cmp(&b.number))
}

/// Text order in which runs of digits are compared as numbers; a run with a leading zero is compared as the
/// digits after a decimal point and comes first.
fn compare_natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (run_a, rest_a) = a.split_at(a.iter().take_while(|c| c.is_ascii_digit()).count());
                let (run_b, rest_b) = b.split_at(b.iter().take_while(|c| c.is_ascii_digit()).count());
                let fractional = *x == b'0' || *y == b'0';
                let by_length = if fractional { Ordering::Equal } else { run_a.len().cmp(&run_b.len()) };
                let order = by_length.then_with(|| run_a.cmp(run_b));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

fn write_folded(names: &[Name]) -> String {
    let mut out = String::new();
    let mut rest = names;
    while let Some(first) = rest.first() {
        let together = if first.has_number() {
            rest.iter().take_while(|n| n.has_number() && n.prefix() == first.prefix()).count()
        } else {
            1
        };
        let (group, after) = rest.split_at(together);
        if !out.is_empty() {
            out.push(',');
        }
        if group.len() == 1 {
            out.push_str(&first.text);
        } else {
            out.push_str(first.prefix());
            out.push('[');
            write_ranges(group, &mut out);
            out.push(']');
        }
        rest = after;
    }
    out
}

fn write_ranges(group: &[Name], out: &mut String) {
    let mut rest = group;
    let mut separator = "";
    while let Some(first) = rest.first() {
        let width = first.digits().len();
        // A range goes on while the next number, padded to the first one's width, is what the name says.
        let mut expected = first.number;
        let mut text = String::new();
        let length = rest
            .iter()
            .take_while(|name| {
                text.clear();
                let _ = write!(text, "{expected:0width$}");
                expected += 1;
                name.digits() == text
            })
            .count();
        out.push_str(separator);
        out.push_str(first.digits());
        if length > 1 {
            out.push('-');
            out.push_str(rest[length - 1].digits());
        }
        separator = ",";
        rest = &rest[length..];
    }
}

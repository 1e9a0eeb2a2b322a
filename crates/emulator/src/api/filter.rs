// SPDX-License-Identifier: GPL-3.0-or-later
//! `Filter.N` of Describe calls: filters are ANDed, the values of one filter ORed, `*` and `?` are
//! wildcards ("List and filter using the CLI and API", EC2 User Guide).

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::query::Node;

/// EC2 accepts at most 200 values in a filter.
const MAX_VALUES: usize = 200;

#[derive(Debug)]
pub struct Filters<'a> {
    filters: Vec<(&'a str, Vec<&'a str>)>,
}

impl<'a> Filters<'a> {
    /// Reads the filters; names must be in `known` or start with `tag:`.
    ///
    /// # Errors
    /// `InvalidParameterValue` for an unknown name, `FilterLimitExceeded` for too many values.
    pub fn read(request: &'a Node, known: &[&str]) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        for filter in request.list("Filter") {
            let Some(name) = filter.text("Name") else {
                return Err(ApiError::missing("Filter.1.Name"));
            };
            let known_tag = name.starts_with("tag:") && known.contains(&"tag-key");
            if !known.contains(&name) && !known_tag {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' is invalid"),
                ));
            }
            let values = filter.texts("Value");
            if values.is_empty() {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' has no values"),
                ));
            }
            if values.len() > MAX_VALUES {
                return Err(ApiError::new(
                    "FilterLimitExceeded",
                    format!("The maximum number of filter values specified on a single call is {MAX_VALUES}"),
                ));
            }
            filters.push((name, values));
        }
        Ok(Self { filters })
    }

    /// Whether something passes every filter; `values_of` gives its values for a filter name.
    pub fn accept<'v>(&self, mut values_of: impl FnMut(&str) -> Vec<Cow<'v, str>>) -> bool {
        self.filters.iter().all(|(name, wanted)| {
            let values = values_of(name);
            values.iter().any(|value| wanted.iter().any(|pattern| wildcard(pattern, value)))
        })
    }
}

/// Matches `*` (any text) and `?` (one character); `\` takes the next character as it is.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '\\']) {
        return pattern == text;
    }
    #[derive(Clone, Copy)]
    enum Part {
        Any,
        One,
        Char(char),
    }
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(chars.next().unwrap_or('\\')),
            other => Part::Char(other),
        });
    }
    // reachable[i]: the first i parts can match the text read so far.
    let mut reachable = vec![false; parts.len() + 1];
    reachable[0] = true;
    let close = |reachable: &mut Vec<bool>| {
        for (at, part) in parts.iter().enumerate() {
            if matches!(part, Part::Any) && reachable[at] {
                reachable[at + 1] = true;
            }
        }
    };
    close(&mut reachable);
    for char in text.chars() {
        let mut next = vec![false; parts.len() + 1];
        for (at, part) in parts.iter().enumerate() {
            if !reachable[at] {
                continue;
            }
            match part {
                Part::Any => next[at] = true,
                Part::One => next[at + 1] = true,
                Part::Char(wanted) if *wanted == char => next[at + 1] = true,
                Part::Char(_) => {}
            }
        }
        close(&mut next);
        reachable = next;
    }
    reachable[parts.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("c5.large", "c5.large", true),
            ("c5.*", "c5.large", true),
            ("c5.*", "c5n.large", false),
            ("*a", "us-east-1a", true),
            ("?5.*", "c5.large", true),
            ("*", "", true),
            ("?", "", false),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_any_cut_of_it(text in "[a-z0-9.-]{0,20}", cut in 0usize..20) {
            let cut = cut.min(text.len());
            prop_assert!(wildcard(&text, &text));
            let prefix = format!("{}*", &text[..cut]);
            let suffix = format!("*{}", &text[cut..]);
            prop_assert!(wildcard(&prefix, &text));
            prop_assert!(wildcard(&suffix, &text));
        }
    }

    #[test]
    fn unknown_filters_are_refused() {
        let node = Node::parse([("Filter.1.Name", "colour"), ("Filter.1.Value.1", "red")]);
        let error = Filters::read(&node, &["tag-key"]).unwrap_err();
        assert_eq!(error.code, "InvalidParameterValue");
        assert_eq!(error.message, "The filter 'colour' is invalid");
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The tags of an instance, in one piece of memory.
//!
//! A list of every instance comes each minute, with six tags or more for each of them: as strings of their own they are
//! most of what the list costs in memory, and in time when it is freed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use serde::{Deserialize, Serialize};

/// Tag keys with their values, each key once, in the order of the keys.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags {
    /// Key, value, key, value …
    text: Box<str>,
    /// Where each of these ends in `text`.
    ends: Box<[u32]>,
}

impl Tags {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.chunks_exact(2).map(move |ends| {
            let (middle, end) = (ends[0] as usize, ends[1] as usize);
            let pair = (&self.text[start..middle], &self.text[middle..end]);
            start = end;
            pair
        })
    }

    /// Set one tag. Everything is copied.
    pub fn insert(&mut self, key: String, value: String) {
        self.extend([(key, value)]);
    }
}

impl Extend<(String, String)> for Tags {
    fn extend<I: IntoIterator<Item = (String, String)>>(&mut self, pairs: I) {
        let mut all = BTreeMap::from(std::mem::take(self));
        all.extend(pairs);
        *self = all.into();
    }
}

impl From<BTreeMap<String, String>> for Tags {
    /// Nothing is lost: EC2's tags are far below four gigabytes.
    fn from(tags: BTreeMap<String, String>) -> Self {
        let mut text = String::with_capacity(tags.iter().map(|(key, value)| key.len() + value.len()).sum());
        let mut ends = Vec::with_capacity(tags.len() * 2);
        for part in tags.iter().flat_map(|(key, value)| [key, value]) {
            text.push_str(part);
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        Self { text: text.into(), ends: ends.into() }
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl FromIterator<(String, String)> for Tags {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        pairs.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl<const N: usize> From<[(String, String); N]> for Tags {
    fn from(pairs: [(String, String); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Index<&str> for Tags {
    type Output = str;

    /// # Panics
    /// When there is no such tag.
    fn index(&self, key: &str) -> &str {
        self.get(key).expect("a tag of this key")
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tags_are_what_a_map_of_strings_holds(pairs in vec(("[a-cé]{0,3}", "[x-zß]{0,3}"), 0..12)) {
            let map: BTreeMap<String, String> = pairs.iter().cloned().collect();
            let mut tags = Tags::default();
            for (key, value) in pairs {
                tags.insert(key, value);
            }
            prop_assert_eq!(&tags, &Tags::from(map.clone()));
            for (key, value) in &map {
                prop_assert_eq!(&tags[key], value);
            }
            prop_assert!(!tags.contains_key("none"));
            let text = serde_json::to_string(&tags).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<Tags>(&text).unwrap(), tags.clone());
            prop_assert_eq!(BTreeMap::from(tags), map);
        }
    }
}

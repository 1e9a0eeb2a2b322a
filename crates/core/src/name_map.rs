// SPDX-License-Identifier: GPL-3.0-or-later
//! Maps from names to what is known of them, for ten thousands of nodes.

use std::hash::{BuildHasherDefault, DefaultHasher};

/// A hash without a random seed: the same events lead to the same decisions in every process.
pub type FixedHasher = BuildHasherDefault<DefaultHasher>;

/// Found by hash in constant time, walked in the order of insertion (a removal moves the last entry to its place).
pub type NameMap<V> = indexmap::IndexMap<String, V, FixedHasher>;

/// Where `name` stands in the map; `guess` is looked at first, for lists that come in the same order each time.
#[must_use]
pub fn find_near<V>(map: &NameMap<V>, name: &str, guess: usize) -> Option<usize> {
    match map.get_index(guess) {
        Some((key, _)) if key == name => Some(guess),
        _ => map.get_index_of(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_guess_costs_time_and_nothing_else() {
        let map: NameMap<u32> = (0..9).map(|i| (format!("n-{i}"), i)).collect();
        for guess in 0..12 {
            assert_eq!(find_near(&map, "n-4", guess), Some(4));
            assert_eq!(find_near(&map, "n-9", guess), None);
        }
    }
}

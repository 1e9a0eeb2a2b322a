// SPDX-License-Identifier: GPL-3.0-or-later
//! Maps from names to what is known of them, for ten thousands of nodes.

use std::hash::{BuildHasherDefault, DefaultHasher};

/// A hash without a random seed: the same events lead to the same decisions in every process.
pub type FixedHasher = BuildHasherDefault<DefaultHasher>;

/// Found by hash in constant time, walked in the order of insertion (a removal moves the last entry to its place).
pub type NameMap<V> = indexmap::IndexMap<String, V, FixedHasher>;

// SPDX-License-Identifier: GPL-3.0-or-later
//! What waits for a time or a change, so that an event costs no look at everything that waits.

use std::collections::{BTreeMap, BTreeSet};

/// Keys, each with the moment at which it is due.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<K> {
    at: BTreeMap<K, u64>,
    order: BTreeSet<(u64, K)>,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Clone + Ord> Agenda<K> {
    /// `key` is due at `mono_ms` = `at`, whatever was said of it before.
    pub(crate) fn set(&mut self, key: K, at: u64) {
        if let Some(before) = self.at.insert(key.clone(), at) {
            self.order.remove(&(before, key.clone()));
        }
        self.order.insert((at, key));
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some(entry) = self.at.remove_entry(key) {
            self.order.remove(&(entry.1, entry.0));
        }
    }

    pub(crate) fn contains<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.at.contains_key(key)
    }

    /// Take out what is due by `now`, in the order of the keys.
    pub(crate) fn take_due(&mut self, now: u64) -> BTreeSet<K> {
        let mut due = BTreeSet::new();
        while self.next().is_some_and(|at| at <= now) {
            if let Some((_, key)) = self.order.pop_first() {
                self.at.remove(&key);
                due.insert(key);
            }
        }
        due
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.at.keys()
    }

    /// What is due first, and when.
    pub(crate) fn first(&self) -> Option<(&K, u64)> {
        self.order.first().map(|(at, key)| (key, *at))
    }

    /// `mono_ms` at which the first one is due.
    pub(crate) fn next(&self) -> Option<u64> {
        self.first().map(|(_, at)| at)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Things under way. One of them is looked at after it was touched, and when the time has come that its last look named.
#[derive(Clone, Debug)]
pub(crate) struct Watched<K, V> {
    items: BTreeMap<K, V>,
    touched: BTreeSet<K>,
    looks: Agenda<K>,
}

impl<K, V> Default for Watched<K, V> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), touched: BTreeSet::new(), looks: Agenda::default() }
    }
}

impl<K: Clone + Ord, V> Watched<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.touched.insert(key.clone());
        self.items.insert(key, value);
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let removed = self.items.remove(key)?;
        self.touched.remove(key);
        self.looks.remove(key);
        Some(removed)
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.items.get(key)
    }

    /// To change it, which has it looked at.
    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.touch(key);
        self.items.get_mut(key)
    }

    pub(crate) fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.items.contains_key(key)
    }

    /// Something that matters to it has changed elsewhere.
    pub(crate) fn touch<Q>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if let Some((key, _)) = self.items.get_key_value(key) {
            self.touched.insert(key.clone());
        }
    }

    pub(crate) fn touch_all(&mut self) {
        self.touched = self.items.keys().cloned().collect();
    }

    /// What has to be looked at now, in the order of the keys. Each look ends with [`Self::look_again`].
    pub(crate) fn take_due(&mut self, now: u64) -> BTreeSet<K> {
        let mut due = self.looks.take_due(now);
        due.append(&mut self.touched);
        due
    }

    /// Seen as it is: nothing more is to be done before `at`, unless it is touched. `None`: not by time alone.
    pub(crate) fn look_again(&mut self, key: &K, at: Option<u64>) {
        self.touched.remove(key);
        match at {
            Some(at) if self.items.contains_key(key) => self.looks.set(key.clone(), at),
            _ => self.looks.remove(key),
        }
    }

    /// `mono_ms` of the first look that time alone makes due.
    pub(crate) fn next_look(&self) -> Option<u64> {
        self.looks.next()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.items.iter()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.items.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.items.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agenda_gives_what_is_due_and_keeps_the_rest() {
        let mut agenda = Agenda::default();
        for (key, at) in [("c", 5), ("a", 5), ("b", 9), ("d", 1)] {
            agenda.set(key, at);
        }
        agenda.set("d", 7);
        assert_eq!(agenda.first(), Some((&"a", 5)));
        assert_eq!(agenda.take_due(5), BTreeSet::from(["a", "c"]));
        agenda.remove("d");
        agenda.remove("nobody");
        assert_eq!(agenda.next(), Some(9));
        assert_eq!(agenda.take_due(u64::MAX), BTreeSet::from(["b"]));
        assert!(agenda.is_empty() && agenda.at.is_empty());
    }

    #[test]
    fn what_is_untouched_and_not_due_is_left_alone() {
        let mut watched = Watched::default();
        watched.insert(1, "one");
        watched.insert(2, "two");
        assert_eq!(watched.take_due(0), BTreeSet::from([1, 2]));
        watched.look_again(&1, Some(10));
        watched.look_again(&2, None);
        assert!(watched.take_due(9).is_empty());
        assert_eq!(watched.next_look(), Some(10));
        watched.touch(&2);
        watched.touch(&3);
        assert_eq!(watched.take_due(10), BTreeSet::from([1, 2]));
        watched.look_again(&1, Some(20));
        watched.remove(&1);
        assert!(watched.take_due(20).is_empty());
        watched.touch_all();
        assert_eq!(watched.take_due(20), BTreeSet::from([2]));
    }
}

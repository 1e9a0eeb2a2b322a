// SPDX-License-Identifier: GPL-3.0-or-later
//! Capacity pools: instance type x Availability Zone x lifecycle.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::scenario::{PoolRule, matches};
use crate::model::catalog::TypeFacts;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    OnDemand,
    Spot,
}

impl Lifecycle {
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    pub instance_type: &'static str,
    pub zone: String,
    pub lifecycle: Lifecycle,
}

impl std::fmt::Display for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.instance_type, self.zone, self.lifecycle.name())
    }
}

impl PoolRule {
    /// Reads `c5.large/us-east-1a/spot`; `*` matches any text and parts left out match all.
    pub fn for_pool(pool: &str) -> Self {
        let mut parts = pool.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(crate::control::scenario::any);
        Self { instance_type: next(), zone: next(), lifecycle: next(), capacity: None, price: None }
    }

    pub fn covers(&self, key: &PoolKey) -> bool {
        matches(&self.instance_type, key.instance_type)
            && matches(&self.zone, &key.zone)
            && matches(&self.lifecycle, key.lifecycle.name())
    }
}

/// Which pools have how much, and how much of it is in use.
#[derive(Debug)]
pub struct Pools {
    rules: Vec<PoolRule>,
    used: BTreeMap<PoolKey, u32>,
    closed_zones: BTreeSet<String>,
    seed: u64,
}

impl Pools {
    pub fn new(rules: &[PoolRule], seed: u64) -> Self {
        Self { rules: rules.to_vec(), used: BTreeMap::new(), closed_zones: BTreeSet::new(), seed }
    }

    pub fn add_rule(&mut self, rule: PoolRule) {
        add_rule(&mut self.rules, rule);
    }

    pub fn set_zone(&mut self, zone: &str, available: bool) {
        if available {
            self.closed_zones.remove(zone);
        } else {
            self.closed_zones.insert(zone.to_owned());
        }
    }

    pub fn zone_open(&self, zone: &str) -> bool {
        !self.closed_zones.contains(zone)
    }

    /// Instances the pool can hold at once; none means no bound.
    pub fn capacity(&self, key: &PoolKey) -> Option<u32> {
        self.rules
            .iter()
            .rev()
            .find(|rule| rule.capacity.is_some() && rule.covers(key))
            .and_then(|rule| rule.capacity)
    }

    pub fn used(&self, key: &PoolKey) -> u32 {
        self.used.get(key).copied().unwrap_or(0)
    }

    /// How many more instances the pool can hold now; none means no bound.
    pub fn free(&self, key: &PoolKey) -> Option<u32> {
        if !self.zone_open(&key.zone) {
            return Some(0);
        }
        Some(self.capacity(key)?.saturating_sub(self.used(key)))
    }

    /// Instances beyond the pool's capacity.
    pub fn excess(&self, key: &PoolKey) -> u32 {
        self.capacity(key).map_or(0, |capacity| self.used(key).saturating_sub(capacity))
    }

    pub fn take(&mut self, key: &PoolKey) {
        *self.used.entry(key.clone()).or_insert(0) += 1;
    }

    pub fn give_back(&mut self, key: &PoolKey) {
        if let Some(used) = self.used.get_mut(key) {
            *used = used.saturating_sub(1);
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &PoolKey> {
        self.used.keys()
    }

    /// USD an hour. Without a rule: the on-demand price, and for Spot 30 to 40 % of it, fixed by the seed.
    pub fn price(&self, key: &PoolKey, facts: &TypeFacts) -> f64 {
        let ruled = self
            .rules
            .iter()
            .rev()
            .find(|rule| rule.price.is_some() && rule.covers(key))
            .and_then(|rule| rule.price);
        ruled.unwrap_or_else(|| match key.lifecycle {
            Lifecycle::OnDemand => facts.price,
            Lifecycle::Spot => {
                let text = format!("{} {key}", self.seed);
                let part = f64::from(crc32fast::hash(text.as_bytes()) % 1000) / 1000.0;
                facts.price * (0.3 + 0.1 * part)
            }
        })
    }
}

/// Adds a rule; one for the same pools that says no more than it gives way, so that a long run does not grow.
pub fn add_rule(rules: &mut Vec<PoolRule>, rule: PoolRule) {
    rules.retain(|old| {
        let same_pools = old.instance_type == rule.instance_type
            && old.zone == rule.zone
            && old.lifecycle == rule.lifecycle;
        let says_more = (old.capacity.is_some() && rule.capacity.is_none())
            || (old.price.is_some() && rule.price.is_none());
        !same_pools || says_more
    });
    rules.push(rule);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog;

    fn key(zone: &str) -> PoolKey {
        PoolKey { instance_type: "c5.large", zone: zone.to_owned(), lifecycle: Lifecycle::Spot }
    }

    fn rule(pool: &str, capacity: Option<u32>, price: Option<f64>) -> PoolRule {
        PoolRule { capacity, price, ..PoolRule::for_pool(pool) }
    }

    #[test]
    fn the_last_matching_rule_decides_each_value() {
        let mut pools =
            Pools::new(&[rule("*/*/spot", Some(5), Some(0.5)), rule("c5.*/*a/spot", Some(2), None)], 1);
        let facts = catalog::find("c5.large").unwrap();
        assert_eq!(pools.capacity(&key("us-east-1a")), Some(2));
        assert_eq!(pools.capacity(&key("us-east-1b")), Some(5));
        assert!((pools.price(&key("us-east-1a"), facts) - 0.5).abs() < 1e-9);
        pools.add_rule(rule("c5.large/us-east-1a", Some(0), None));
        assert_eq!(pools.free(&key("us-east-1a")), Some(0));
    }

    #[test]
    fn capacity_taken_is_not_free_and_a_closed_zone_has_none() {
        let mut pools = Pools::new(&[rule("*", Some(2), None)], 1);
        let key = key("us-east-1a");
        pools.take(&key);
        assert_eq!(pools.free(&key), Some(1));
        pools.add_rule(rule("*", Some(0), None));
        assert_eq!((pools.free(&key), pools.excess(&key)), (Some(0), 1));
        pools.give_back(&key);
        assert_eq!(pools.excess(&key), 0);
        pools.add_rule(rule("*", Some(9), None));
        pools.set_zone("us-east-1a", false);
        assert_eq!(pools.free(&key), Some(0));
    }

    #[test]
    fn spot_costs_less_than_on_demand() {
        let pools = Pools::new(&[], 3);
        let facts = catalog::find("c5.large").unwrap();
        let price = pools.price(&key("us-east-1a"), facts);
        assert!(price > 0.0 && price < facts.price / 2.0);
    }
}

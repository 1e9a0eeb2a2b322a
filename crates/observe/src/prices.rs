// SPDX-License-Identifier: GPL-3.0-or-later
//! Prices of instances: what `ec2fleet cost` last learned, kept in `prices.json` in the state directory.
//!
//! EC2 itself tells Spot prices (DescribeSpotPriceHistory) and no on-demand prices: those come from a file of the
//! administrator.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::hostlist;
use ec2fleet_core::record::Binding;
use ec2fleet_core::site::Lifecycle;

pub const FILE_NAME: &str = "prices.json";

/// US dollars an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prices {
    /// When EC2 was last asked.
    pub asked_unix_ms: u64,
    /// By zone, then by type.
    pub spot: BTreeMap<String, BTreeMap<String, f64>>,
    /// By type.
    pub on_demand: BTreeMap<String, f64>,
}

impl Prices {
    /// What is known; nothing if there is no file that can be read.
    #[must_use]
    pub fn load(state_dir: &Path) -> Self {
        let text = std::fs::read(state_dir.join(FILE_NAME)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keep them for `status` and for the next time.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let fresh = state_dir.join(format!("{FILE_NAME}.new"));
        std::fs::write(&fresh, serde_json::to_vec_pretty(self).map_err(io::Error::other)?)?;
        std::fs::rename(fresh, state_dir.join(FILE_NAME))
    }

    pub fn learn_spot(&mut self, zone: String, instance_type: String, usd: f64) {
        self.spot.entry(zone).or_default().insert(instance_type, usd);
    }

    #[must_use]
    pub fn on_demand(&self, instance_type: &str) -> Option<f64> {
        self.on_demand.get(instance_type).copied()
    }

    #[must_use]
    pub fn spot(&self, instance_type: &str, zone: &str) -> Option<f64> {
        self.spot.get(zone)?.get(instance_type).copied()
    }

    #[must_use]
    pub fn of(&self, lifecycle: Lifecycle, instance_type: &str, zone: &str) -> Option<f64> {
        match lifecycle {
            Lifecycle::Spot => self.spot(instance_type, zone),
            Lifecycle::OnDemand => self.on_demand(instance_type),
        }
    }
}

/// Write what the fallback to on-demand costs into the events that tell of it, where prices are known.
pub fn price_fallback<'a>(
    facts: &mut [Fact],
    binding: impl Fn(&str) -> Option<&'a Binding>,
    prices: impl FnOnce() -> Prices,
) {
    let told = |fact: &Fact| fact.kind == FactKind::SpotFallback && !fact.instances.is_empty();
    if !facts.iter().any(told) {
        return;
    }
    let prices = prices();
    for fact in facts.iter_mut().filter(|fact| told(fact)) {
        let nodes = hostlist::expand(&fact.nodes).unwrap_or_default();
        let bound: Vec<&Binding> = nodes.iter().filter_map(|node| binding(node)).collect();
        let sum = |lifecycle: Lifecycle| -> Option<f64> {
            bound.iter().map(|b| prices.of(lifecycle, &b.instance_type, &b.zone)).sum()
        };
        if let Some(usd) = sum(Lifecycle::OnDemand).filter(|_| !bound.is_empty()) {
            fact.text.push_str(&format!(", for {usd:.3} USD an hour"));
            if let Some(spot) = sum(Lifecycle::Spot) {
                fact.text.push_str(&format!(" and not {spot:.3} USD as Spot"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Prices::load(dir.path()), Prices::default());
        let mut prices = Prices { asked_unix_ms: 7, ..Prices::default() };
        prices.learn_spot("z1".into(), "c5.large".into(), 0.03);
        prices.on_demand.insert("c5.large".into(), 0.1);
        prices.save(dir.path()).unwrap();
        let prices = Prices::load(dir.path());
        assert_eq!(prices.of(Lifecycle::Spot, "c5.large", "z1"), Some(0.03));
        assert_eq!(prices.of(Lifecycle::Spot, "c5.large", "z2"), None);
        assert_eq!(prices.of(Lifecycle::OnDemand, "c5.large", "z2"), Some(0.1));
        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(Prices::load(dir.path()), Prices::default());
    }
}

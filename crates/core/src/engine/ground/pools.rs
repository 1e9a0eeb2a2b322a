// SPDX-License-Identifier: GPL-3.0-or-later
//! Capacity pools, and what became of asking for them lately.

use std::collections::BTreeMap;

use crate::ec2_api::{ErrorClass, PoolError};
use crate::engine::cx::Cx;
use crate::engine::cx::pool::Pool;
use crate::fact::FactKind;
use crate::fleet_spec::LaunchTemplateOverride;
use crate::report::{Cooldown, LaunchError};
use crate::site::{Account, Lifecycle, NodeGroup};

/// How a group fared lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pressure {
    /// Launches in a row that gave no instance.
    failures: u32,
    /// `mono_ms` before which the group is not asked again for `refused` instances at once, or more.
    retry_at: u64,
    refused: usize,
    protected: bool,
    last_error: Option<LaunchError>,
}

impl Pressure {
    pub(crate) fn is_protected(&self) -> bool {
        self.protected
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// `mono_ms` before which the group is not asked for `least` instances at once: fewer than were refused may well be there.
    pub(crate) fn retry_at(&self, least: usize) -> u64 {
        if least >= self.refused { self.retry_at } else { 0 }
    }

    pub(crate) fn last_error(&self) -> Option<&LaunchError> {
        self.last_error.as_ref()
    }

    fn open(&mut self) {
        *self = Self::default();
    }
}

/// A pool that lately had too little.
#[derive(Clone, Copy, Debug)]
struct Cooling {
    /// `mono_ms` until which it is not asked first …
    until: u64,
    /// … for this many instances at once, or more.
    refused: usize,
}

/// How asking for instances went lately.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// By the stem of the group.
    pressure: BTreeMap<String, Pressure>,
    cooling: BTreeMap<Pool, Cooling>,
}

impl Pools {
    /// How the group fared lately; nothing is known of one that gave instances.
    pub(crate) fn pressure(&self, stem: &str) -> Pressure {
        self.pressure.get(stem).cloned().unwrap_or_default()
    }

    /// `mono_ms` before which the group is not asked for `least` instances at once.
    pub(crate) fn retry_at(&self, stem: &str, least: usize) -> u64 {
        self.pressure.get(stem).map_or(0, |pressure| pressure.retry_at(least))
    }

    /// The group gave instances.
    pub(crate) fn relieve(&mut self, stem: &str) {
        self.pressure.remove(stem);
    }

    /// An administrator wants every group to be asked again.
    pub(crate) fn open_all(&mut self) {
        for pressure in self.pressure.values_mut() {
            pressure.open();
        }
    }

    /// Pools of the group that are not asked first now, for people.
    pub(crate) fn cooldowns(&self, cx: &Cx, group: &NodeGroup) -> Vec<Cooldown> {
        let cools =
            |(pool, cooling): &(&Pool, &Cooling)| cooling.until > cx.now.mono_ms && pool.serves(group);
        let report = |(pool, cooling): (&Pool, &Cooling)| Cooldown {
            until_unix_ms: cx.now.unix_ms + (cooling.until - cx.now.mono_ms),
            code: "InsufficientInstanceCapacity".into(),
            refusals: 1,
            ..pool.report()
        };
        self.cooling.iter().filter(cools).map(report).collect()
    }

    /// The pools that are not to be asked first for `least` instances at once.
    pub(crate) fn cooling_pools(&self, cx: &Cx, least: usize) -> Vec<&Pool> {
        let cools = |cooling: &Cooling| cooling.until > cx.now.mono_ms && least >= cooling.refused;
        self.cooling.iter().filter(|(_, cooling)| cools(cooling)).map(|(pool, _)| pool).collect()
    }

    /// The pool had fewer than `refused` instances.
    pub(crate) fn cool(&mut self, cx: &mut Cx, account: &Account, error: &PoolError, refused: usize) {
        if error.class != ErrorClass::Capacity {
            return;
        }
        let Some(instance_type) = error.instance_type.clone() else { return };
        let place = error.subnet_id.clone().or_else(|| error.zone.clone()).unwrap_or_default();
        let pool = Pool { account: account.clone(), instance_type, place, lifecycle: error.lifecycle };
        let seconds = cx.site.settings.pool_cooldown_s;
        let text = format!(
            "{} {} {} is not asked first for {seconds} s",
            pool.instance_type,
            pool.place,
            pool.lifecycle.as_str()
        );
        cx.fact(cx.new_fact(FactKind::PoolCooling, text).code(error.code.clone()));
        self.cooling.retain(|_, cooling| cooling.until > cx.now.mono_ms);
        let until = cx.now.mono_ms + u64::from(seconds) * 1000;
        let cooling = self.cooling.entry(pool).or_insert(Cooling { until, refused });
        *cooling = Cooling { until, refused: cooling.refused.min(refused) };
    }

    /// A launch of at least `refused` instances gave nothing: wait longer before the group is asked for as many again, and
    /// close it if the site wants that.
    pub(crate) fn note_failure(&mut self, cx: &mut Cx, group: &str, last: LaunchError, refused: usize) {
        let limit = cx.site.settings.protect_after;
        let longest = u64::from(cx.site.settings.pool_cooldown_s) * 1000;
        let pressure = self.pressure.entry(group.to_owned()).or_default();
        let waits = pressure.retry_at > cx.now.mono_ms;
        pressure.refused = if waits { pressure.refused.min(refused) } else { refused };
        pressure.failures += 1;
        pressure.last_error = Some(last);
        let wait = 1_000u64.saturating_mul(1 << pressure.failures.min(10)).min(longest);
        pressure.retry_at = cx.now.mono_ms + wait;
        if limit > 0 && pressure.failures >= limit && !pressure.protected {
            pressure.protected = true;
            let text = format!("closed after {} launches in a row without an instance", pressure.failures);
            cx.fact(cx.new_fact(FactKind::GroupProtected, text).group(group));
        }
    }
}

/// Overrides × subnets, without the pools that lately had nothing, unless that leaves none.
pub(crate) fn pools(
    group: &NodeGroup,
    lifecycle: Lifecycle,
    cooling: &[&Pool],
) -> Vec<LaunchTemplateOverride> {
    let mut all = Vec::new();
    for over in &group.overrides {
        let subnets: Vec<Option<String>> = match (&over.subnet_id, group.subnet_ids.is_empty()) {
            (None, false) => group.subnet_ids.iter().cloned().map(Some).collect(),
            (own, _) => vec![own.clone()],
        };
        for subnet_id in subnets {
            all.push(LaunchTemplateOverride { subnet_id, weighted_capacity: Some(1.0), ..over.clone() });
        }
    }
    let is_cooling = |over: &LaunchTemplateOverride| {
        cooling.iter().any(|pool| {
            pool.account == group.account
                && pool.lifecycle == lifecycle
                && over.instance_type.as_deref() == Some(pool.instance_type.as_str())
                && (over.subnet_id.as_deref() == Some(pool.place.as_str())
                    || over.availability_zone.as_deref() == Some(pool.place.as_str()))
        })
    };
    let open: Vec<LaunchTemplateOverride> = all.iter().filter(|over| !is_cooling(over)).cloned().collect();
    if open.is_empty() { all } else { open }
}

/// What `ec2fleet status` shows of the last failed launch.
pub(crate) fn launch_error(
    unix_ms: u64,
    code: &str,
    class: &str,
    message: &str,
    nodes: usize,
) -> LaunchError {
    LaunchError {
        at_unix_ms: unix_ms,
        code: code.to_owned(),
        class: class.to_owned(),
        message: message.to_owned(),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
    }
}

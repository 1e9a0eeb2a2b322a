// SPDX-License-Identifier: GPL-3.0-or-later
//! The name of a capacity pool.

use crate::fleet_spec::LaunchTemplateOverride;
use crate::report::Cooldown;
use crate::site::{Account, Lifecycle, NodeGroup};

/// One capacity pool: instance type, subnet or zone, lifecycle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pool {
    pub(crate) account: Account,
    pub(crate) instance_type: String,
    pub(crate) place: String,
    pub(crate) lifecycle: Lifecycle,
}

impl Pool {
    pub(crate) fn of(account: &Account, over: &LaunchTemplateOverride, lifecycle: Lifecycle) -> Self {
        Self {
            account: account.clone(),
            instance_type: over.instance_type.clone().unwrap_or_default(),
            place: over.subnet_id.clone().or_else(|| over.availability_zone.clone()).unwrap_or_default(),
            lifecycle,
        }
    }

    pub(crate) fn serves(&self, group: &NodeGroup) -> bool {
        self.account == group.account
            && group
                .overrides
                .iter()
                .any(|over| over.instance_type.as_deref() == Some(self.instance_type.as_str()))
            && (group.subnet_ids.is_empty() || group.subnet_ids.contains(&self.place))
    }

    pub(crate) fn report(&self) -> Cooldown {
        Cooldown {
            instance_type: self.instance_type.clone(),
            zone: self.place.clone(),
            lifecycle: self.lifecycle,
            until_unix_ms: 0,
            code: String::new(),
            refusals: 0,
        }
    }
}

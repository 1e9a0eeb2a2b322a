// SPDX-License-Identifier: GPL-3.0-or-later
//! What can be done to the world from outside EC2's API: by a scenario's timeline, the control endpoint
//! or the control program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::faults::Fault;
use crate::control::scenario::{BootRule, Delays, Limits, PoolRule, always, any};
use crate::model::time::Millis;

/// A command. In JSON: an object with one member, such as `{"interrupt": {"count": 2}}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Sets capacity or price of the pools that match. Spot instances beyond the capacity, or with a maximum price
    /// below the price, are interrupted; instances that wait for capacity are resumed.
    Pool(PoolRule),
    /// Interrupts Spot instances, as if EC2 needed their capacity.
    Interrupt {
        #[serde(flatten)]
        choice: Choice,
        /// A stopped or hibernated instance is not started again before this time (ms) has passed. Without it,
        /// not before a `resume` or `pool` command.
        #[serde(default)]
        hold_ms: Option<Millis>,
    },
    /// Starts interrupted instances again, as far as their pools have room.
    Resume(Choice),
    /// Sends a rebalance recommendation to Spot instances.
    Rebalance(Choice),
    /// Ends instances as a host failure does.
    Fail(Choice),
    /// Makes the instance status check fail (`impaired`), or `ok` again.
    Impair {
        #[serde(flatten)]
        choice: Choice,
        #[serde(default = "yes")]
        impaired: bool,
    },
    /// Schedules a maintenance event.
    Event {
        #[serde(flatten)]
        choice: Choice,
        /// `instance-retirement`, `instance-stop`, `instance-reboot`, `system-reboot` or `system-maintenance`.
        code: String,
        /// Virtual time from now until the event's window begins, in ms.
        #[serde(default = "day")]
        in_ms: Millis,
    },
    /// Takes an Availability Zone away (its instances fail and nothing launches there) or gives it back.
    Zone {
        /// Zone name or letter.
        name: String,
        available: bool,
    },
    /// Adds a fault.
    Fault(Fault),
    /// Removes the faults of an action (`*`: all).
    ClearFaults {
        #[serde(default = "any")]
        action: String,
    },
    /// Adds a rule of how instances boot, before the ones in force.
    Boot(BootRule),
    /// Removes every boot rule.
    ClearBoots {},
    Throttle {
        enabled: bool,
    },
    /// Replaces all delays.
    Delays(Delays),
    /// Replaces the quotas.
    Limits(Limits),
    /// Sets the eventual-consistency window, in ms.
    Consistency {
        ms: Millis,
    },
    /// Denies (or allows again) actions that match, such as `ec2:RunInstances`.
    Deny {
        action: String,
        #[serde(default = "any")]
        access_key: String,
        #[serde(default = "yes")]
        denied: bool,
    },
    /// Whether maintain fleets replace hibernated instances.
    ReplaceWhileHibernated {
        enabled: bool,
    },
}

fn yes() -> bool {
    true
}

fn day() -> Millis {
    24 * crate::model::time::HOUR
}

/// Which instances a command is for: all members that are given must hold; then at most `count` at random.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Choice {
    /// Instance ids.
    pub instances: Vec<String>,
    #[serde(rename = "type")]
    pub instance_type: String,
    pub zone: String,
    pub lifecycle: String,
    /// Tags that the instances must have.
    pub tags: std::collections::BTreeMap<String, String>,
    pub count: Option<usize>,
    /// The part of the matching instances, 0 to 1, rounded up.
    pub part: f64,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            instances: Vec::new(),
            instance_type: any(),
            zone: any(),
            lifecycle: any(),
            tags: std::collections::BTreeMap::new(),
            count: None,
            part: always(),
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What the history of fleets says about nodes that wait for Spot instances.
//!
//! EC2 keeps quiet about a lack of capacity, but its history names what can never be fulfilled: the account's Spot
//! quota is used up, or the request is no good (EC2 user guide, "EC2 Fleet event types"). Waiting longer is then in vain.

use std::collections::BTreeMap;

use super::Engine;
use super::outbox::Purpose;
use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult, FleetHistoryRecord};
use crate::core::fact::FactKind;
use crate::core::site::{Account, Lifecycle};

/// The history is late by up to 30 s (API_DescribeFleetHistory): asking more often tells nothing new.
const LOOK_MS: u64 = 15_000;

/// Histories of nodes' own fleets in one look: what stops one of them mostly stops them all.
const MAX_NODE_FLEETS: usize = 5;

/// Error events after which Spot gives nothing.
const HOPELESS: [&str; 2] = ["spotInstanceCountLimitExceeded", "spotFleetRequestConfigurationInvalid"];

/// Of these it is the account that has no more, whatever the pool.
const OF_ACCOUNT: &str = "spotInstanceCountLimitExceeded";

/// Who waits for the fleet whose history is asked.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    Group(String),
    Node(String),
}

/// The event that says why Spot gives nothing, if there is one since then.
fn shortage(records: &[FleetHistoryRecord], since_unix_ms: u64) -> Option<(String, String)> {
    records
        .iter()
        .filter(|record| record.unix_ms >= since_unix_ms)
        .filter(|record| matches!(record.event_type.as_str(), "error" | "information"))
        .find_map(|record| {
            let described = record.description.to_ascii_lowercase();
            let hopeless = HOPELESS.iter().find(|code| record.event_sub_type.eq_ignore_ascii_case(code));
            let capacity = described.contains("insufficient") && described.contains("capacity");
            let code = match hopeless {
                Some(code) => (*code).to_owned(),
                None if capacity => "InsufficientInstanceCapacity".to_owned(),
                None => return None,
            };
            Some((code, record.description.clone()))
        })
}

impl Engine {
    /// Ask for the histories of fleets on which nodes have waited for a while.
    pub(super) fn look_for_shortage(&mut self) {
        if self.node_fleets.histories_in_flight > 0 {
            return;
        }
        let waiting = self.waiting_for_spot();
        let Some(first) = waiting.iter().map(|(since, ..)| *since).min() else { return };
        let at = self.node_fleets.history_at.max(first + LOOK_MS);
        if at > self.g.cx.now.mono_ms {
            self.wake(at);
            return;
        }
        self.node_fleets.history_at = self.g.cx.now.mono_ms + LOOK_MS;
        let mut asked: BTreeMap<Account, usize> = BTreeMap::new();
        for (since, account, fleet_id, who) in waiting {
            if matches!(who, Waiting::Node(_)) {
                let asked = asked.entry(account.clone()).or_default();
                *asked += 1;
                if *asked > MAX_NODE_FLEETS {
                    continue;
                }
            }
            self.node_fleets.histories_in_flight += 1;
            let start_unix_ms = self.g.cx.now.unix_ms.saturating_sub(self.g.cx.now.since(since));
            self.cloud(
                Purpose::History { account, who, start_unix_ms },
                CloudRequest::DescribeFleetHistory { fleet_id, start_unix_ms },
            );
        }
        self.wake(self.node_fleets.history_at);
    }

    fn waiting_for_spot(&self) -> Vec<(u64, Account, String, Waiting)> {
        let mut waiting = self.groups_waiting_for_spot();
        let mut nodes: Vec<_> = self
            .g
            .launches
            .fulfilling
            .iter()
            .filter(|(_, fulfil)| fulfil.lifecycle == Lifecycle::Spot)
            .map(|(node, fulfil)| {
                let who = Waiting::Node(node.clone());
                (fulfil.since, fulfil.account.clone(), fulfil.fleet_id.clone(), who)
            })
            .collect();
        nodes.sort_by_key(|(since, ..)| *since);
        waiting.extend(nodes);
        waiting
    }

    pub(super) fn take_history(
        &mut self,
        account: &Account,
        who: &Waiting,
        start_unix_ms: u64,
        result: CloudResult,
    ) {
        self.node_fleets.histories_in_flight = self.node_fleets.histories_in_flight.saturating_sub(1);
        let Ok(CloudReply::History(records)) = result else { return };
        let Some((code, description)) = shortage(&records, start_unix_ms) else { return };
        match who {
            Waiting::Group(key) => self.spot_is_short(key, &code, &description),
            Waiting::Node(node) if code == OF_ACCOUNT => {
                let alike: Vec<String> = self
                    .g
                    .launches
                    .fulfilling
                    .iter()
                    .filter(|(_, fulfil)| fulfil.lifecycle == Lifecycle::Spot && fulfil.account == *account)
                    .map(|(node, _)| node.clone())
                    .collect();
                let text = format!("{} nodes wait for Spot in {account}: {description}", alike.len());
                self.fact(self.new_fact(FactKind::CreateFleetFailed, text).nodes([node]).code(code));
                for node in alike {
                    self.leave_spot(&node);
                }
            }
            Waiting::Node(node) => {
                let text = format!("{node} tries another pool: {description}");
                self.fact(self.new_fact(FactKind::CreateFleetFailed, text).nodes([node]).code(code));
                self.leave_pool(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(unix_ms: u64, event_type: &str, event_sub_type: &str, description: &str) -> FleetHistoryRecord {
        FleetHistoryRecord {
            unix_ms,
            event_type: event_type.into(),
            event_sub_type: event_sub_type.into(),
            description: description.into(),
            instance_id: None,
        }
    }

    #[test]
    fn only_events_of_this_wait_that_say_that_spot_gives_nothing_count() {
        let code = |record: FleetHistoryRecord| shortage(&[record], 100).map(|(code, _)| code);
        let table = [
            (
                record(100, "error", "spotInstanceCountLimitExceeded", ""),
                Some("spotInstanceCountLimitExceeded"),
            ),
            (record(99, "error", "spotInstanceCountLimitExceeded", ""), None),
            (
                record(200, "error", "spotFleetRequestConfigurationInvalid", ""),
                Some("spotFleetRequestConfigurationInvalid"),
            ),
            (
                record(200, "information", "launchSpecUnusable", "c5.large: Insufficient capacity."),
                Some("InsufficientInstanceCapacity"),
            ),
            (record(200, "information", "launchSpecUnusable", "price too low"), None),
            (record(200, "instanceChange", "launched", "insufficient capacity"), None),
            (record(200, "fleetRequestChange", "modify_in_progress", ""), None),
        ];
        for (record, expected) in table {
            let text = format!("{record:?}");
            assert_eq!(code(record).as_deref(), expected, "{text}");
        }
    }
}

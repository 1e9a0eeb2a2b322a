// SPDX-License-Identifier: GPL-3.0-or-later
//! What the history of fleets says about nodes that wait for Spot instances.
//!
//! EC2 keeps quiet about a lack of capacity, but its history names what can never be fulfilled: the account's Spot
//! quota is used up, or the request is no good (EC2 user guide, "EC2 Fleet event types"). Waiting longer is then in vain.

use std::collections::BTreeMap;

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, FleetHistoryRecord};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::{CloudPurpose, HistoryQuestion, WaitingFor};
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::engine::launch::Launching;
use crate::engine::node_fleets::NodeFleets;
use crate::fact::FactKind;
use crate::site::{Account, Lifecycle};

/// The history is late by up to 30 s (API_DescribeFleetHistory): asking more often tells nothing new.
const LOOK_MS: u64 = 15_000;

/// Histories of nodes' own fleets in one look: what stops one of them mostly stops them all.
const MAX_NODE_FLEETS: usize = 5;

/// Error events after which Spot gives nothing.
const HOPELESS: [&str; 2] = ["spotInstanceCountLimitExceeded", "spotFleetRequestConfigurationInvalid"];

/// Of these it is the account that has no more, whatever the pool.
const OF_ACCOUNT: &str = "spotInstanceCountLimitExceeded";

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

impl NodeFleets {
    /// Ask for the histories of fleets on which nodes have waited for a while.
    pub(crate) fn look_for_shortage(&mut self, g: &mut Ground, groups: &mut GroupFleets) -> Deadline {
        if self.histories_in_flight > 0 {
            return Deadline::NONE;
        }
        let waiting = self.waiting_for_spot(g, groups);
        let Some(first) = waiting.iter().map(|(since, ..)| *since).min() else { return Deadline::NONE };
        let at = self.history_at.max(first + LOOK_MS);
        if at > g.cx.now.mono_ms {
            return Deadline::at(at);
        }
        self.history_at = g.cx.now.mono_ms + LOOK_MS;
        let mut asked: BTreeMap<Account, usize> = BTreeMap::new();
        for (since, account, fleet_id, who) in waiting {
            if matches!(who, WaitingFor::Node(_)) {
                let asked = asked.entry(account.clone()).or_default();
                *asked += 1;
                if *asked > MAX_NODE_FLEETS {
                    continue;
                }
            }
            self.histories_in_flight += 1;
            let start_unix_ms = g.cx.now.unix_ms.saturating_sub(g.cx.now.since(since));
            g.cx.cloud(
                CloudPurpose::History(HistoryQuestion { account, who, start_unix_ms }),
                CloudRequest::DescribeFleetHistory { fleet_id, start_unix_ms },
            );
        }
        Deadline::at(self.history_at)
    }

    fn waiting_for_spot(&self, g: &Ground, groups: &GroupFleets) -> Vec<(u64, Account, String, WaitingFor)> {
        let mut waiting = groups.groups_waiting_for_spot(g);
        let mut nodes: Vec<_> = g
            .launches
            .fulfilling
            .iter()
            .filter(|(_, fulfil)| fulfil.lifecycle == Lifecycle::Spot)
            .map(|(node, fulfil)| {
                let who = WaitingFor::Node(node.clone());
                (fulfil.since, fulfil.account.clone(), fulfil.fleet_id.clone(), who)
            })
            .collect();
        nodes.sort_by_key(|(since, ..)| *since);
        waiting.extend(nodes);
        waiting
    }

    pub(crate) fn take_history(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        groups: &mut GroupFleets,
        question: &HistoryQuestion,
        result: CloudResult,
    ) {
        self.histories_in_flight = self.histories_in_flight.saturating_sub(1);
        let Ok(records) = result.and_then(CloudReply::into_history) else { return };
        let Some((code, description)) = shortage(&records, question.start_unix_ms) else { return };
        let account = &question.account;
        match &question.who {
            WaitingFor::Group(key) => groups.spot_is_short(g, key, &code, &description),
            WaitingFor::Node(node) if code == OF_ACCOUNT => {
                let alike: Vec<String> = g
                    .launches
                    .fulfilling
                    .iter()
                    .filter(|(_, fulfil)| fulfil.lifecycle == Lifecycle::Spot && fulfil.account == *account)
                    .map(|(node, _)| node.clone())
                    .collect();
                let text = format!("{} nodes wait for Spot in {account}: {description}", alike.len());
                g.cx.fact(g.cx.new_fact(FactKind::CreateFleetFailed, text).nodes([node]).code(code));
                for node in alike {
                    self.leave_spot(g, launching, &node);
                }
            }
            WaitingFor::Node(node) => {
                let text = format!("{node} tries another pool: {description}");
                g.cx.fact(g.cx.new_fact(FactKind::CreateFleetFailed, text).nodes([node]).code(code));
                self.leave_pool(g, node);
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

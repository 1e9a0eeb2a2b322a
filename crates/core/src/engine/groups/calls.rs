// SPDX-License-Identifier: GPL-3.0-or-later
//! CreateFleet and ModifyFleet for a group's fleet: sent, repeated, answered.

use std::collections::BTreeSet;

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, ErrorClass};
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::engine::groups::fingerprint::{digest, form_of};
use crate::engine::groups::state::{Call, Seen};
use crate::fact::FactKind;
use crate::record::{GroupFleet, Intent, Outcome, Record, Target};
use crate::site::Account;
use crate::tag;

/// How long a call that EC2 refused for good is left alone.
const REFUSED_MS: u64 = 30_000;

impl GroupFleets {
    pub(crate) fn begin_group_call(
        &mut self,
        g: &mut Ground,
        stem: &str,
        account: &Account,
        request: CloudRequest,
    ) {
        let id = g.cx.record_intent(account, request.clone(), None);
        if let Some(state) = self.states.get_mut(stem) {
            state.call.intent = Some(id);
        }
        self.send_group_call(g, stem, id, account.clone(), request);
    }

    pub(crate) fn send_group_call(
        &mut self,
        g: &mut Ground,
        stem: &str,
        intent: u64,
        account: Account,
        request: CloudRequest,
    ) {
        if let Some(state) = self.states.get_mut(stem) {
            state.call.attempt.begin();
        }
        g.cx.cloud(CloudPurpose::GroupFleet { account, intent, stem: stem.to_owned() }, request);
    }

    pub(crate) fn take_group_call(&mut self, g: &mut Ground, id: u64, stem: &str, result: CloudResult) {
        let Some(intent) = g.cx.persisted.open.get(&id).cloned() else { return };
        let now = g.cx.now.mono_ms;
        let state = self.states.entry(stem.to_owned()).or_default();
        match result {
            Ok(reply) => {
                state.call = Call::default();
                state.fleet = match intent.request {
                    CloudRequest::ModifyFleet { .. } => Seen::Modifying,
                    _ => Seen::Unknown,
                };
                state.changed_at = now;
                state.poll.hasten(now);
                if matches!(&intent.request, CloudRequest::ModifyFleet { template: Some(_), .. }) {
                    state.apply_again = false;
                }
                self.note_group_fleet(g, stem, &intent, &reply);
                g.cx.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
            }
            // Somebody else has begun to modify the fleet, or EC2 still carries this call out, whose first reply was lost.
            Err(error) if error.code.eq_ignore_ascii_case("FleetNotInModifiableState") => {
                state.call.intent = None;
                state.call.attempt.answered();
                state.fleet = Seen::Modifying;
                state.changed_at = now;
                g.cx.record(Record::Outcome { id, outcome: Outcome::Failed(error) });
                self.forget_target(g, stem);
            }
            Err(error) => {
                let retry = error.class.is_retryable();
                let template = match &intent.request {
                    CloudRequest::ModifyFleet { template, .. } => template.as_deref(),
                    _ => None,
                };
                if let Some(template) = template.filter(|_| !retry) {
                    // The fleet goes on with what it has.
                    state.refused = Some(digest(template));
                    state.apply_again = false;
                }
                let may_fail = template.is_none();
                if retry {
                    state.call.attempt.failed(now, 0, &mut g.cx.rng);
                } else {
                    state.call.attempt.refused_until(if may_fail { now + REFUSED_MS } else { now });
                    state.call.intent = None;
                }
                let nodes: Vec<String> = state.awaiting.nodes.keys().cloned().collect();
                let fact =
                    g.cx.new_fact(FactKind::CreateFleetFailed, error.message.clone())
                        .group(stem)
                        .nodes(&nodes)
                        .code(error.code.clone());
                g.cx.fact(fact);
                if !retry {
                    g.cx.record(Record::Outcome { id, outcome: Outcome::Failed(error.clone()) });
                    if error.class == ErrorClass::NotFound {
                        // Deleted behind our back: the next look at the tags finds another one, or a new one is made.
                        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet: None });
                    }
                    if may_fail
                        && matches!(
                            error.class,
                            ErrorClass::Configuration | ErrorClass::Permission | ErrorClass::Quota
                        )
                    {
                        self.fail_awaiting(g, stem, &error.code, &error.message);
                    }
                }
            }
        }
    }

    /// The fleet's target is set anew.
    pub(crate) fn forget_target(&mut self, g: &mut Ground, key: &str) {
        let Some(fleet) = g.cx.persisted.group_fleets.get(key).cloned() else { return };
        g.cx.record(Record::GroupFleet {
            stem: key.to_owned(),
            fleet: Some(GroupFleet { target: None, ..fleet }),
        });
    }

    fn note_group_fleet(&mut self, g: &mut Ground, stem: &str, intent: &Intent, reply: &CloudReply) {
        let before = g.cx.persisted.group_fleets.get(stem).cloned();
        let fleet = match (&intent.request, reply) {
            (CloudRequest::CreateFleet(request), CloudReply::Fleet(made)) => {
                let form = form_of(request);
                Some(GroupFleet {
                    fleet_id: made.fleet_id.clone(),
                    account: intent.account.clone(),
                    target: Some(Target { spot: 0, on_demand: 0 }),
                    launch: request.client_token.clone(),
                    template: form.template,
                    options: form.options,
                    uncounted: BTreeSet::new(),
                })
            }
            (CloudRequest::ModifyFleet { spot_target, on_demand_target, template, .. }, _) => {
                before.map(|fleet| GroupFleet {
                    target: Some(Target { spot: *spot_target, on_demand: *on_demand_target }),
                    template: template.as_deref().map_or_else(|| fleet.template.clone(), digest),
                    ..fleet
                })
            }
            _ => before,
        };
        let text = match &intent.request {
            CloudRequest::ModifyFleet { target, template: Some(_), .. } => {
                format!("the fleet of {stem} has target {target} and the configured template and overrides")
            }
            CloudRequest::ModifyFleet { target, .. } => format!("the fleet of {stem} has target {target}"),
            _ => format!("the fleet of {stem} is made"),
        };
        g.cx.fact(g.cx.new_fact(FactKind::FleetCreated, text).group(stem));
        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet });
    }

    pub(crate) fn recover_group_call(&mut self, g: &mut Ground, id: u64, request: &CloudRequest) -> bool {
        let stem = match request {
            CloudRequest::CreateFleet(request) if request.target == 0 => {
                match (request.fleet_tags.get(tag::PARTITION), request.fleet_tags.get(tag::GROUP)) {
                    (Some(partition), Some(group)) => format!("{partition}-{group}"),
                    _ => return false,
                }
            }
            CloudRequest::ModifyFleet { fleet_id, .. } => {
                let owner = g.cx.persisted.group_fleets.iter().find(|(_, fleet)| fleet.fleet_id == *fleet_id);
                match owner {
                    Some((stem, _)) => stem.clone(),
                    None => return false,
                }
            }
            _ => return false,
        };
        self.states.entry(stem).or_default().call.intent = Some(id);
        true
    }
}

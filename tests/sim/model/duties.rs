// SPDX-License-Identifier: GPL-3.0-or-later
//! What one controller process owes: calls that it must make again, events that it must see again, and true reports.

use std::collections::BTreeMap;

use ec2fleet_core::ec2_api::CloudRequest;
use ec2fleet_core::engine::Desire;
use ec2fleet_core::record::Persisted;
use ec2fleet_core::slurm_api::NodeUpdate;

use super::world::World;

/// A termination that EC2 did not confirm is asked for again within this time: the longest backoff of the call and of
/// its bucket, 20 s each, and a token at the slowest rate.
const REPEAT_MS: u64 = 55_000;

/// What Slurm wants of a node is known within this time, also after a full queue: a reading, and a list of Slurm's nodes.
/// The engine's own next look at everything may be a minute away.
const SEEN_MS: u64 = 20_000;

/// An older client token may be unknown to EC2 again, and is not used any more.
const TOKEN_TRUST_MS: u64 = 3_600_000;

/// What one process owes.
#[derive(Default)]
pub struct Duties {
    /// Instances whose termination EC2 did not confirm, and since when.
    refused: BTreeMap<String, u64>,
    /// The last refusal of any call: it may close the bucket for the others too.
    refused_at: u64,
    /// Nodes for which an earlier process has called CreateFleet and that still wait for the answer. A node that was
    /// powered up anew meanwhile has several.
    unanswered: BTreeMap<String, Vec<Unanswered>>,
    /// Nodes of which the engine does not know what Slurm wants.
    astray: BTreeMap<String, Astray>,
    asks_again_at: u64,
    began: u64,
}

struct Unanswered {
    token: String,
    unix_ms: u64,
}

#[derive(Clone, Copy)]
struct Astray {
    since: u64,
    believed: Desire,
    wanted: Desire,
    /// When the engine changed its mind last, on its clock.
    changed: u64,
}

impl Duties {
    /// Of a process that finds this in the journal.
    pub fn of(state: &Persisted, now: u64) -> Self {
        let mut unanswered = BTreeMap::new();
        for intent in state.open.values() {
            let (CloudRequest::CreateFleet(request), Some(launch)) = (&intent.request, &intent.launch) else {
                continue;
            };
            for node in &launch.nodes {
                let token = request.client_token.clone();
                let first = Unanswered { token, unix_ms: intent.unix_ms };
                unanswered.entry(node.clone()).or_insert_with(Vec::new).push(first);
            }
        }
        Self { unanswered, began: now, ..Self::default() }
    }

    /// slurmctld did not answer: it is asked again after the longest backoff at the latest.
    pub fn load_failed(&mut self, now: u64) {
        self.asks_again_at = now + 20_000;
    }
}

impl World {
    /// A call failed, or its answer never came.
    pub fn note_refusal(&mut self, number: u64) {
        let Some(call) = self.calls.get(&number) else { return };
        let ids = match &call.request {
            request @ (CloudRequest::TerminateInstances { .. } | CloudRequest::DeleteFleets { .. }) => {
                self.ended_by(request)
            }
            _ => Vec::new(),
        };
        let duties = &mut self.controllers[call.host].duties;
        duties.refused_at = self.k.now;
        duties.refused.extend(ids.into_iter().map(|id| (id, self.k.now)));
    }

    /// A call leaves the controller: what was owed?
    pub fn check_duties_of(&mut self, host: usize, request: &CloudRequest) {
        match request {
            CloudRequest::CreateFleet(request) => self.check_launched_again(host, &request.client_token),
            CloudRequest::TerminateInstances { .. } | CloudRequest::DeleteFleets { .. } => {
                self.check_refused(host);
                for id in self.ended_by(request) {
                    self.controllers[host].duties.refused.remove(&id);
                }
            }
            _ => {}
        }
    }

    /// Time passed.
    pub fn check_duties(&mut self, host: usize) {
        self.check_refused(host);
        // A pass of the programs knows what it was asked, and lists once.
        if !self.has_no_plugin() {
            self.check_seen(host);
        }
    }

    /// Something was decided: a node that has an instance, or that Slurm does not want any more, waits for no launch, and no
    /// launch goes on whose token is too old by the clock, which jumps.
    pub fn forgive_duties(&mut self, host: usize) {
        let now = self.k.unix_ms();
        let controller = &mut self.controllers[host];
        let Some(driver) = &controller.driver else { return };
        let slurm = &self.slurm;
        controller.duties.unanswered.retain(|node, launches| {
            let waking = slurm.find(node).is_some_and(|index| slurm.state.nodes[index].is_waking());
            launches.retain(|first| now.abs_diff(first.unix_ms) < TOKEN_TRUST_MS);
            !launches.is_empty() && waking && driver.engine.binding(node).is_none()
        });
    }

    /// Until then this process could do nothing.
    fn held_until(&self, host: usize) -> u64 {
        let controller = &self.controllers[host];
        controller.hangs_until.max(controller.stalled_at)
    }

    fn check_refused(&mut self, host: usize) {
        let now = self.k.now;
        let held = self.held_until(host);
        let duties = &mut self.controllers[host].duties;
        let ec2 = &self.ec2;
        duties
            .refused
            .retain(|id, _| ec2.machine(id).is_some_and(|number| ec2.machines[number].is_alive(now)));
        let from = held.max(duties.refused_at);
        let late = duties
            .refused
            .iter()
            .map(|(id, at)| (id.clone(), now.saturating_sub(from.max(*at))))
            .find(|(_, waited)| *waited > REPEAT_MS);
        if let Some((id, waited)) = late {
            let seconds = waited / 1000;
            self.k.violate(|| format!("EC2 refused to end {id} {seconds} s ago and was not asked again"));
        }
    }

    /// A node whose launch has no answer yet is launched under that launch's token and no other.
    fn check_launched_again(&mut self, host: usize, token: &str) {
        let controller = &mut self.controllers[host];
        let Some(driver) = controller.driver.as_ref().filter(|_| !controller.superseded) else { return };
        let duties = &mut controller.duties;
        duties.unanswered.retain(|_, launches| launches.iter().all(|first| first.token != token));
        let nodes = driver.engine.persisted().open.values().find_map(|intent| match &intent.request {
            CloudRequest::CreateFleet(request) if request.client_token == token => {
                intent.launch.as_ref().map(|launch| launch.nodes.clone())
            }
            _ => None,
        });
        let again = nodes.unwrap_or_default().into_iter().find_map(|node| {
            let first = duties.unanswered.get(&node)?.first()?;
            Some((node, first.token.clone()))
        });
        if let Some((node, first)) = again {
            self.k.violate(|| {
                format!(
                    "{node} is launched as {token} while the launch {first} of an earlier process is open"
                )
            });
        }
    }

    /// What Slurm wants of each node is what the engine believes, soon after it changed.
    fn check_seen(&mut self, host: usize) {
        let now = self.k.now;
        let held = self.held_until(host).max(self.slurm_fails_until);
        let controller = &mut self.controllers[host];
        let Some(driver) = &controller.driver else { return };
        let duties = &mut controller.duties;
        let from = held.max(duties.asks_again_at).max(duties.began);
        let before = std::mem::take(&mut duties.astray);
        let mut late = None;
        for node in &self.slurm.state.nodes {
            let wanted = match (node.suspended, node.booting) {
                (true, _) => Desire::Down,
                (false, true) => Desire::Waking,
                (false, false) => Desire::Keep,
            };
            let known = driver.engine.node(&node.name);
            let (believed, changed) = known.map_or((Desire::Unknown, 0), |known| (known.desire, known.since));
            if believed == wanted {
                continue;
            }
            let same = before.get(&node.name).filter(|astray| {
                (astray.believed, astray.wanted, astray.changed) == (believed, wanted, changed)
            });
            let since = same.map_or(now, |astray| astray.since);
            duties.astray.insert(node.name.clone(), Astray { since, believed, wanted, changed });
            if now.saturating_sub(since.max(from)) > SEEN_MS {
                late = Some((node.name.clone(), believed, wanted, now - since));
            }
        }
        if let Some((node, believed, wanted, waited)) = late {
            let seconds = waited / 1000;
            self.k.violate(|| {
                format!(
                    "Slurm has {node} {wanted:?} for {seconds} s, and the engine takes it for {believed:?}"
                )
            });
        }
    }

    /// What slurmctld is told of an instance's end is true.
    pub fn check_report(&mut self, update: &NodeUpdate) {
        let reason = update.reason.as_deref().unwrap_or_default();
        if !reason.contains(" ended") {
            return;
        }
        let id = reason.split_whitespace().find(|word| word.starts_with("i-"));
        let alive = id
            .and_then(|id| self.ec2.machine(id))
            .is_some_and(|number| self.ec2.machines[number].is_alive(self.k.now));
        if alive {
            let names = update.names.join(",");
            self.k.violate(|| format!("{names}: Slurm is told \"{reason}\", and the instance runs"));
        }
    }
}

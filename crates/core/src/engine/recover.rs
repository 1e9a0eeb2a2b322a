// SPDX-License-Identifier: GPL-3.0-or-later
//! What an earlier process began, taken up from the journal.

use crate::ec2_api::CloudRequest;
use crate::engine::Engine;
use crate::engine::ground::launches::{Launch, Phase, whole_job};
use crate::fact::FactKind;
use crate::record::{Outcome, Record};

impl Engine {
    /// Continue what an earlier process began: index the bindings and queue the open intents.
    pub(crate) fn recover(&mut self) {
        for node in self.g.cx.persisted.bindings.keys() {
            let entry = self.g.cx.nodes.entry(node.clone()).or_default();
            entry.since = self.g.cx.now.mono_ms;
            entry.bound_at = self.g.cx.now.mono_ms;
        }
        self.g.sight.note_former_accounts(&self.g.cx);
        self.g.tags.recover_tags(&self.g.cx);
        self.g.sleepers.recover_relocations(&self.g.cx);
        self.node_fleets.recover_fleets(&mut self.g);
        self.groups.recover_group_fleets(&mut self.g);
        let open: Vec<u64> = self.g.cx.persisted.open.keys().copied().collect();
        for id in &open {
            self.recover_intent(*id);
        }
        if !open.is_empty() || !self.g.cx.persisted.bindings.is_empty() {
            let text = format!(
                "{} bound nodes and {} unfinished calls in the journal",
                self.g.cx.persisted.bindings.len(),
                open.len()
            );
            self.g.cx.fact(self.g.cx.new_fact(FactKind::Recovered, text));
        }
    }

    pub(crate) fn recover_intent(&mut self, id: u64) {
        let Some(intent) = self.g.cx.persisted.open.get(&id).cloned() else { return };
        if self.groups.recover_group_call(&mut self.g, id, &intent.request) {
            return;
        }
        match &intent.request {
            CloudRequest::CreateFleet(request) => {
                let Some(launch) = intent.launch.clone() else { return };
                self.g.waiting.recover_jobs(&self.g.cx, &launch.jobs);
                self.g.launches.open.insert(
                    id,
                    Launch {
                        group: launch.group,
                        account: intent.account.clone(),
                        token: request.client_token.clone(),
                        lifecycle: request.lifecycle,
                        nodes: launch.nodes.clone(),
                        job: whole_job(request, &launch.jobs),
                        started: self.g.cx.now.mono_ms,
                        deadline: u64::MAX,
                        phase: Phase::Recovering,
                        last_error: None,
                    },
                );
                for node in launch.nodes {
                    self.g.cx.nodes.entry(node).or_default().launch = Some(id);
                }
            }
            CloudRequest::DeleteFleets { terminate_instances: true, .. } if self.g.recover_deletion(id) => {}
            // Terminations are begun anew when Slurm has been asked whether it still means them; tags are written
            // anew from the bindings.
            _ => self.g.cx.record(Record::Outcome {
                id,
                outcome: Outcome::Abandoned("repeated after a restart".into()),
            }),
        }
    }
}

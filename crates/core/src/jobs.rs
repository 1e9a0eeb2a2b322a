// SPDX-License-Identifier: GPL-3.0-or-later
//! Which nodes Slurm wakes for which job, and whose nodes go back when a job cannot have all of its own.
//!
//! slurmctld names a job's nodes in SLURM_RESUME_FILE, at the moment at which it wakes them. What is kept here is of
//! one power-up: a node that has registered, or is down again, is of no job any more.

use std::collections::{BTreeMap, BTreeSet};

/// slurmctld's request may come before the bitmaps show its nodes, by no more than this.
const EARLY_MS: u64 = 30_000;

/// A job that waits for nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its nodes that are being powered up, also for another job.
    nodes: BTreeSet<String>,
    /// Of these, the ones that slurmctld wakes for this job.
    woken: BTreeSet<String>,
    /// `mono_ms` at which the job became known.
    learned: u64,
}

impl Job {
    pub fn nodes(&self) -> impl Iterator<Item = &String> {
        self.nodes.iter()
    }

    pub fn woken(&self) -> impl Iterator<Item = &String> {
        self.woken.iter()
    }

    #[must_use]
    pub fn learned(&self) -> u64 {
        self.learned
    }
}

/// Waiting nodes of one group that are launched together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// All of them or none: they are of a job that needs others, too.
    Job { id: u64, nodes: Vec<String> },
    /// Each for itself: the only node of its job, or woken without a job.
    Each { nodes: Vec<String> },
    /// All of them or none, since nothing is known of their jobs.
    Batch { nodes: Vec<String> },
}

impl Unit {
    #[must_use]
    pub fn nodes(&self) -> &[String] {
        match self {
            Self::Job { nodes, .. } | Self::Each { nodes } | Self::Batch { nodes } => nodes,
        }
    }

    /// The least number of instances that are of use.
    #[must_use]
    pub fn least(&self) -> usize {
        match self {
            Self::Each { .. } => 1,
            Self::Job { nodes, .. } | Self::Batch { nodes } => nodes.len(),
        }
    }
}

/// The jobs that wait for nodes.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    jobs: BTreeMap<u64, Job>,
    of: BTreeMap<String, BTreeSet<u64>>,
    /// Nodes of which slurmctld has said what they are woken for, and when.
    heard: BTreeMap<String, u64>,
    /// Why a node's power-up failed: code and message.
    failures: BTreeMap<String, (String, String)>,
}

impl Jobs {
    /// slurmctld wakes these nodes now; what is not said of a job afterwards is woken without one.
    pub fn hear(&mut self, nodes: impl IntoIterator<Item = String>, now: u64) {
        self.heard.extend(nodes.into_iter().map(|node| (node, now)));
    }

    /// A job waits for `nodes`, of which `woken` are woken for it. It replaces what was known of the job.
    pub fn learn(
        &mut self,
        id: u64,
        nodes: impl IntoIterator<Item = String>,
        woken: impl IntoIterator<Item = String>,
        now: u64,
    ) {
        self.remove(id);
        let woken: BTreeSet<String> = woken.into_iter().collect();
        let nodes: BTreeSet<String> = nodes.into_iter().chain(woken.iter().cloned()).collect();
        if nodes.is_empty() {
            return;
        }
        for node in &nodes {
            self.of.entry(node.clone()).or_default().insert(id);
            self.heard.entry(node.clone()).or_insert(now);
        }
        self.jobs.insert(id, Job { nodes, woken, learned: now });
    }

    /// Jobs of which nothing was heard since `mono_ms` = `before` are over, whatever became of them.
    pub fn forget_before(&mut self, before: u64) {
        let old: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.learned < before).map(|(id, _)| *id).collect();
        for id in old {
            self.remove(id);
        }
    }

    /// The node's power-up begins: what was heard long before was of another one.
    pub fn begin(&mut self, node: &str, now: u64) {
        if self.heard.get(node).is_some_and(|at| at + EARLY_MS < now) {
            self.end(node);
        }
    }

    /// The node is powered down: no job that waited for it waits for other nodes any more.
    pub fn lose(&mut self, node: &str) {
        for id in self.of.get(node).cloned().unwrap_or_default() {
            self.remove(id);
        }
        self.end(node);
    }

    /// The node's power-up is over.
    pub fn end(&mut self, node: &str) {
        self.heard.remove(node);
        self.failures.remove(node);
        for id in self.of.remove(node).unwrap_or_default() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.nodes.remove(node);
            job.woken.remove(node);
            if job.nodes.is_empty() {
                self.jobs.remove(&id);
            }
        }
    }

    /// Whether slurmctld has said what the node is woken for.
    #[must_use]
    pub fn is_heard(&self, node: &str) -> bool {
        self.heard.contains_key(node)
    }

    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The jobs that wait for this node, the oldest first.
    pub fn of(&self, node: &str) -> impl Iterator<Item = u64> {
        self.of.get(node).into_iter().flatten().copied()
    }

    /// The jobs of these nodes that wait for other nodes, too.
    #[must_use]
    pub fn of_several(&self, nodes: &[String]) -> Vec<(u64, &Job)> {
        let ids: BTreeSet<u64> = nodes.iter().flat_map(|node| self.of(node)).collect();
        let jobs = ids.into_iter().filter_map(|id| Some((id, self.jobs.get(&id)?)));
        jobs.filter(|(_, job)| job.nodes.len() > 1).collect()
    }

    /// The nodes' power-up has failed. Every job that waits for one of them is given up; what is returned are their other
    /// nodes, without those for which a job goes on waiting.
    pub fn fail(&mut self, nodes: &[String]) -> BTreeMap<u64, Vec<String>> {
        let ids: BTreeSet<u64> = nodes.iter().flat_map(|node| self.of(node)).collect();
        let given_up: Vec<(u64, Job)> =
            ids.into_iter().filter_map(|id| Some((id, self.remove(id)?))).collect();
        let mut taken: BTreeSet<String> = nodes.iter().cloned().collect();
        let mut released = BTreeMap::new();
        for (id, job) in given_up {
            let free = |node: &String| !self.of.contains_key(node) && taken.insert(node.clone());
            released.insert(id, job.nodes.into_iter().filter(free).collect());
        }
        released
    }

    /// Why the nodes' power-up has failed, for jobs that become known later.
    pub fn note_failure(&mut self, nodes: &[String], code: &str, message: &str) {
        let failure = (code.to_owned(), message.to_owned());
        self.failures.extend(nodes.iter().map(|node| (node.clone(), failure.clone())));
    }

    /// Why a power-up that is not over has failed.
    #[must_use]
    pub fn failure(&self, node: &str) -> Option<&(String, String)> {
        self.failures.get(node)
    }

    /// The job is given up.
    pub fn remove(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        for node in &job.nodes {
            if let Some(ids) = self.of.get_mut(node) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.of.remove(node);
                }
            }
        }
        Some(job)
    }

    /// What is launched together of these nodes of one group. A node of several jobs is launched for the oldest of them.
    #[must_use]
    pub fn units<'a>(&self, nodes: impl IntoIterator<Item = &'a String>) -> Vec<Unit> {
        let mut by_job: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let (mut each, mut batch) = (Vec::new(), Vec::new());
        for node in nodes {
            let of_several =
                self.of(node).find(|id| self.jobs.get(id).is_some_and(|job| job.nodes.len() > 1));
            match of_several {
                Some(id) => by_job.entry(id).or_default().push(node.clone()),
                None if self.is_heard(node) => each.push(node.clone()),
                None => batch.push(node.clone()),
            }
        }
        let mut units: Vec<Unit> = by_job.into_iter().map(|(id, nodes)| Unit::Job { id, nodes }).collect();
        if !each.is_empty() {
            units.push(Unit::Each { nodes: each });
        }
        if !batch.is_empty() {
            units.push(Unit::Batch { nodes: batch });
        }
        units
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn names(numbers: &[u8]) -> Vec<String> {
        numbers.iter().map(|number| format!("p-g-{number}")).collect()
    }

    fn learned(jobs: &[(u64, &[u8])]) -> Jobs {
        let mut table = Jobs::default();
        for (id, nodes) in jobs {
            table.hear(names(nodes), 0);
            table.learn(*id, names(nodes), names(nodes), 0);
        }
        table
    }

    #[test]
    fn what_is_launched_together() {
        use Unit::{Batch, Each, Job};
        // Jobs; nodes woken without a job; nodes that wait; units.
        type Case<'a> = (&'a [(u64, &'a [u8])], &'a [u8], &'a [u8], Vec<Unit>);
        let cases: [Case<'_>; 6] = [
            (&[], &[], &[0, 1], vec![Batch { nodes: names(&[0, 1]) }]),
            (&[], &[0, 1], &[0, 1], vec![Each { nodes: names(&[0, 1]) }]),
            (
                &[(7, &[0, 1]), (8, &[2, 3])],
                &[],
                &[0, 1, 2, 3],
                vec![Job { id: 7, nodes: names(&[0, 1]) }, Job { id: 8, nodes: names(&[2, 3]) }],
            ),
            // An array's tasks of one node each need one launch.
            (&[(7, &[0]), (8, &[1]), (9, &[2])], &[], &[0, 1, 2], vec![Each { nodes: names(&[0, 1, 2]) }]),
            // A shared node is launched for the older job.
            (
                &[(8, &[1, 2]), (7, &[0, 1])],
                &[4],
                &[0, 1, 2, 4, 5],
                vec![
                    Job { id: 7, nodes: names(&[0, 1]) },
                    Job { id: 8, nodes: names(&[2]) },
                    Each { nodes: names(&[4]) },
                    Batch { nodes: names(&[5]) },
                ],
            ),
            // A job's other node is in another group, or has its instance already.
            (&[(7, &[0, 1])], &[], &[1], vec![Job { id: 7, nodes: names(&[1]) }]),
        ];
        for (jobs, without, waiting, units) in cases {
            let mut table = learned(jobs);
            table.hear(names(without), 0);
            assert_eq!(table.units(&names(waiting)), units, "{jobs:?} {waiting:?}");
        }
    }

    #[test]
    fn whose_nodes_go_back() {
        // Jobs; nodes that fail; what goes back, by job.
        type Case<'a> = (&'a [(u64, &'a [u8])], &'a [u8], &'a [(u64, &'a [u8])]);
        let cases: [Case<'_>; 6] = [
            (&[(7, &[0, 1, 2])], &[1], &[(7, &[0, 2])]),
            (&[(7, &[0, 1]), (8, &[2, 3])], &[0], &[(7, &[1])]),
            (&[(7, &[0, 1])], &[5], &[]),
            // Node 1 stays for job 8.
            (&[(7, &[0, 1]), (8, &[1, 2])], &[0], &[(7, &[])]),
            // The shared node itself fails both.
            (&[(7, &[0, 1]), (8, &[1, 2])], &[1], &[(7, &[0]), (8, &[2])]),
            // A node of two jobs that both fail goes back once.
            (&[(7, &[0, 1]), (8, &[1, 2])], &[0, 2], &[(7, &[1]), (8, &[])]),
        ];
        for (jobs, failed, released) in cases {
            let mut table = learned(jobs);
            let expected: BTreeMap<u64, Vec<String>> =
                released.iter().map(|(id, nodes)| (*id, names(nodes))).collect();
            assert_eq!(table.fail(&names(failed)), expected, "{jobs:?} {failed:?}");
        }
    }

    #[test]
    fn what_was_heard_long_before_a_power_up_is_not_of_it() {
        let mut table = learned(&[(7, &[0, 1])]);
        table.begin("p-g-0", EARLY_MS);
        assert!(table.is_heard("p-g-0"));
        table.begin("p-g-0", EARLY_MS + 1);
        assert!(!table.is_heard("p-g-0"));
        assert_eq!(table.units(&names(&[0])), [Unit::Batch { nodes: names(&[0]) }]);
        assert_eq!(table.get(7).map(|job| job.nodes.len()), Some(1));
        table.forget_before(1);
        assert!(table.get(7).is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Learn(u64, BTreeSet<u8>),
        Hear(BTreeSet<u8>),
        End(u8),
        Lose(u8),
        Fail(BTreeSet<u8>),
        Remove(u64),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let nodes = || btree_set(0..8u8, 0..5);
        prop_oneof![
            (0..5u64, nodes()).prop_map(|(id, nodes)| Step::Learn(id, nodes)),
            nodes().prop_map(Step::Hear),
            (0..8u8).prop_map(Step::End),
            (0..8u8).prop_map(Step::Lose),
            nodes().prop_map(Step::Fail),
            (0..5u64).prop_map(Step::Remove),
        ]
    }

    fn list(nodes: &BTreeSet<u8>) -> Vec<String> {
        names(&nodes.iter().copied().collect::<Vec<u8>>())
    }

    proptest! {
        #[test]
        fn no_job_waits_for_a_node_that_failed_and_no_waiting_jobs_node_goes_back(steps in vec(steps(), 0..40)) {
            let mut table = Jobs::default();
            for (now, step) in (0u64..).zip(&steps) {
                match step {
                    Step::Learn(id, nodes) => table.learn(*id, list(nodes), list(nodes), now),
                    Step::Hear(nodes) => table.hear(list(nodes), now),
                    Step::End(node) => table.end(&format!("p-g-{node}")),
                    Step::Lose(node) => {
                        let node = format!("p-g-{node}");
                        let ids: Vec<u64> = table.of(&node).collect();
                        table.lose(&node);
                        prop_assert!(ids.iter().all(|id| table.get(*id).is_none()) && !table.is_heard(&node));
                    }
                    Step::Remove(id) => {
                        table.remove(*id);
                    }
                    Step::Fail(nodes) => {
                        let failed = list(nodes);
                        let before = table.clone();
                        let released = table.fail(&failed);
                        let mut once = BTreeSet::new();
                        for (id, nodes) in &released {
                            prop_assert!(table.get(*id).is_none());
                            for node in nodes {
                                prop_assert!(before.jobs[id].nodes.contains(node));
                                prop_assert!(once.insert(node.clone()) && !failed.contains(node));
                                prop_assert_eq!(table.of(node).count(), 0);
                            }
                        }
                        for node in &failed {
                            prop_assert_eq!(table.of(node).count(), 0);
                        }
                        // Whatever else stays, stays for a job that lost nothing.
                        for (id, job) in &table.jobs {
                            prop_assert_eq!(Some(job), before.jobs.get(id));
                        }
                        for id in before.jobs.keys().filter(|id| table.get(**id).is_none()) {
                            for node in &before.jobs[id].nodes {
                                let gone = failed.contains(node) || once.contains(node);
                                prop_assert_eq!(gone, table.of(node).count() == 0);
                            }
                        }
                    }
                }
                for (id, job) in &table.jobs {
                    prop_assert!(!job.nodes.is_empty() && job.woken.is_subset(&job.nodes));
                    prop_assert!(job.nodes.iter().all(|node| table.of[node].contains(id)));
                }
                for (node, ids) in &table.of {
                    prop_assert!(!ids.is_empty() && ids.iter().all(|id| table.jobs[id].nodes.contains(node)));
                }
                let all = names(&[0, 1, 2, 3, 4, 5, 6, 7]);
                let units = table.units(&all);
                let mut together: Vec<String> = units.iter().flat_map(|unit| unit.nodes().to_vec()).collect();
                together.sort();
                prop_assert_eq!(&together, &all, "each node in exactly one unit");
                for unit in &units {
                    prop_assert!(unit.least() <= unit.nodes().len() && unit.least() > 0);
                    if let Unit::Job { id, nodes } = unit {
                        prop_assert!(nodes.iter().all(|node| table.jobs[id].nodes.contains(node)));
                    }
                }
            }
        }
    }
}

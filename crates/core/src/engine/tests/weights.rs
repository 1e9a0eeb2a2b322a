// SPDX-License-Identifier: GPL-3.0-or-later
//! Weights that follow the nodes' instances.

use super::*;
use crate::site::NodeWeights;

const SPOT: u32 = 2;
const ON_DEMAND: u32 = 1;

fn weighed() -> NodeGroup {
    NodeGroup { node_weights: Some(NodeWeights { spot: SPOT, on_demand: ON_DEMAND }), ..group("g") }
}

/// Nodes 0 to 3 as slurm.conf has them; of the launched instances those of `on_demand` are so.
fn up(group: NodeGroup, on_demand: &[usize]) -> Bench {
    let mut bench = Bench::with(group, Persisted::default());
    let nodes = ["p-g-0", "p-g-1", "p-g-2", "p-g-3"];
    for node in nodes {
        bench.set_slurm(node, NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    }
    reset(&mut bench);
    bench.tick(0);
    bench.answer_views();
    bench.wake(&nodes);
    let (_, mut launched) = bench.launch_unseen(4);
    for &index in on_demand {
        launched[index].lifecycle = Lifecycle::OnDemand;
        bench.instances[index].lifecycle = Lifecycle::OnDemand;
    }
    let (call, _) = bench.take("DescribeInstances").expect("the new instances are described");
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    let (call, update) = bench.take_update().expect("addresses are told");
    assert_eq!((update.names.len(), update.weight), (4, None));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    for (index, node) in nodes.iter().enumerate() {
        bench.set_slurm(node, NodeBase::Idle, NodeFlags::CLOUD);
        bench.slurm[index].addr = bench.instances[index].private_ip.clone().unwrap();
    }
    let ended = nodes.map(str::to_owned).to_vec();
    bench.give(Event::Power(PowerReading { waking_ended: ended, ..PowerReading::default() }));
    bench
}

/// slurmctld goes back to slurm.conf.
fn reset(bench: &mut Bench) {
    bench.slurm.iter_mut().for_each(|node| node.weight = Some(SPOT));
}

fn reconfigured(waking: &[&str]) -> Event {
    let waking = waking.iter().map(|node| (*node).to_owned()).collect();
    Event::Power(PowerReading { full: true, reconfigured: true, waking, ..PowerReading::default() })
}

impl Bench {
    /// The next write of weights, done by slurmctld.
    fn weigh(&mut self) -> Option<(u32, Vec<String>)> {
        let (call, update) = self.take_update()?;
        let weight = update.weight.expect("weights and nothing else");
        let names = update.names.clone();
        assert_eq!(update, NodeUpdate { names, weight: Some(weight), ..NodeUpdate::default() });
        for node in self.slurm.iter_mut().filter(|node| update.names.contains(&node.name)) {
            // What slurmctld does not show it does not show afterwards either.
            node.weight = node.weight.and(Some(weight));
        }
        self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        Some((weight, update.names))
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_node_has_the_weight_of_its_instance_and_goes_back_when_it_is_powered_down() {
    let mut bench = up(weighed(), &[1, 3]);
    assert_eq!(bench.weigh(), Some((ON_DEMAND, names(&["p-g-1", "p-g-3"]))), "both in one update");
    assert_eq!(bench.weigh(), None, "the others have theirs");
    bench.rescan(61);
    assert_eq!(bench.weigh(), None);

    let down = NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN);
    bench.set_slurm("p-g-0", NodeBase::Idle, down);
    bench.set_slurm("p-g-1", NodeBase::Idle, down);
    let suspended = names(&["p-g-0", "p-g-1"]);
    bench.give(Event::Power(PowerReading { suspended, ..PowerReading::default() }));
    assert_eq!(bench.weigh(), Some((SPOT, names(&["p-g-1"]))), "its next instance shall be Spot");
    assert_eq!(bench.weigh(), None);
}

#[test]
fn what_a_reconfiguration_undoes_is_seen_and_done_again_and_nothing_else() {
    let mut bench = up(weighed(), &[1]);
    bench.weigh().expect("a fallback");
    reset(&mut bench);
    bench.give(reconfigured(&[]));
    assert_eq!(bench.take_update(), None, "nothing is written before slurmctld has said what it has");
    bench.answer_views();
    assert_eq!(bench.weigh(), Some((ON_DEMAND, names(&["p-g-1"]))));
    assert_eq!(bench.weigh(), None);

    // An administrator's word is undone at the next look.
    bench.slurm[0].weight = Some(77);
    bench.rescan(61);
    assert_eq!(bench.weigh(), Some((SPOT, names(&["p-g-0"]))));
    assert_eq!(bench.weigh(), None);
}

#[test]
fn an_answer_to_what_was_written_before_a_reconfiguration_says_nothing() {
    let mut bench = up(weighed(), &[1]);
    let (call, _) = bench.take_update().expect("a fallback");
    // slurmctld took it and then read slurm.conf.
    bench.give(reconfigured(&[]));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.answer_views();
    assert_eq!(bench.weigh(), Some((ON_DEMAND, names(&["p-g-1"]))));
    assert_eq!(bench.weigh(), None);
}

#[test]
fn nodes_that_slurmctld_does_not_show_are_told_once_after_each_reading_of_slurm_conf() {
    let mut bench = up(weighed(), &[0, 1, 2, 3]);
    bench.weigh().expect("a fallback");
    let down = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN);
    for index in [0, 1] {
        bench.set_slurm(&format!("p-g-{index}"), NodeBase::Unknown, down);
        bench.slurm[index].weight = None;
    }
    let suspended = names(&["p-g-0", "p-g-1"]);
    bench.give(Event::Power(PowerReading { suspended, ..PowerReading::default() }));
    assert_eq!(bench.weigh(), Some((SPOT, names(&["p-g-0", "p-g-1"]))));
    bench.rescan(61);
    assert_eq!(bench.weigh(), None, "it was told");
    bench.give(reconfigured(&[]));
    bench.answer_views();
    assert_eq!(bench.weigh(), Some((SPOT, names(&["p-g-0", "p-g-1"]))), "slurm.conf may say anything");
    assert_eq!(bench.weigh(), None);
    bench.rescan(61);
    assert_eq!(bench.weigh(), None);
}

#[test]
fn a_write_that_slurmctld_refuses_is_repeated_later() {
    let mut bench = up(weighed(), &[2]);
    let (call, _) = bench.take_update().expect("a fallback");
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
    assert_eq!(bench.take_update(), None, "not at once");
    assert!(!bench.engine.is_idle(), "it is owed");
    bench.tick(60_000);
    assert_eq!(bench.weigh(), Some((ON_DEMAND, names(&["p-g-2"]))));
}

#[test]
fn the_configuration_and_locks_decide_whose_weights_are_ours() {
    let mut bench = up(group("g"), &[1]);
    bench.give(reconfigured(&[]));
    bench.rescan(61);
    assert_eq!(bench.weigh(), None, "nobody asked for weights");

    bench.give(Event::LockRequested { nodes: names(&["p-g-1"]), locked: true });
    bench.give(site_of(vec![weighed()]));
    bench.answer_views();
    assert_eq!(bench.weigh(), None, "hands off");
    bench.give(Event::LockRequested { nodes: names(&["p-g-1"]), locked: false });
    assert_eq!(bench.weigh(), Some((ON_DEMAND, names(&["p-g-1"]))));

    // Other weights: of all four nodes, by two updates.
    let weights = Some(NodeWeights { spot: 20, on_demand: 10 });
    bench.give(site_of(vec![NodeGroup { node_weights: weights, ..group("g") }]));
    bench.answer_views();
    assert_eq!(bench.weigh(), Some((10, names(&["p-g-1"]))));
    assert_eq!(bench.weigh(), Some((20, names(&["p-g-0", "p-g-2", "p-g-3"]))));
    assert_eq!(bench.weigh(), None);
}

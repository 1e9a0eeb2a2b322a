// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances of a node group's fleet: whose each one is, and which end.

use super::*;

#[test]
fn what_ec2_launches_beside_a_sleeper_is_ended_for_good_and_the_sleeper_is_counted_again_when_awake() {
    let (mut bench, mut ec2) = group_scope();
    bench.instances[1].state = InstanceState::Stopped;
    GroupEc2::launch(&mut bench, "fleet-g", "i-spare");
    // Nothing else happens: the next listing shows it.
    ec2.run(&mut bench, 90);
    assert_eq!(ec2.targets.last(), Some(&1), "lowered first, or EC2 would launch yet another one");
    assert_eq!(ec2.terminated, ["i-spare"]);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
    // The next process knows as well.
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.run(&mut bench, 90);
    assert_eq!((ec2.targets.last(), ec2.terminated.len()), (Some(&1), 1));
    bench.instances[1].state = InstanceState::Running;
    ec2.run(&mut bench, 90);
    assert_eq!((ec2.targets.last(), ec2.terminated.len()), (Some(&2), 1));
}

#[test]
fn a_fleet_that_an_administrator_deletes_goes_with_idle_nodes_and_not_with_busy_ones() {
    let (mut bench, mut ec2) = group_scope();
    let fleet_ids = vec!["fleet-g".to_owned()];
    bench.slurm[1].base = NodeBase::Idle;
    ec2.run(&mut bench, 70);
    assert_eq!(bench.engine.busy_nodes_of_fleet("fleet-g"), ["p-g-0"]);
    bench.give(Event::DeleteFleetsRequested { fleet_ids: fleet_ids.clone() });
    ec2.run(&mut bench, 20);
    assert!(ec2.deleted.is_empty() && ec2.terminated.is_empty());
    bench.slurm[0].base = NodeBase::Idle;
    ec2.run(&mut bench, 70);
    bench.give(Event::DeleteFleetsRequested { fleet_ids });
    ec2.run(&mut bench, 20);
    let down = bench.effects.iter().any(|effect| {
        matches!(effect, Effect::Slurm { request: SlurmRequest::UpdateNodes(update), .. }
            if update.state == Some(NodeStateChange::PowerDown) && update.names == ["p-g-0", "p-g-1"])
    });
    assert!(down, "slurmctld is told");
    // A job may have begun since the last look: Slurm decides when the nodes are down.
    assert!(ec2.deleted.is_empty() && ec2.terminated.is_empty());
    suspend(&mut bench, "p-g-0");
    suspend(&mut bench, "p-g-1");
    ec2.run(&mut bench, 20);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)]);
}

#[test]
fn a_group_fleets_instance_that_ran_as_a_node_is_never_given_to_another_one() {
    let (bench, mut ec2) = group_scope();
    let persisted = Persisted { bindings: Default::default(), ..bench.engine.persisted().clone() };
    let (instances, slurm) = (bench.instances.clone(), bench.slurm.clone());
    let mut bench = Bench::with(group_of_fleet(), persisted);
    bench.instances = instances;
    bench.slurm = slurm;
    // i-0 has been p-g-0, which Slurm now has elsewhere; another node waits.
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    ec2.run(&mut bench, 60);
    assert_eq!(bench.bound("p-g-5"), None);
    assert_eq!(ec2.terminated, ["i-0"]);
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 70);
    assert_eq!(bench.bound("p-g-5"), Some("i-2"));
}

#[test]
fn what_a_group_fleet_holds_before_a_power_up_is_not_given_to_the_node() {
    let (mut bench, mut ec2) = group_scope_of(|group| {
        group.spot_options.instance_interruption_behavior = None;
    });
    ec2.run(&mut bench, 30);
    // EC2 has ended i-0 and launched another one, and no list has shown it yet: it has booted before the power-up,
    // and slurmctld would not let it register.
    bench.instances[0].state = InstanceState::Terminated;
    GroupEc2::launch(&mut bench, "fleet-g", "i-early");
    // The address that the node had before, by chance.
    let addr = bench.instances.last().unwrap().private_ip.clone().unwrap();
    bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.slurm.last_mut().unwrap().addr = addr;
    bench.answer_views();
    bench.wake(&["p-g-2"]);
    assert_eq!(ec2.targets, [2], "the list comes before the raise");
    ec2.run(&mut bench, 5);
    assert_eq!((bench.bound("p-g-2"), ec2.targets.last()), (None, Some(&3)));
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 5);
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    assert_eq!(ec2.terminated, ["i-early"]);
}

#[test]
fn what_ec2_launches_for_a_member_that_ended_or_fell_asleep_before_it_was_up_is_found() {
    for state in [InstanceState::Terminated, InstanceState::Stopped] {
        let mut bench = Bench::with(group_of_fleet(), Persisted::default());
        let mut ec2 = GroupEc2::new();
        bench.tick(0);
        ec2.answer(&mut bench);
        bench.wake(&["p-g-0", "p-g-1"]);
        ec2.run(&mut bench, 5);
        GroupEc2::launch(&mut bench, "fleet-g", "i-0");
        GroupEc2::launch(&mut bench, "fleet-g", "i-1");
        ec2.run(&mut bench, 10);
        registered(&mut bench, &["p-g-1"]);
        // As much capacity as instances with nodes, and one of these gives none.
        bench.instances[0].state = state;
        if state.is_ended() {
            // EC2 does not show it any more, by its id either.
            bench.instances[0].id = "i-forgotten".into();
        }
        GroupEc2::launch(&mut bench, "fleet-g", "i-2");
        // Before EC2's silence about a member is taken for its end (`consistency_grace_s`).
        ec2.run(&mut bench, 130);
        assert_eq!(ec2.terminated, ["i-2"], "{state:?}");
    }
}

#[test]
fn an_instance_that_fell_asleep_before_it_had_a_node_is_ended_and_the_target_stays() {
    let (mut bench, mut ec2) = group_scope();
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    GroupEc2::launch(&mut bench, "fleet-g", "i-asleep");
    bench.instances.last_mut().unwrap().state = InstanceState::Stopping;
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 10);
    assert_eq!(
        (bench.bound("p-g-2"), ec2.terminated.as_slice()),
        (Some("i-2"), ["i-asleep".into()].as_slice())
    );
    assert_eq!(ec2.targets, [2, 3]);
}

#[test]
fn an_untagged_instance_of_a_group_fleet_is_adopted_by_its_own_group_alone() {
    let (mut bench, mut ec2) = group_scope();
    let mut other = group("h");
    other.scope = FleetScope::Launch;
    bench.give(site_of(vec![group_of_fleet(), other]));
    bench.set_slurm("p-h-0", NodeBase::Idle, NodeFlags::CLOUD);
    // Slurm still has the address of an instance that ended for a node of the other group.
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    let addr = bench.instances.last().unwrap().private_ip.clone().unwrap();
    bench.slurm.iter_mut().find(|node| node.name == "p-h-0").unwrap().addr = addr;
    bench.rescan(60);
    ec2.run(&mut bench, 70);
    assert_eq!(bench.bound("p-h-0"), None);
    assert_eq!(ec2.terminated, ["i-2"]);
}

#[test]
fn a_replacement_that_nobody_waits_for_is_ended_and_the_sleeper_is_not() {
    let (mut bench, mut ec2) = group_scope();
    bench.instances[1].state = InstanceState::Stopped;
    GroupEc2::launch(&mut bench, "fleet-g", "i-spare");
    // The fleet is looked at because another node is waking; its instance comes as well.
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 1);
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 30);
    assert_eq!(ec2.terminated.len(), 1, "{:?}", ec2.terminated);
    assert!(!ec2.terminated.contains(&"i-1".to_owned()));
    assert!(bench.bound("p-g-2").is_some());
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The fleet of a node group: made, changed, replaced, deleted, its target.

use super::*;

#[test]
fn a_new_template_is_applied_once_to_the_running_fleet_and_touches_no_node() {
    let (mut bench, mut ec2) = group_scope();
    let mut changed = group_of_fleet();
    changed.launch_template.version = Some("4".into());
    changed.overrides[0].instance_type = Some("m5.large".into());
    for _ in 0..2 {
        bench.give(site_of(vec![changed.clone()]));
        ec2.run(&mut bench, 10);
    }
    assert_eq!(ec2.templates.len(), 1, "{:?}", ec2.templates);
    assert_eq!(ec2.templates[0].launch_template.version.as_deref(), Some("4"));
    assert_eq!(ec2.templates[0].overrides[0].instance_type.as_deref(), Some("m5.large"));
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2, 2].as_slice()));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    // A version that EC2 resolves may be another one at each reload.
    changed.launch_template.version = Some("$Latest".into());
    for _ in 0..2 {
        bench.give(site_of(vec![changed.clone()]));
        ec2.run(&mut bench, 10);
    }
    assert_eq!(ec2.templates.len(), 3);
}

#[test]
fn a_template_that_ec2_refuses_does_not_stop_the_fleet() {
    let (mut bench, mut ec2) = group_scope();
    ec2.refuse_templates = true;
    let mut changed = group_of_fleet();
    changed.launch_template.version = Some("4".into());
    bench.give(site_of(vec![changed.clone()]));
    ec2.run(&mut bench, 10);
    assert!(bench.facts.iter().any(|fact| fact.code.as_deref() == Some("InvalidLaunchTemplateId.NotFound")));
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 10);
    assert_eq!((ec2.targets.last(), ec2.terminated.as_slice()), (Some(&1), ["i-0".to_owned()].as_slice()));
    // The administrator mends the template and reloads.
    ec2.refuse_templates = false;
    bench.give(site_of(vec![changed]));
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.templates.len(), 1);
}

#[test]
fn what_modify_fleet_cannot_change_gives_new_nodes_another_fleet_and_leaves_busy_ones_alone() {
    let (mut bench, mut ec2) = group_scope();
    let mut changed = group_of_fleet();
    changed.spot_options.allocation_strategy = Some("diversified".into());
    bench.give(site_of(vec![changed.clone()]));
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.fleets.len(), 1, "a new fleet is made when a node wants it");
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.fleets.iter().map(|fleet| fleet.target).collect::<Vec<_>>(), [2, 1]);
    GroupEc2::launch(&mut bench, "fleet-h", "i-2");
    ec2.run(&mut bench, 5);
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    registered(&mut bench, &["p-g-2"]);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));

    // Also for the next process: nothing but the journal and EC2 is known to it.
    let mut next = Bench::with(changed, bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.run(&mut bench, 70);
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());

    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 10);
    assert_eq!((ec2.terminated.as_slice(), ec2.deleted.len()), (["i-0".to_owned()].as_slice(), 0));
    suspend(&mut bench, "p-g-1");
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)], "with its last node");
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    assert_eq!(bench.engine.persisted().group_fleets.len(), 1);
}

#[test]
fn a_removed_groups_fleet_goes_with_its_last_node() {
    let (mut bench, mut ec2) = group_scope();
    let mut other = group("other");
    other.account.region = "us-east-1".into();
    bench.give(site_of(vec![other]));
    ec2.run(&mut bench, 400);
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty(), "its nodes are up");
    // Slurm powers one down and then knows neither.
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    ec2.run(&mut bench, 400);
    assert_eq!((ec2.terminated.as_slice(), ec2.deleted.len()), (["i-0".to_owned()].as_slice(), 0));
    bench.slurm.clear();
    ec2.run(&mut bench, 400);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)]);
    assert!(bench.engine.persisted().group_fleets.is_empty() && bench.engine.persisted().bindings.is_empty());
}

/// A group of one fleet with two nodes that wait for Spot, and nothing comes.
fn short_of_spot(fallback: Option<u32>) -> (Bench, GroupEc2) {
    let mut group = group_of_fleet();
    group.spot_fallback_s = fallback;
    let mut bench = Bench::with(group, Persisted::default());
    let mut ec2 = GroupEc2::new();
    bench.tick(0);
    ec2.answer(&mut bench);
    bench.wake(&["p-g-0", "p-g-1"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.split, [(2, 0)]);
    (bench, ec2)
}

#[test]
fn a_spot_quota_in_the_history_sends_a_group_on_demand_at_once_and_later_nodes_back_to_spot() {
    for sub_type in ["spotInstanceCountLimitExceeded", "spotFleetRequestConfigurationInvalid"] {
        let (mut bench, mut ec2) = short_of_spot(Some(210));
        ec2.history = vec![of_history(sub_type, &bench)];
        ec2.run(&mut bench, 25);
        assert_eq!(ec2.split, [(2, 0), (0, 2)], "long before SpotFallbackSec");
        assert!(
            bench
                .facts
                .iter()
                .any(|fact| fact.kind == FactKind::SpotFallback && fact.code.as_deref() == Some(sub_type))
        );
        for id in ["i-0", "i-1"] {
            GroupEc2::launch(&mut bench, "fleet-g", id);
            bench.instances.last_mut().unwrap().lifecycle = Lifecycle::OnDemand;
        }
        ec2.run(&mut bench, 5);
        registered(&mut bench, &["p-g-0", "p-g-1"]);
        assert!(
            bench
                .facts
                .iter()
                .any(|fact| fact.kind == FactKind::SpotFallback && fact.instances == ["i-0", "i-1"]),
            "with the instances that cost more"
        );
        ec2.history.clear();
        bench.wake(&["p-g-2"]);
        ec2.run(&mut bench, 5);
        assert_eq!(ec2.split.last(), Some(&(1, 2)), "the next node is asked of Spot again");
        suspend(&mut bench, "p-g-0");
        ec2.run(&mut bench, 5);
        assert_eq!(ec2.split.last(), Some(&(1, 1)), "the on-demand share goes as its nodes do");
    }
}

#[test]
fn silence_sends_a_group_on_demand_after_spot_fallback_sec_and_never_where_it_is_off() {
    let (mut bench, mut ec2) = short_of_spot(Some(210));
    ec2.run(&mut bench, 200);
    assert_eq!(ec2.split, [(2, 0)]);
    ec2.run(&mut bench, 15);
    assert_eq!(ec2.split, [(2, 0), (0, 2)]);
    let (mut bench, mut ec2) = short_of_spot(None);
    ec2.history = vec![of_history("spotInstanceCountLimitExceeded", &bench)];
    ec2.run(&mut bench, 250);
    assert_eq!(ec2.split, [(2, 0)]);
    let code = |fact: &&Fact| fact.code.as_deref() == Some("spotInstanceCountLimitExceeded");
    assert_eq!(bench.facts.iter().filter(code).count(), 1, "told once");
}

#[test]
fn a_history_of_an_earlier_wait_says_nothing() {
    let (mut bench, mut ec2) = short_of_spot(Some(210));
    let mut old = of_history("spotInstanceCountLimitExceeded", &bench);
    old.unix_ms -= 60_000;
    ec2.history = vec![old];
    ec2.run(&mut bench, 60);
    assert_eq!(ec2.split, [(2, 0)]);
}

#[test]
fn a_crash_between_suspend_and_terminate_still_lowers_first_and_ends_exactly_that_instance() {
    let (mut bench, mut ec2) = group_scope();
    suspend(&mut bench, "p-g-0");
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.state = "modifying".into();
    ec2.run(&mut bench, 20);
    assert!(ec2.terminated.is_empty(), "EC2 may still be carrying out the change of the process before");
    ec2.state = "active".into();
    ec2.run(&mut bench, 20);
    assert_eq!((ec2.targets.last(), ec2.terminated.as_slice()), (Some(&1), ["i-0".to_owned()].as_slice()));
    assert_eq!(ec2.cancelled, 1, "and its Spot request");
}

#[test]
fn a_target_that_ec2_took_over_late_is_set_anew() {
    let (mut bench, mut ec2) = group_scope();
    let before = ec2.targets.len();
    ec2.run(&mut bench, 130);
    assert_eq!(ec2.targets.len(), before, "what is right is left alone");
    // A ModifyFleet that was given up for lost is carried out after the last one.
    ec2.fleets[0].target = 5;
    ec2.run(&mut bench, 130);
    assert_eq!((&ec2.targets[before..], ec2.fleets[0].target), (&[2][..], 2));
    assert!(bench.facts.iter().any(|fact| fact.kind == FactKind::FleetTargetChanged));
    assert!(ec2.terminated.is_empty());
}

#[test]
fn a_lost_journal_finds_the_groups_fleet_and_its_nodes_again() {
    let (bench, mut ec2) = group_scope();
    let mut next = Bench::with(group_of_fleet(), Persisted::default());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    // One of the two has no job and its instance no tag: its address is enough.
    next.slurm[1].base = NodeBase::Idle;
    next.instances[1].tags = [(tag::FLEET_ID.to_owned(), "fleet-g".to_owned())].into();
    ec2.run(&mut next, 400);
    assert_eq!((next.bound("p-g-0"), next.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    assert_eq!((ec2.fleets.len(), ec2.targets.last()), (1, Some(&2)));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    assert!(ec2.templates.is_empty(), "its tag says what it was made from");
}

#[test]
fn the_target_of_a_fleet_that_was_found_again_is_not_shown_before_it_is_known() {
    let (bench, mut ec2) = group_scope();
    let mut next = Bench::with(group_of_fleet(), Persisted::default());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    // As long as EC2 carries out a change, the target cannot be set anew.
    ec2.state = "modifying".into();
    ec2.run(&mut next, 20);
    assert_eq!(next.engine.fleet_reports().len(), 1, "the fleet is found");
    assert_eq!(next.engine.group_reports()[0].fleet_target, None);
    ec2.state = "active".into();
    ec2.run(&mut next, 20);
    assert_eq!(next.engine.group_reports()[0].fleet_target, Some(2));
}

#[test]
fn a_second_fleet_of_a_group_keeps_its_nodes_and_takes_no_new_ones() {
    let (bench, mut ec2) = group_scope();
    let mut twin = ec2.fleets[0].clone();
    twin.id = "fleet-twin".into();
    ec2.fleets.push(twin);
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    GroupEc2::launch(&mut next, "fleet-twin", "i-5");
    next.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD);
    next.slurm[2].addr = next.instances[2].private_ip.clone().unwrap();
    ec2.run(&mut next, 400);
    assert_eq!(next.bound("p-g-5"), Some("i-5"));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    suspend(&mut next, "p-g-5");
    ec2.run(&mut next, 20);
    assert_eq!(ec2.terminated, ["i-5"]);
    assert_eq!(ec2.deleted, [("fleet-twin".to_owned(), true)]);
}

#[test]
fn a_fleet_that_somebody_deletes_is_made_anew_for_the_next_node() {
    let (mut bench, mut ec2) = group_scope();
    ec2.deleted.push((ec2.fleets.remove(0).id, false));
    ec2.run(&mut bench, 400);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.fleets.iter().map(|fleet| fleet.target).collect::<Vec<_>>(), [1]);
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.terminated, ["i-0"]);
}

#[test]
fn an_idle_group_fleet_costs_at_most_two_describes_a_minute() {
    let (mut bench, mut ec2) = group_scope_of(|group| {
        group.spot_options.instance_interruption_behavior = None;
    });
    ec2.run(&mut bench, 200);
    let before = ec2.describes;
    ec2.run(&mut bench, 600);
    assert!(ec2.describes - before <= 20, "{} calls in ten minutes", ec2.describes - before);
    // Nobody's, and with no tag of ours: found by what the fleet has more than the nodes.
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 70);
    assert_eq!(ec2.terminated, ["i-2"]);
}

#[test]
fn a_group_fleet_is_made_once_and_its_target_follows_the_nodes() {
    let (mut bench, mut ec2) = group_scope();
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2].as_slice()));
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2, 3].as_slice()));
}

#[test]
fn a_group_fleet_is_lowered_and_settled_before_exactly_one_instance_ends() {
    let (mut bench, mut ec2) = group_scope();
    ec2.state = "modifying".into();
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 20);
    assert_eq!(ec2.targets.last(), Some(&1), "the target is lowered first");
    assert!(ec2.terminated.is_empty(), "not while EC2 is modifying the fleet");
    ec2.state = "active".into();
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.terminated, ["i-0"]);
    assert_eq!(ec2.cancelled, 1);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

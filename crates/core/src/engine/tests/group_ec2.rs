// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2 as the fleet of a node group sees it.

use super::*;

/// EC2 with the fleets of a group, answering until nothing is asked any more.
pub(super) struct GroupEc2 {
    pub(super) fleets: Vec<crate::ec2_api::Fleet>,
    pub(super) state: String,
    pub(super) targets: Vec<u32>,
    pub(super) templates: Vec<crate::ec2_api::FleetTemplate>,
    pub(super) refuse_templates: bool,
    /// Spot and on-demand targets.
    pub(super) split: Vec<(u32, u32)>,
    pub(super) history: Vec<FleetHistoryRecord>,
    pub(super) terminated: Vec<String>,
    pub(super) cancelled: usize,
    pub(super) deleted: Vec<(String, bool)>,
    pub(super) describes: usize,
}

impl GroupEc2 {
    pub(super) fn new() -> Self {
        Self {
            fleets: Vec::new(),
            state: "active".into(),
            targets: Vec::new(),
            templates: Vec::new(),
            refuse_templates: false,
            split: Vec::new(),
            history: Vec::new(),
            terminated: Vec::new(),
            cancelled: 0,
            deleted: Vec::new(),
            describes: 0,
        }
    }

    /// What EC2 launches for the fleet, without saying so.
    pub(super) fn launch(bench: &mut Bench, fleet: &str, id: &str) {
        bench.instance(id, 0, "");
        let instance = bench.instances.last_mut().unwrap();
        // EC2 gives the instances of maintain fleets no tags but its own.
        instance.tags = [(tag::FLEET_ID.to_owned(), fleet.to_owned())].into();
        instance.spot_request_id = Some(format!("sir-{id}"));
    }

    pub(super) fn reply(&mut self, bench: &mut Bench, request: CloudRequest) -> CloudResult {
        Ok(match request {
            CloudRequest::CreateFleet(request) => {
                assert_eq!(request.target, 0, "a group fleet is made empty");
                let id = format!("fleet-{}", ["g", "h", "i"][self.fleets.len() + self.deleted.len()]);
                self.fleets.push(crate::ec2_api::Fleet {
                    id: id.clone(),
                    state: self.state.clone(),
                    activity: None,
                    target: 0,
                    fulfilled: 0.0,
                    client_token: Some(request.client_token),
                    tags: request.fleet_tags,
                });
                CloudReply::Fleet(FleetReply { fleet_id: id, ..FleetReply::default() })
            }
            CloudRequest::ModifyFleet {
                fleet_id,
                target,
                spot_target,
                on_demand_target,
                terminate_excess,
                template,
            } => {
                self.split.push((spot_target, on_demand_target));
                assert!(!terminate_excess, "EC2 would choose the victim");
                if template.is_some() && self.refuse_templates {
                    return Err(CloudError {
                        class: ErrorClass::Configuration,
                        code: "InvalidLaunchTemplateId.NotFound".into(),
                        ..capacity()
                    });
                }
                self.fleets.iter_mut().find(|fleet| fleet.id == fleet_id).expect("a fleet").target = target;
                self.targets.push(target);
                self.templates.extend(template.map(|template| *template));
                CloudReply::Modified
            }
            CloudRequest::DescribeFleets { .. } => {
                for fleet in &mut self.fleets {
                    fleet.state.clone_from(&self.state);
                    let awake = bench.instances.iter().filter(|instance| {
                        matches!(instance.state, InstanceState::Pending | InstanceState::Running)
                            && instance.tags.get(tag::FLEET_ID) == Some(&fleet.id)
                    });
                    fleet.fulfilled = f64::from(u32::try_from(awake.count()).unwrap());
                }
                CloudReply::Fleets(self.fleets.clone())
            }
            CloudRequest::DeleteFleets { ids, terminate_instances } => {
                self.fleets.retain(|fleet| !ids.contains(&fleet.id));
                self.deleted.extend(ids.iter().map(|id| (id.clone(), terminate_instances)));
                CloudReply::Deleted { deleted: ids, failed: Vec::new() }
            }
            CloudRequest::TerminateInstances { ids } => {
                for instance in &mut bench.instances {
                    if ids.contains(&instance.id) {
                        instance.state = InstanceState::Terminated;
                    }
                }
                self.terminated.extend(ids.clone());
                CloudReply::Terminated { terminated: ids, unknown: Vec::new() }
            }
            CloudRequest::CreateTags { ids, tags } => {
                for instance in bench.instances.iter_mut().filter(|instance| ids.contains(&instance.id)) {
                    instance.tags.extend(tags.clone());
                }
                CloudReply::Tagged
            }
            CloudRequest::CancelSpotInstanceRequests { ids } => {
                self.cancelled += ids.len();
                CloudReply::Cancelled
            }
            CloudRequest::DescribeFleetHistory { .. } => CloudReply::History(self.history.clone()),
            CloudRequest::DescribeInstances { ids } => CloudReply::Instances(
                bench.instances.iter().filter(|instance| ids.contains(&instance.id)).cloned().collect(),
            ),
            _ => CloudReply::Instances(
                bench.instances.iter().filter(|i| !i.state.is_ended()).cloned().collect(),
            ),
        })
    }

    pub(super) fn answer(&mut self, bench: &mut Bench) {
        for _ in 0..200 {
            let listed = bench.effects.iter().filter(|effect| {
                matches!(effect, Effect::Cloud { request: CloudRequest::DescribeCluster { .. }, .. })
            });
            self.describes += listed.count();
            bench.answer_views();
            let Some(at) = bench.effects.iter().position(|e| matches!(e, Effect::Cloud { .. })) else {
                return;
            };
            let Effect::Cloud { call, request, .. } = bench.effects.remove(at) else { unreachable!() };
            self.describes += usize::from(request.action().starts_with("Describe"));
            let result = self.reply(bench, request);
            bench.give(Event::CloudAnswered { call, result });
        }
        panic!("never quiet");
    }

    pub(super) fn run(&mut self, bench: &mut Bench, seconds: u64) {
        for _ in 0..seconds {
            bench.tick(1_000);
            self.answer(bench);
        }
    }
}

pub(super) fn group_of_fleet() -> NodeGroup {
    let mut group = group("g");
    group.scope = FleetScope::Group;
    group.spot_options.instance_interruption_behavior = Some("hibernate".into());
    group.launch_template.version = Some("3".into());
    group
}

pub(super) fn site_of(groups: Vec<NodeGroup>) -> Event {
    Event::SiteChanged(Arc::new(Site::new("c".into(), Vec::new(), groups, Settings::default())))
}

/// These nodes have registered, each under its instance's address.
pub(super) fn registered(bench: &mut Bench, nodes: &[&str]) {
    for node in nodes {
        bench.set_slurm(node, NodeBase::Allocated, NodeFlags::CLOUD);
        let addr = bench.engine.binding(node).expect("a binding").addr.clone();
        bench.slurm.iter_mut().find(|known| known.name == *node).unwrap().addr = addr;
    }
    let ended = nodes.iter().map(|node| (*node).to_owned()).collect();
    bench.give(Event::Power(PowerReading { waking_ended: ended, ..PowerReading::default() }));
}

pub(super) fn suspend(bench: &mut Bench, node: &str) {
    bench.set_slurm(node, NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN));
    bench.give(Event::Power(PowerReading { suspended: vec![node.to_owned()], ..PowerReading::default() }));
}

pub(super) fn group_scope() -> (Bench, GroupEc2) {
    group_scope_of(|_| {})
}

pub(super) fn group_scope_of(change: impl Fn(&mut NodeGroup)) -> (Bench, GroupEc2) {
    let mut group = group_of_fleet();
    change(&mut group);
    let mut bench = Bench::with(group, Persisted::default());
    let mut ec2 = GroupEc2::new();
    bench.tick(0);
    ec2.answer(&mut bench);
    bench.wake(&["p-g-0", "p-g-1"]);
    ec2.run(&mut bench, 5);
    GroupEc2::launch(&mut bench, "fleet-g", "i-0");
    GroupEc2::launch(&mut bench, "fleet-g", "i-1");
    ec2.run(&mut bench, 5);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    registered(&mut bench, &["p-g-0", "p-g-1"]);
    (bench, ec2)
}

pub(super) fn of_history(sub_type: &str, bench: &Bench) -> FleetHistoryRecord {
    FleetHistoryRecord {
        unix_ms: bench.now.unix_ms,
        event_type: "error".into(),
        event_sub_type: sub_type.into(),
        description: "the limit of Spot instances is reached".into(),
        instance_id: None,
    }
}

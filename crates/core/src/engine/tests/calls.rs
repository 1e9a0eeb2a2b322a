// SPDX-License-Identifier: GPL-3.0-or-later
//! The order in which calls leave.

use std::collections::BTreeMap;

use super::group;
use super::*;
use crate::ec2_api::{CloudRequest, CreateFleet, FleetType};
use crate::engine::cx::calls::CloudPurpose;
use crate::event::Effect;
use crate::limits::ActionGroup;
use crate::record::{Intent, LaunchIntent, TagLevel};
use crate::site::{Account, Lifecycle, Settings};
use crate::slurm_api::{PowerReading, SlurmNode, SlurmRequest};

fn engine(persisted: Persisted) -> Engine {
    let site = Site::new("c".into(), Vec::new(), vec![group("g")], Settings::default());
    let options = EngineOptions { source: PowerSource::Watch, nonce: "abc".into(), seed: 7 };
    Engine::new(Arc::new(site), persisted, options, Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 })
}

fn create_fleet(token: &str) -> CloudRequest {
    CloudRequest::CreateFleet(Box::new(CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Instant,
        target: 1,
        lifecycle: Lifecycle::Spot,
        on_demand_options: Default::default(),
        spot_options: Default::default(),
        launch_template: Default::default(),
        overrides: Vec::new(),
        fleet_tags: BTreeMap::new(),
        instance_tags: BTreeMap::new(),
    }))
}

fn tags(level: TagLevel, account: Account) -> (CloudPurpose, CloudRequest) {
    let tags = BTreeMap::from([("level".to_owned(), format!("{level:?}"))]);
    let request = CloudRequest::CreateTags { ids: vec!["i-1".into()], tags };
    (CloudPurpose::Tags { account, intent: 0, nodes: Vec::new(), level }, request)
}

/// One call of each kind, the most urgent one last.
fn calls() -> Vec<(CloudPurpose, CloudRequest)> {
    let account = || group("g").account;
    let ids = || vec!["i-1".to_owned()];
    vec![
        tags(TagLevel::Full, account()),
        tags(TagLevel::Node, account()),
        (
            CloudPurpose::List { account: account(), started: 0 },
            CloudRequest::DescribeCluster { cluster: "c".into() },
        ),
        (
            CloudPurpose::DescribeLaunch { account: account(), intent: 1 },
            CloudRequest::DescribeInstances { ids: ids() },
        ),
        (CloudPurpose::Create { account: account(), intent: 1 }, create_fleet("t")),
        (
            CloudPurpose::DeleteFleets { account: account(), intent: 2 },
            CloudRequest::DeleteFleets { ids: vec!["fleet-1".into()], terminate_instances: true },
        ),
        (
            CloudPurpose::Terminate { account: account(), intent: 3 },
            CloudRequest::TerminateInstances { ids: ids() },
        ),
    ]
}

fn name(request: &CloudRequest) -> String {
    match request {
        CloudRequest::CreateTags { tags, .. } => format!("CreateTags {}", tags["level"]),
        CloudRequest::CreateFleet(request) => format!("CreateFleet {}", request.client_token),
        CloudRequest::DescribeCluster { .. } => "list".into(),
        other => other.action().into(),
    }
}

impl Engine {
    /// What leaves `ms` later.
    fn leaving_after(&mut self, ms: u64) -> Vec<String> {
        self.g.cx.now = self.g.cx.now.plus(ms);
        let _ = self.g.cx.send_outbox();
        let effects = std::mem::take(&mut self.g.cx.step.effects);
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Cloud { request, .. } => Some(name(request)),
                _ => None,
            })
            .collect()
    }

    fn drain(&mut self, bucket: ActionGroup) {
        let budget = self.g.cx.calls.budgets.entry(group("g").account).or_default();
        while budget.take(bucket, false, self.g.cx.now).is_ok() {}
    }
}

#[test]
fn terminations_leave_first_then_launches_then_the_rest_and_name_tags_last() {
    let mut engine = engine(Persisted::default());
    for (purpose, request) in calls() {
        engine.g.cx.cloud(purpose, request);
    }
    let order = engine.leaving_after(0);
    let places = |names: &[&str]| -> Vec<usize> {
        names.iter().map(|name| order.iter().position(|left| left == name).expect(name)).collect()
    };
    let ranks = [
        places(&["TerminateInstances", "DeleteFleets"]),
        places(&["CreateFleet t", "DescribeInstances"]),
        places(&["list", "CreateTags Node"]),
        places(&["CreateTags Full"]),
    ];
    assert_eq!(order.len(), 7);
    for pair in ranks.windows(2) {
        assert!(pair[0].iter().max() < pair[1].iter().min(), "{order:?}");
    }
}

#[test]
fn the_last_token_of_a_bucket_goes_to_the_most_urgent_call() {
    let mut engine = engine(Persisted::default());
    let buckets =
        [ActionGroup::Describe, ActionGroup::Mutate, ActionGroup::Terminate, ActionGroup::CreateTags];
    for bucket in buckets {
        engine.drain(bucket);
    }
    for (purpose, request) in calls() {
        engine.g.cx.cloud(purpose, request);
    }
    assert!(engine.leaving_after(0).is_empty());
    let mut order = Vec::new();
    // A token a tenth of a second for describes, two fifths for what changes something; Name tags leave 20 to the rest.
    for _ in 0..600 {
        order.extend(engine.leaving_after(10));
    }
    let place = |name: &str| order.iter().position(|left| left == name).expect(name);
    assert!(place("DescribeInstances") < place("list"), "{order:?}");
    assert!(place("DeleteFleets") < place("CreateFleet t"), "{order:?}");
    assert!(place("CreateTags Node") < place("CreateTags Full"), "{order:?}");
    assert_eq!(place("CreateTags Full"), 6, "{order:?}");
}

#[test]
fn what_an_earlier_process_began_leaves_before_new_launches() {
    let waking = |name: &str| SlurmNode {
        name: name.into(),
        base: NodeBase::Allocated,
        flags: NodeFlags::CLOUD.with(NodeFlags::POWERING_UP),
        ..SlurmNode::default()
    };
    let intent = Intent {
        unix_ms: 1_700_000_000_000,
        account: group("g").account,
        request: create_fleet("before"),
        launch: Some(LaunchIntent {
            group: "p-g".into(),
            nodes: vec!["p-g-5".into()],
            jobs: Default::default(),
        }),
    };
    let persisted = Persisted { open: BTreeMap::from([(7, intent)]), next_id: 8, ..Persisted::default() };
    let mut engine = engine(persisted);
    engine.drain(ActionGroup::Mutate);
    let now = engine.g.cx.now;
    let mut effects = engine.step(Event::Tick, now).effects;
    // The new power-up is seen first.
    let nodes = vec!["p-g-0".to_owned(), "p-g-5".to_owned()];
    let reading = PowerReading { full: true, waking: nodes, ..PowerReading::default() };
    effects.extend(engine.step(Event::Power(reading), now).effects);
    let mut order = Vec::new();
    while let Some(effect) = effects.pop() {
        let event = match effect {
            Effect::Cloud { call, request: CloudRequest::DescribeCluster { .. }, .. } => {
                let instances = crate::ec2_api::CloudReply::Instances(Vec::new());
                Event::CloudAnswered { call, result: Ok(instances) }
            }
            Effect::Slurm { call, request: SlurmRequest::LoadNodes } => {
                let nodes = vec![waking("p-g-0"), waking("p-g-5")];
                Event::SlurmAnswered { call, result: Ok(SlurmReply::Nodes(nodes)) }
            }
            _ => continue,
        };
        effects.extend(engine.step(event, now).effects);
    }
    for _ in 0..100 {
        let now = engine.g.cx.now.plus(10);
        for effect in engine.step(Event::Tick, now).effects {
            if let Effect::Cloud { request: request @ CloudRequest::CreateFleet(_), .. } = effect {
                order.push(name(&request));
            }
        }
    }
    assert_eq!(order, ["CreateFleet before", "CreateFleet ec2fleet-abc-1"]);
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Whatever is done to the world, what must hold of it holds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use crate::account::{Account, SPOT, texts};

#[derive(Debug, Clone)]
enum Step {
    Launch { count: u32, spot: bool, zone: usize },
    Maintain { count: u32, spot: bool, hibernate: bool },
    Terminate { which: usize },
    Stop { which: usize },
    Start { which: usize },
    Reboot { which: usize },
    Capacity { zone: usize, spot: bool, count: u32 },
    Interrupt { which: usize },
    Resume,
    Fail { which: usize },
    Zone { zone: usize, up: bool },
    DeleteFleet { which: usize, terminate: bool },
    Modify { which: usize, total: u32, terminate: bool },
    Pass { seconds: i64 },
}

const SUBNETS: [&str; 3] = ["subnet-aaaa", "subnet-bbbb", "subnet-cccc"];
const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

fn step() -> impl Strategy<Value = Step> {
    let which = 0usize..40;
    prop_oneof![
        3 => (1u32..6, any::<bool>(), 0usize..3).prop_map(|(count, spot, zone)| Step::Launch { count, spot, zone }),
        3 => (1u32..4, any::<bool>(), any::<bool>()).prop_map(|(count, spot, hibernate)| Step::Maintain { count, spot, hibernate }),
        2 => which.clone().prop_map(|which| Step::Terminate { which }),
        1 => which.clone().prop_map(|which| Step::Stop { which }),
        1 => which.clone().prop_map(|which| Step::Start { which }),
        1 => which.clone().prop_map(|which| Step::Reboot { which }),
        2 => (0usize..3, any::<bool>(), 0u32..5).prop_map(|(zone, spot, count)| Step::Capacity { zone, spot, count }),
        2 => which.clone().prop_map(|which| Step::Interrupt { which }),
        1 => Just(Step::Resume),
        1 => which.clone().prop_map(|which| Step::Fail { which }),
        1 => (0usize..3, any::<bool>()).prop_map(|(zone, up)| Step::Zone { zone, up }),
        1 => (which.clone(), any::<bool>()).prop_map(|(which, terminate)| Step::DeleteFleet { which, terminate }),
        1 => (which, 0u32..5, any::<bool>()).prop_map(|(which, total, terminate)| Step::Modify { which, total, terminate }),
        4 => (0i64..200).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

struct Play {
    account: Account,
    template: String,
    fleets: Vec<String>,
    states: BTreeMap<String, String>,
}

impl Play {
    fn new() -> Self {
        let mut account = Account::with(
            r#"{"images": [{"id": "ami-0a1b2c3d4e5f60718", "encrypted": true, "root_gib": 30}]}"#,
        );
        let template = account.template(&[("LaunchTemplateData.HibernationOptions.Configured", "true")]);
        Self { account, template, fleets: Vec::new(), states: BTreeMap::new() }
    }

    fn pick(&self, which: usize) -> Option<String> {
        let instances = self.account.world.instances();
        let instance = instances.get(which % instances.len().max(1))?;
        instance["instance_id"].as_str().map(str::to_owned)
    }

    fn command(&mut self, json: &Value) {
        // A command may have nothing to do any more.
        let _refused = self.account.world.command(serde_json::from_value(json.clone()).unwrap());
    }

    fn on_instance(&mut self, action: &str, which: usize) {
        if let Some(id) = self.pick(which) {
            self.account.call(action, &[("InstanceId.1", &id)]);
        }
    }

    fn run(&mut self, step: &Step) {
        let template = self.template.clone();
        match *step {
            Step::Launch { count, spot, zone } => {
                let more: &[(&str, &str)] = if spot { &[SPOT] } else { &[] };
                let made = self.account.fleet("instant", &template, &[SUBNETS[zone]], count, more);
                self.fleets.extend(texts(&made, "fleetId"));
            }
            Step::Maintain { count, spot, hibernate } => {
                let behavior = (
                    "SpotOptions.InstanceInterruptionBehavior",
                    if hibernate { "hibernate" } else { "terminate" },
                );
                let more: &[(&str, &str)] = if spot { &[SPOT, behavior] } else { &[] };
                let made = self.account.fleet("maintain", &template, &SUBNETS, count, more);
                self.fleets.extend(texts(&made, "fleetId"));
            }
            Step::Terminate { which } => self.on_instance("TerminateInstances", which),
            Step::Stop { which } => self.on_instance("StopInstances", which),
            Step::Start { which } => self.on_instance("StartInstances", which),
            Step::Reboot { which } => self.on_instance("RebootInstances", which),
            Step::Capacity { zone, spot, count } => {
                let lifecycle = if spot { "spot" } else { "on-demand" };
                self.command(&serde_json::json!({"pool": {"zone": ZONES[zone], "lifecycle": lifecycle, "capacity": count}}));
            }
            Step::Interrupt { which } => {
                if let Some(id) = self.pick(which) {
                    self.command(&serde_json::json!({"interrupt": {"instances": [id], "hold_ms": 50_000}}));
                }
            }
            Step::Resume => self.command(&serde_json::json!({"resume": {}})),
            Step::Fail { which } => {
                if let Some(id) = self.pick(which) {
                    self.command(&serde_json::json!({"fail": {"instances": [id]}}));
                }
            }
            Step::Zone { zone, up } => {
                self.command(&serde_json::json!({"zone": {"name": ZONES[zone], "available": up}}));
            }
            Step::DeleteFleet { which, terminate } => {
                if let Some(fleet) = self.fleets.get(which % self.fleets.len().max(1)).cloned() {
                    let terminate = if terminate { "true" } else { "false" };
                    self.account
                        .call("DeleteFleets", &[("FleetId.1", &fleet), ("TerminateInstances", terminate)]);
                }
            }
            Step::Modify { which, total, terminate } => {
                if let Some(fleet) = self.fleets.get(which % self.fleets.len().max(1)).cloned() {
                    let policy = if terminate { "termination" } else { "no-termination" };
                    self.account.call(
                        "ModifyFleet",
                        &[
                            ("FleetId", &fleet),
                            ("TargetCapacitySpecification.TotalTargetCapacity", &total.to_string()),
                            ("ExcessCapacityTerminationPolicy", policy),
                        ],
                    );
                }
            }
            Step::Pass { seconds } => self.account.pass(seconds),
        }
    }

    fn check(&mut self) {
        let instances = self.account.world.instances();
        let mut addresses = BTreeSet::new();
        let mut used: BTreeMap<String, u64> = BTreeMap::new();
        for instance in &instances {
            let id = instance["instance_id"].as_str().unwrap().to_owned();
            let state = instance["state"].as_str().unwrap().to_owned();
            if state != "terminated" {
                let address = instance["private_ip"].as_str().unwrap();
                assert!(addresses.insert(address.to_owned()), "{address} is used twice");
            }
            if !matches!(state.as_str(), "terminated" | "stopped") {
                let part = |name: &str| instance[name].as_str().unwrap();
                let pool = format!("{}/{}/{}", part("instance_type"), part("zone"), part("lifecycle"));
                *used.entry(pool).or_default() += 1;
            }
            let before = self.states.insert(id.clone(), state.clone());
            if before.as_deref() == Some("terminated") {
                assert_eq!(state, "terminated", "{id} came back from the dead");
            }
            if instance["hibernated"] == true {
                assert!(
                    ["stopping", "stopped", "pending"].contains(&state.as_str()),
                    "{id} sleeps in {state}"
                );
            }
            if instance["interrupted"] == true {
                assert!(["stopping", "stopped"].contains(&state.as_str()), "{id} is interrupted in {state}");
            }
        }
        for pool in self.account.world.pools() {
            let name = pool["pool"].as_str().unwrap();
            assert_eq!(pool["used"].as_u64().unwrap(), used.get(name).copied().unwrap_or(0), "{name}");
        }
        let described = texts(&self.account.ok("DescribeInstances", &[]), "privateDnsName").len();
        assert!(described >= instances.len());
    }

    /// With capacity back and time enough, what waits is served and what was deleted is gone.
    fn settle(&mut self) {
        for zone in ZONES {
            self.command(&serde_json::json!({"zone": {"name": zone, "available": true}}));
        }
        self.command(&serde_json::json!({"pool": {"capacity": 1000}}));
        self.account.pass(3600);
        self.check();
        for instance in self.account.world.instances() {
            let state = instance["state"].as_str().unwrap();
            assert!(["running", "stopped", "terminated"].contains(&state), "stuck in {state}");
            assert_ne!(instance["interrupted"], true, "capacity is back and it still sleeps");
        }
        let fleets = self.account.ok("DescribeFleets", &[]);
        for fleet in fleets.split("<activityStatus>").skip(1) {
            let state = texts(fleet, "fleetState").remove(0);
            let kind = texts(fleet, "type").remove(0);
            if kind == "maintain" && state == "active" {
                let target: f64 = texts(fleet, "totalTargetCapacity")[0].parse().unwrap();
                let fulfilled: f64 = texts(fleet, "fulfilledCapacity")[0].parse().unwrap();
                assert!(fulfilled >= target, "{fulfilled} of {target}: {fleet}");
            }
            assert!(!["submitted", "modifying", "deleted_terminating"].contains(&state.as_str()), "{state}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn invariants(steps in prop::collection::vec(step(), 1..60)) {
        let mut play = Play::new();
        for step in &steps {
            play.run(step);
            play.check();
        }
        play.settle();
    }
}

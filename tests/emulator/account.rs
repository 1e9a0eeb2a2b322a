// SPDX-License-Identifier: GPL-3.0-or-later
//! An account on a world in virtual time, without sockets.

use ec2fleet_emulator::{Command, Reply, Request, Scenario, World};

pub struct Account {
    pub world: World,
    now: i64,
}

/// 2025-01-31T20:00:00Z
pub const START: i64 = 1_738_353_600_000;

impl Account {
    pub fn new(scenario: Scenario) -> Self {
        let world = World::new(scenario, START);
        let now = world.now();
        Self { world, now }
    }

    /// From the JSON of a scenario.
    pub fn with(json: &str) -> Self {
        Self::new(Scenario::from_json(json).unwrap())
    }

    pub fn example(name: &str) -> Self {
        let path = format!("{}/../../examples/scenarios/{name}.json", env!("CARGO_MANIFEST_DIR"));
        Self::with(&std::fs::read_to_string(path).unwrap())
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += seconds * 1000;
        self.world.advance(self.now);
    }

    pub fn call(&mut self, action: &str, parameters: &[(&str, &str)]) -> Reply {
        let mut all = vec![("Action".to_owned(), action.to_owned())];
        all.extend(parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let request = Request { parameters: all, ..Request::default() };
        self.world.handle(&request, self.now)
    }

    /// A call that must succeed; gives the body.
    pub fn ok(&mut self, action: &str, parameters: &[(&str, &str)]) -> String {
        let reply = self.call(action, parameters);
        assert_eq!(reply.status, 200, "{action}: {}", reply.body);
        reply.body
    }

    /// A call that must fail; gives the error code.
    pub fn fail(&mut self, action: &str, parameters: &[(&str, &str)]) -> String {
        let reply = self.call(action, parameters);
        assert_ne!(reply.status, 200, "{action}");
        texts(&reply.body, "Code").remove(0)
    }

    pub fn command(&mut self, json: &str) {
        let command: Command = serde_json::from_str(json).unwrap();
        self.world.command(command).unwrap();
    }

    pub fn template(&mut self, more: &[(&str, &str)]) -> String {
        let mut parameters = vec![
            ("LaunchTemplateName", "template"),
            ("LaunchTemplateData.ImageId", "ami-0a1b2c3d4e5f60718"),
            ("LaunchTemplateData.InstanceType", "c5.large"),
        ];
        parameters.extend_from_slice(more);
        texts(&self.ok("CreateLaunchTemplate", &parameters), "launchTemplateId").remove(0)
    }

    /// A fleet over c5.large in the given subnets; gives the answer.
    pub fn fleet(
        &mut self,
        kind: &str,
        template: &str,
        subnets: &[&str],
        total: u32,
        more: &[(&str, &str)],
    ) -> String {
        let total = total.to_string();
        let names: Vec<(String, &str)> = subnets
            .iter()
            .enumerate()
            .map(|(at, subnet)| (format!("LaunchTemplateConfigs.1.Overrides.{}.SubnetId", at + 1), *subnet))
            .collect();
        let mut parameters = vec![
            ("Type", kind),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId", template),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "1"),
            ("TargetCapacitySpecification.TotalTargetCapacity", &total),
        ];
        parameters.extend(names.iter().map(|(name, subnet)| (name.as_str(), *subnet)));
        parameters.extend_from_slice(more);
        self.ok("CreateFleet", &parameters)
    }

    /// How many instances are in a state.
    pub fn count(&self, state: &str) -> usize {
        self.world.instances().iter().filter(|instance| instance["state"] == state).count()
    }

    pub fn count_in(&self, state: &str, zone: &str) -> usize {
        self.world
            .instances()
            .iter()
            .filter(|instance| instance["state"] == state && instance["zone"] == zone)
            .count()
    }
}

pub const SPOT: (&str, &str) = ("TargetCapacitySpecification.DefaultTargetCapacityType", "spot");

/// The texts of every element of this name, in document order.
pub fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split_once(&close).map(|(text, _)| text.to_owned()))
        .collect()
}

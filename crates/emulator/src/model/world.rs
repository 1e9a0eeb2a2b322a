// SPDX-License-Identifier: GPL-3.0-or-later
//! The world: regions, their common clock, faults, throttling and the log of requests. It does no I/O and
//! reads no clock: the same seed, requests and times give the same answers.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::query::{self, Node};
use crate::api::throttle::Throttle;
use crate::api::xml::Xml;
use crate::control::command::{Choice, Command};
use crate::control::faults::Faults;
use crate::control::scenario::{DenyRule, Scenario, matches};
use crate::model::instance::{Instance, Maintenance, State};
use crate::model::region::{Region, Signal};
use crate::model::time::{HOUR, Millis, parse};

/// The log keeps this many requests; the counts keep all.
const LOG_LENGTH: usize = 200_000;

/// One API call.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The region of the request's signature; empty means the scenario's region.
    pub region: String,
    pub access_key: String,
    /// Decoded form parameters, with `Action` and `Version`.
    pub parameters: Vec<(String, String)>,
    /// Real time of arrival, nanoseconds since the Unix epoch, for the log alone.
    pub arrival_ns: u128,
}

/// The answer to one API call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    /// Virtual time to wait before answering.
    pub latency: Millis,
    /// The action was done, but nothing must be answered.
    pub lost: bool,
}

/// One line of the log of requests.
#[derive(Debug, Clone, Serialize)]
pub struct LogEntry {
    /// 1, 2, 3 … A mark is such a number.
    pub seq: u64,
    pub action: String,
    pub region: String,
    /// Real time of arrival, nanoseconds since the Unix epoch.
    pub arrival_ns: u128,
    /// Virtual time, ms since the Unix epoch.
    pub at_ms: Millis,
    pub status: u16,
    /// EC2's error code, if the answer was an error.
    pub error: Option<String>,
    pub client_token: Option<String>,
    pub lost: bool,
}

/// The whole emulated account.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    regions: BTreeMap<String, Region>,
    now: Millis,
    rng: fastrand::Rng,
    faults: Faults,
    throttle: Throttle,
    log: VecDeque<LogEntry>,
    seq: u64,
    counts: BTreeMap<String, u64>,
    timeline: VecDeque<(Millis, Command)>,
}

impl World {
    /// A world at virtual time `now`, or at the scenario's own start time.
    pub fn new(scenario: Scenario, now: Millis) -> Self {
        let start = scenario.start_time.as_deref().and_then(parse).unwrap_or(now);
        let mut timeline: Vec<(Millis, Command)> = scenario
            .timeline
            .iter()
            .map(|entry| {
                #[allow(clippy::cast_possible_truncation)]
                let at = (entry.at_s * 1000.0) as Millis;
                (start + at, entry.command.clone())
            })
            .collect();
        timeline.sort_by_key(|(at, _)| *at);
        let mut world = Self {
            regions: BTreeMap::new(),
            now: start,
            rng: crate::model::region::generator(scenario.seed, "account"),
            faults: Faults::new(scenario.faults.clone()),
            throttle: Throttle::default(),
            log: VecDeque::new(),
            seq: 0,
            counts: BTreeMap::new(),
            timeline: timeline.into(),
            scenario,
        };
        let region = world.scenario.region.clone();
        world.region(&region);
        world
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    fn region(&mut self, name: &str) -> &mut Region {
        let name = if name.is_empty() { self.scenario.region.clone() } else { name.to_owned() };
        let number = self.regions.len();
        let (scenario, now) = (&self.scenario, self.now);
        self.regions.entry(name).or_insert_with_key(|name| Region::new(name, number, scenario, now))
    }

    /// When something happens next by itself.
    pub fn next_event_at(&self) -> Option<Millis> {
        let regions = self.regions.values().filter_map(Region::next_event_at);
        regions.chain(self.timeline.front().map(|(at, _)| *at)).min()
    }

    /// Lets virtual time pass until `now`; earlier times change nothing.
    pub fn advance(&mut self, now: Millis) {
        while let Some(due) = self.next_event_at().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            for region in self.regions.values_mut() {
                region.advance(due);
            }
            while self.timeline.front().is_some_and(|(at, _)| *at <= due) {
                if let Some((_, command)) = self.timeline.pop_front() {
                    // A command of the timeline that names nothing that exists has nothing to do.
                    let _nothing = self.command(command);
                }
            }
        }
        self.now = self.now.max(now);
        for region in self.regions.values_mut() {
            region.advance(self.now);
        }
    }

    /// What happened to instances since the last call, for the hooks.
    pub fn take_signals(&mut self) -> Vec<Signal> {
        let mut signals: Vec<Signal> =
            self.regions.values_mut().flat_map(|region| std::mem::take(&mut region.signals)).collect();
        signals.sort_by_key(|signal| signal.at);
        signals
    }

    /// Answers one API call at virtual time `now`.
    pub fn handle(&mut self, request: &Request, now: Millis) -> Reply {
        self.advance(now);
        let find = |wanted: &str| {
            request.parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let action = find("Action").unwrap_or_default().to_owned();
        let sts = find("Version") == Some("2011-06-15");
        let node = Node::parse(request.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let region_name =
            if request.region.is_empty() { self.scenario.region.clone() } else { request.region.clone() };
        let verdict = self.faults.judge(&action, &mut self.rng);
        let result = match verdict.error {
            Some(error) => Err(error),
            None if self.scenario.throttle
                && !sts
                && !self.throttle.admit(&region_name, &action, &node, self.now) =>
            {
                Err(ApiError::new("RequestLimitExceeded", "Request limit exceeded."))
            }
            None => self.act(&action, sts, &region_name, &request.access_key, &node),
        };
        let request_id = self.region(&region_name).new_uuid();
        let (status, error) = match &result {
            Ok(_) => (200, None),
            Err(error) => (error.status, Some(error.code.to_string())),
        };
        let body = match result {
            Ok(body) if sts => format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{body}</{action}Result><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
            ),
            Ok(body) => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{request_id}</requestId>{body}</{action}Response>"
            ),
            Err(error) => error_body(&error, sts, &request_id),
        };
        self.seq += 1;
        *self.counts.entry(action.clone()).or_default() += 1;
        self.log.push_back(LogEntry {
            seq: self.seq,
            action,
            region: region_name,
            arrival_ns: request.arrival_ns,
            at_ms: self.now,
            status,
            error,
            client_token: node.owned("ClientToken"),
            lost: verdict.lost_reply,
        });
        if self.log.len() > LOG_LENGTH {
            self.log.pop_front();
        }
        Reply { status, body, latency: verdict.latency, lost: verdict.lost_reply }
    }

    fn act(
        &mut self,
        action: &str,
        sts: bool,
        region_name: &str,
        access_key: &str,
        node: &Node,
    ) -> Result<String, ApiError> {
        if action.is_empty() {
            return Err(ApiError::new(
                "MissingAction",
                "The request is missing an action or a required parameter.",
            ));
        }
        self.authorize(action, sts, access_key)?;
        if sts {
            return self.act_sts(action, node);
        }
        query::check(action, node)?;
        if action != "CreateTags" && node.at("TagSpecification").is_some() {
            // To tag at creation needs the permission for ec2:CreateTags as well.
            self.authorize("CreateTags", false, access_key)?;
        }
        let may_launch = self.authorize("RunInstances", false, access_key);
        let mut xml = Xml::new();
        let region = self.region(region_name);
        if node.flag("DryRun") == Some(true) {
            if action == "RunInstances" {
                region.dry_run_instances(node)?;
            }
            return Err(ApiError::dry_run());
        }
        // A fleet whose caller may not call RunInstances is made; its instances are refused one pool after the other.
        region.launch_denied = may_launch.err();
        let done = dispatch(region, action, node, &mut xml);
        region.launch_denied = None;
        done.map(|()| xml.finish())
    }

    fn authorize(&self, action: &str, sts: bool, access_key: &str) -> Result<(), ApiError> {
        let name = format!("{}:{action}", if sts { "sts" } else { "ec2" });
        let denied = self
            .scenario
            .deny
            .iter()
            .any(|rule| matches(&rule.action, &name) && matches(&rule.access_key, access_key));
        if !denied {
            return Ok(());
        }
        if sts {
            return Err(ApiError {
                code: "AccessDenied".into(),
                status: 403,
                message: format!(
                    "User: arn:aws:iam::{}:user/emulated is not authorized to perform: {name}",
                    self.scenario.account
                ),
            });
        }
        let message = json!({
            "allowed": false,
            "explicitDeny": false,
            "context": {
                "principal": {"arn": format!("arn:aws:iam::{}:user/emulated", self.scenario.account)},
                "action": name,
            },
        });
        let encoded = crate::api::base64::encode(message.to_string().as_bytes());
        Err(ApiError::new(
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: arn:aws:iam::{}:user/emulated is not authorized to perform: {name} because no identity-based policy allows the {name} action. Encoded authorization failure message: {encoded}",
                self.scenario.account
            ),
        ))
    }

    fn act_sts(&self, action: &str, node: &Node) -> Result<String, ApiError> {
        let mut xml = Xml::new();
        match action {
            "GetCallerIdentity" => {
                xml.text("UserId", "AIDAEMULATED000000000");
                xml.text("Account", &self.scenario.account);
                xml.text("Arn", &format!("arn:aws:iam::{}:user/emulated", self.scenario.account));
            }
            "DecodeAuthorizationMessage" => {
                let encoded = node.required("EncodedMessage")?;
                let decoded = crate::api::base64::decode(encoded)
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(|| {
                        ApiError::new(
                            "InvalidAuthorizationMessageException",
                            "The content of the message is not valid.",
                        )
                    })?;
                xml.text("DecodedMessage", &decoded);
            }
            other => {
                return Err(ApiError::new(
                    "InvalidAction",
                    format!("Could not find operation {other} for version 2011-06-15"),
                ));
            }
        }
        Ok(xml.finish())
    }

    /// The region and instance of an id.
    pub(crate) fn find_instance(&self, id: &str) -> Option<(&Region, &Instance)> {
        self.regions.values().find_map(|region| region.instances.get(id).map(|instance| (region, instance)))
    }

    /// The instance that has the memory of this one now.
    pub(crate) fn find_memory_of(&self, id: &str) -> Option<(&Region, &Instance)> {
        self.regions.values().find_map(|region| {
            let found =
                region.instances.iter().find(|instance| instance.memory_of == id && instance.id != id)?;
            Some((region, found))
        })
    }

    // What follows is the control side.

    /// How many requests were handled; calls and log entries after this mark have higher numbers.
    pub fn mark(&self) -> u64 {
        self.seq
    }

    /// Calls per action after a mark. Marks older than the log count from the log's start;
    /// mark 0 counts every call.
    pub fn calls(&self, since: u64) -> BTreeMap<String, u64> {
        if since == 0 {
            return self.counts.clone();
        }
        let mut counts = BTreeMap::new();
        for entry in self.log.iter().filter(|entry| entry.seq > since) {
            *counts.entry(entry.action.clone()).or_default() += 1;
        }
        counts
    }

    pub fn log(&self, since: u64) -> impl Iterator<Item = &LogEntry> {
        self.log.iter().filter(move |entry| entry.seq > since)
    }

    /// Every instance of every region, also the ended ones that are still visible.
    pub fn instances(&self) -> Vec<Value> {
        self.regions
            .values()
            .flat_map(|region| {
                region.instances.iter().map(move |instance| {
                    let tags: serde_json::Map<String, Value> = region
                        .tags_of(&instance.id)
                        .iter()
                        .map(|(key, value)| (key.clone(), Value::from(value.clone())))
                        .collect();
                    json!({
                        "instance_id": instance.id,
                        "region": region.name,
                        "state": instance.state,
                        "instance_type": instance.facts.name,
                        "zone": instance.zone,
                        "subnet_id": instance.subnet,
                        "private_ip": instance.private_ip.to_string(),
                        "lifecycle": instance.lifecycle,
                        "image_id": instance.image,
                        "reservation_id": instance.reservation,
                        "launch_index": instance.launch_index,
                        "fleet_id": instance.fleet,
                        "spot_request_id": instance.spot_request,
                        "launched_ms": instance.first_launched,
                        "running_ms": instance.running_since,
                        "terminated_ms": instance.terminated_at,
                        "hibernated": instance.hibernated,
                        "interrupted": instance.interrupted,
                        "interruption_due_ms": instance.notice.as_ref().map(|notice| notice.due),
                        "tags": tags,
                    })
                })
            })
            .collect()
    }

    /// The instances whose processes live now, as a hook would be told of their end.
    pub fn farewell(&self) -> Vec<Signal> {
        self.regions
            .values()
            .flat_map(|region| {
                region
                    .instances
                    .iter()
                    .filter(|instance| instance.state == State::Running)
                    .map(|instance| region.signal_of(instance, crate::model::region::Moment::End))
                    .chain(region.volumes.values().filter_map(|volume| volume.memory.as_deref().cloned()))
            })
            .collect()
    }

    /// Pools that are or were in use, with capacity, use and price.
    pub fn pools(&self) -> Vec<Value> {
        self.regions
            .values()
            .flat_map(|region| {
                region.pools.keys().map(move |key| {
                    let price = crate::model::catalog::find(key.instance_type)
                        .map(|facts| region.pools.price(key, facts));
                    json!({
                        "pool": key.to_string(),
                        "region": region.name,
                        "capacity": region.pools.capacity(key),
                        "used": region.pools.used(key),
                        "price": price,
                    })
                })
            })
            .collect()
    }

    /// Does a command; says what it did.
    ///
    /// # Errors
    /// What was wrong with the command.
    pub fn command(&mut self, command: Command) -> Result<Value, String> {
        match command {
            Command::Pool(rule) => {
                if rule.capacity.is_none() && rule.price.is_none() {
                    return Err("a pool command needs a capacity or a price".to_owned());
                }
                crate::model::capacity::add_rule(&mut self.scenario.pools, rule.clone());
                for region in self.regions.values_mut() {
                    region.pools.add_rule(rule.clone());
                    region.release_holds(&rule);
                    region.pools_changed();
                }
                Ok(json!({"pools": self.pools()}))
            }
            Command::Interrupt { choice, hold_ms } => {
                let until = hold_ms.map_or(Millis::MAX, |hold| self.now + hold);
                self.each(
                    &choice,
                    |instance| instance.is_spot() && instance.state == State::Running,
                    |region, id| region.interrupt(id, Some(until)),
                )
            }
            Command::Resume(choice) => self.each(
                &choice,
                |instance| instance.interrupted,
                |region, id| {
                    if let Some(instance) = region.instances.get_mut(id) {
                        instance.held_until = None;
                    }
                    region.hold_over(id);
                    true
                },
            ),
            Command::Rebalance(choice) => {
                let now = self.now;
                self.each(
                    &choice,
                    |instance| instance.is_spot() && instance.state == State::Running,
                    |region, id| {
                        if let Some(instance) = region.instances.get_mut(id) {
                            instance.rebalance = Some(now);
                        }
                        region.rebalance_member(id);
                        true
                    },
                )
            }
            Command::Fail(choice) => self.each(
                &choice,
                |instance| instance.state.alive(),
                |region, id| {
                    region.terminate(
                        id,
                        ("Server.InternalError", "Server.InternalError: The host of the instance failed"),
                        "instance-terminated-no-capacity",
                    );
                    true
                },
            ),
            Command::Impair { choice, impaired } => {
                let now = self.now;
                self.each(
                    &choice,
                    |instance| instance.state == State::Running,
                    |region, id| {
                        if let Some(instance) = region.instances.get_mut(id) {
                            instance.impaired = impaired.then_some(now);
                        }
                        if impaired {
                            region.replace_unhealthy(id);
                        }
                        true
                    },
                )
            }
            Command::Event { choice, code, in_ms } => {
                const CODES: [&str; 5] = [
                    "instance-retirement",
                    "instance-stop",
                    "instance-reboot",
                    "system-reboot",
                    "system-maintenance",
                ];
                if !CODES.contains(&code.as_str()) {
                    return Err(format!("event code {code:?} is not one of {CODES:?}"));
                }
                let due = self.now + in_ms;
                self.each(
                    &choice,
                    |instance| instance.state.alive(),
                    |region, id| {
                        let event = region.new_id("instance-event");
                        if let Some(instance) = region.instances.get_mut(id) {
                            instance.maintenance.push(Maintenance {
                                id: event.clone(),
                                code: code.clone(),
                                not_before: due,
                                not_after: due + 2 * HOUR,
                            });
                        }
                        region.agenda.set(
                            due,
                            crate::model::region::Event::Maintenance { instance: id.to_owned(), event },
                        );
                        true
                    },
                )
            }
            Command::Zone { name, available } => self.set_zone(&name, available),
            Command::Fault(fault) => {
                self.faults.add(fault);
                Ok(json!({"faults": self.faults.list()}))
            }
            Command::ClearFaults { action } => {
                let cleared = self.faults.clear(&action);
                Ok(json!({"cleared": cleared, "faults": self.faults.list()}))
            }
            Command::Boot(rule) => {
                self.rules(|rules| rules.boots.insert(0, rule.clone()));
                Ok(json!({"boots": self.scenario.boots}))
            }
            Command::ClearBoots {} => {
                self.rules(|rules| rules.boots.clear());
                Ok(json!({"boots": []}))
            }
            Command::Throttle { enabled } => {
                self.scenario.throttle = enabled;
                self.throttle = Throttle::default();
                Ok(json!({"throttle": enabled}))
            }
            Command::Delays(delays) => {
                self.rules(|rules| rules.delays = delays.clone());
                Ok(json!({"delays": delays}))
            }
            Command::Limits(limits) => {
                self.rules(|rules| rules.limits = limits.clone());
                Ok(json!({"limits": limits}))
            }
            Command::Consistency { ms } => {
                self.rules(|rules| rules.consistency_ms = ms);
                Ok(json!({"consistency_ms": ms}))
            }
            Command::Deny { action, access_key, denied } => {
                self.scenario.deny.retain(|rule| rule.action != action || rule.access_key != access_key);
                if denied {
                    self.scenario.deny.push(DenyRule { action, access_key });
                }
                Ok(json!({"deny": self.scenario.deny}))
            }
            Command::ReplaceWhileHibernated { enabled } => {
                self.rules(|rules| rules.replace_while_hibernated = enabled);
                Ok(json!({"replace_while_hibernated": enabled}))
            }
        }
    }

    /// Changes the rules here and in every region.
    fn rules(&mut self, change: impl Fn(&mut Scenario)) {
        change(&mut self.scenario);
        for region in self.regions.values_mut() {
            change(&mut region.rules);
        }
    }

    fn set_zone(&mut self, name: &str, available: bool) -> Result<Value, String> {
        let mut known = false;
        let mut lost = Vec::new();
        for region in self.regions.values_mut() {
            let zones = region.zone_names();
            let Some(zone) =
                zones.iter().find(|zone| *zone == name || zone.strip_prefix(&region.name) == Some(name))
            else {
                continue;
            };
            known = true;
            region.pools.set_zone(zone, available);
            if available {
                region.pools_changed();
                continue;
            }
            let ids: Vec<String> = region
                .instances
                .iter()
                .filter(|instance| instance.zone == *zone && instance.state.alive())
                .filter(|instance| instance.state != State::Stopped)
                .map(|instance| instance.id.clone())
                .collect();
            for id in ids {
                region.terminate(
                    &id,
                    ("Server.InternalError", "Server.InternalError: The Availability Zone is impaired"),
                    "instance-terminated-no-capacity",
                );
                lost.push(id);
            }
        }
        if known {
            Ok(json!({"zone": name, "available": available, "lost": lost}))
        } else {
            Err(format!("there is no zone {name:?}"))
        }
    }

    fn each(
        &mut self,
        choice: &Choice,
        fits: impl Fn(&Instance) -> bool,
        mut act: impl FnMut(&mut Region, &str) -> bool,
    ) -> Result<Value, String> {
        let mut chosen: Vec<(String, String)> = Vec::new();
        for region in self.regions.values() {
            for instance in region.instances.iter().filter(|instance| fits(instance)) {
                let tags = region.tags_of(&instance.id);
                let tagged = choice
                    .tags
                    .iter()
                    .all(|(key, value)| tags.iter().any(|(k, v)| k == key && matches(value, v)));
                let named = choice.instances.is_empty() || choice.instances.contains(&instance.id);
                if named
                    && tagged
                    && matches(&choice.instance_type, instance.facts.name)
                    && matches(&choice.zone, &instance.zone)
                    && matches(&choice.lifecycle, instance.lifecycle.name())
                {
                    chosen.push((region.name.clone(), instance.id.clone()));
                }
            }
        }
        if !choice.instances.is_empty() {
            let missing: Vec<&String> = choice
                .instances
                .iter()
                .filter(|id| !chosen.iter().any(|(_, chosen)| chosen == *id))
                .collect();
            if !missing.is_empty() {
                return Err(format!("not an instance that this can be done to: {missing:?}"));
            }
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let part = (chosen.len() as f64 * choice.part.clamp(0.0, 1.0)).ceil() as usize;
        let most = choice.count.unwrap_or(usize::MAX).min(part);
        if most < chosen.len() {
            self.rng.shuffle(&mut chosen);
            chosen.truncate(most);
        }
        let mut done = Vec::new();
        for (region, id) in chosen {
            if let Some(region) = self.regions.get_mut(&region)
                && act(region, &id)
            {
                done.push(id);
            }
        }
        Ok(json!({"instances": done}))
    }
}

fn error_body(error: &ApiError, sts: bool, request_id: &str) -> String {
    let mut xml = Xml::new();
    if sts {
        xml.node("Error", |xml| {
            xml.text("Type", "Sender");
            xml.text("Code", &error.code);
            xml.text("Message", &error.message);
        });
        let inner = xml.finish();
        return format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">{inner}<RequestId>{request_id}</RequestId></ErrorResponse>"
        );
    }
    xml.node("Response", |xml| {
        xml.node("Errors", |xml| {
            xml.node("Error", |xml| {
                xml.text("Code", &error.code);
                xml.text("Message", &error.message);
            });
        });
        xml.text("RequestID", request_id);
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", xml.finish())
}

fn dispatch(region: &mut Region, action: &str, node: &Node, xml: &mut Xml) -> Result<(), ApiError> {
    match action {
        "AttachNetworkInterface" => region.attach_network_interface(node, xml),
        "AttachVolume" => region.attach_volume(node, xml),
        "CancelCapacityReservation" => region.cancel_capacity_reservation(node, xml),
        "CancelSpotInstanceRequests" => region.cancel_spot_instance_requests(node, xml),
        "CreateCapacityReservation" => region.create_capacity_reservation(node, xml),
        "CreateFleet" => region.create_fleet(node, xml),
        "CreateLaunchTemplate" => region.create_launch_template(node, xml),
        "CreateLaunchTemplateVersion" => region.create_launch_template_version(node, xml),
        "CreateNetworkInterface" => region.create_network_interface(node, xml),
        "CreatePlacementGroup" => region.create_placement_group(node, xml),
        "CreateTags" => region.create_tags(node, xml),
        "CreateVolume" => region.create_volume(node, xml),
        "DeleteFleets" => region.delete_fleets(node, xml),
        "DeleteLaunchTemplate" => region.delete_launch_template(node, xml),
        "DeleteNetworkInterface" => region.delete_network_interface(node, xml),
        "DeletePlacementGroup" => region.delete_placement_group(node, xml),
        "DeleteTags" => region.delete_tags(node, xml),
        "DeleteVolume" => region.delete_volume(node, xml),
        "DescribeAccountAttributes" => region.describe_account_attributes(node, xml),
        "DescribeAvailabilityZones" => region.describe_availability_zones(node, xml),
        "DescribeCapacityReservations" => region.describe_capacity_reservations(node, xml),
        "DescribeFleetHistory" => region.describe_fleet_history(node, xml),
        "DescribeFleetInstances" => region.describe_fleet_instances(node, xml),
        "DescribeFleets" => region.describe_fleets(node, xml),
        "DescribeImages" => region.describe_images(node, xml),
        "DescribeInstanceAttribute" => region.describe_instance_attribute(node, xml),
        "DescribeInstanceStatus" => region.describe_instance_status(node, xml),
        "DescribeInstanceTypeOfferings" => region.describe_instance_type_offerings(node, xml),
        "DescribeInstanceTypes" => region.describe_instance_types(node, xml),
        "DescribeInstances" => region.describe_instances(node, xml),
        "DescribeLaunchTemplateVersions" => region.describe_launch_template_versions(node, xml),
        "DescribeLaunchTemplates" => region.describe_launch_templates(node, xml),
        "DescribeNetworkInterfaces" => region.describe_network_interfaces(node, xml),
        "DescribePlacementGroups" => region.describe_placement_groups(node, xml),
        "DescribeRegions" => region.describe_regions(node, xml),
        "DescribeSecurityGroups" => region.describe_security_groups(node, xml),
        "DescribeSpotInstanceRequests" => region.describe_spot_instance_requests(node, xml),
        "DescribeSpotPriceHistory" => region.describe_spot_price_history(node, xml),
        "DescribeSubnets" => region.describe_subnets(node, xml),
        "DescribeTags" => region.describe_tags(node, xml),
        "DescribeVolumes" => region.describe_volumes(node, xml),
        "DescribeVpcs" => region.describe_vpcs(node, xml),
        "DetachNetworkInterface" => region.detach_network_interface(node, xml),
        "DetachVolume" => region.detach_volume(node, xml),
        "GetConsoleOutput" => region.get_console_output(node, xml),
        "GetSpotPlacementScores" => region.get_spot_placement_scores(node, xml),
        "ModifyFleet" => region.modify_fleet(node, xml),
        "ModifyInstanceAttribute" => region.modify_instance_attribute(node, xml),
        "ModifyInstanceMetadataOptions" => region.modify_instance_metadata_options(node, xml),
        "ModifyLaunchTemplate" => region.modify_launch_template(node, xml),
        "ModifyNetworkInterfaceAttribute" => region.modify_network_interface_attribute(node, xml),
        "RebootInstances" => region.reboot_instances(node, xml),
        "RunInstances" => region.run_instances(node, xml),
        "StartInstances" => region.start_instances(node, xml),
        "StopInstances" => region.stop_instances(node, xml),
        "TerminateInstances" => region.terminate_instances(node, xml),
        other => Err(ApiError::new(
            "InvalidAction",
            format!("The action {other} is not valid for this web service."),
        )),
    }
}

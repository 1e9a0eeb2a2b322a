// SPDX-License-Identifier: GPL-3.0-or-later
//! One region: everything it holds, its clock, its random choices and its events to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::control::scenario::Scenario;
use crate::model::capacity::Pools;
use crate::model::fleet::Fleet;
use crate::model::instance::Instances;
use crate::model::interface::Interface;
use crate::model::network::{Cidr, Subnet};
use crate::model::reservation::{CapacityReservation, PlacementGroup};
use crate::model::spot::SpotRequest;
use crate::model::storage::Volume;
use crate::model::template::Template;
use crate::model::time::{Agenda, Millis};

/// What happens to an instance that its hooks are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// It reached `running` from a launch, a start or a reboot.
    Boot,
    /// It leaves `running` for good or for a stop, and its processes end.
    End,
    /// Its processes freeze.
    Hibernate,
    /// Its processes go on.
    Resume,
}

/// A moment of an instance, with what a hook needs to know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Signal {
    pub at: Millis,
    pub moment: Moment,
    pub instance_id: String,
    pub private_ip: String,
    pub instance_type: String,
    pub zone: String,
    pub subnet_id: String,
    pub lifecycle: &'static str,
    pub image_id: String,
    pub region: String,
    /// The instance whose memory this is: another one's if its memory image was resumed here.
    pub memory_of: String,
}

/// Events to come. The number of an instance's event is its step count when it was set: a later
/// step makes the event void.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Pending { instance: String, step: u32 },
    ShutDown { instance: String, step: u32 },
    Stop { instance: String, step: u32 },
    Hibernate { instance: String, step: u32 },
    Started { instance: String, step: u32 },
    Forget { instance: String },
    Interruption { instance: String },
    HoldOver { instance: String },
    Maintenance { instance: String, event: String },
    Replaced { instance: String },
    Reconcile { fleet: String },
    FleetSettled { fleet: String },
    FleetExpired { fleet: String },
    Tags { id: String, tags: Vec<(String, String)> },
    VolumeStep { volume: String },
    InterfaceStep { interface: String },
}

/// A client token is remembered at least this long.
const REPLAY_LIFE: Millis = 48 * crate::model::time::HOUR;
const REPLAYS_BEFORE_PRUNING: usize = 10_000;

/// What a client token was used for.
#[derive(Debug)]
pub(crate) struct Replay {
    pub at: Millis,
    pub fingerprint: u64,
    pub result: String,
}

#[derive(Debug)]
pub struct Region {
    pub(crate) name: String,
    pub(crate) now: Millis,
    pub(crate) rules: Scenario,
    pub(crate) rng: fastrand::Rng,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) tags: HashMap<String, Vec<(String, String)>>,
    pub(crate) vpc: String,
    pub(crate) default_group: String,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) templates: BTreeMap<u64, Template>,
    pub(crate) instances: Instances,
    /// Stopped by an interruption, waiting for capacity.
    pub(crate) interrupted: BTreeSet<String>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) interfaces: BTreeMap<String, Interface>,
    pub(crate) fleets: BTreeMap<u64, Fleet>,
    pub(crate) fleet_index: HashMap<String, u64>,
    pub(crate) spot_requests: BTreeMap<u64, SpotRequest>,
    pub(crate) spot_index: HashMap<String, u64>,
    pub(crate) reservations: BTreeMap<String, CapacityReservation>,
    pub(crate) placement_groups: BTreeMap<String, PlacementGroup>,
    pub(crate) pools: Pools,
    pub(crate) replays: HashMap<(String, String), Replay>,
    pub(crate) serial: u64,
    /// Set while a call is served whose caller may not launch instances.
    pub(crate) launch_denied: Option<crate::api::error::ApiError>,
}

impl Region {
    /// A region with one subnet a zone. `number` tells regions' address ranges apart.
    pub(crate) fn new(name: &str, number: usize, rules: &Scenario, now: Millis) -> Self {
        let mut rng = generator(rules.seed, name);
        let vpc = format!("vpc-{}", hex(&mut rng, 17));
        let default_group = format!("sg-{}", hex(&mut rng, 17));
        let mut region = Self {
            name: name.to_owned(),
            now,
            pools: Pools::new(&rules.pools, rules.seed),
            rules: rules.clone(),
            rng,
            agenda: Agenda::default(),
            signals: Vec::new(),
            tags: HashMap::new(),
            vpc: vpc.clone(),
            default_group,
            subnets: Vec::new(),
            templates: BTreeMap::new(),
            instances: Instances::default(),
            interrupted: BTreeSet::new(),
            volumes: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            fleets: BTreeMap::new(),
            fleet_index: HashMap::new(),
            spot_requests: BTreeMap::new(),
            spot_index: HashMap::new(),
            reservations: BTreeMap::new(),
            placement_groups: BTreeMap::new(),
            replays: HashMap::new(),
            serial: 0,
            launch_denied: None,
        };
        if name == rules.region && !rules.subnets.is_empty() {
            for spec in &rules.subnets {
                let letter = spec.zone.strip_prefix(name).unwrap_or(&spec.zone);
                let cidr = Cidr::parse(&spec.cidr).expect("a scenario is validated when it is read");
                region.subnets.push(Subnet::new(
                    spec.id.clone(),
                    spec.vpc.clone().unwrap_or_else(|| vpc.clone()),
                    format!("{name}{letter}"),
                    region.zone_id(letter),
                    cidr,
                ));
                if !spec.tags.is_empty() {
                    let tags = spec.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                    region.tags.insert(spec.id.clone(), tags);
                }
            }
        } else {
            for (at, letter) in rules.zones.clone().iter().enumerate() {
                let id = if name == rules.region {
                    format!("subnet-{}", letter.repeat(4))
                } else {
                    format!("subnet-{}", hex(&mut region.rng, 17))
                };
                let second = 10 * (at + 1) + number % 10;
                let cidr = Cidr::parse(&format!("127.{}.0.0/16", second.min(255)))
                    .expect("a network made here is well formed");
                let (zone, zone_id) = (format!("{name}{letter}"), region.zone_id(letter));
                region.subnets.push(Subnet::new(id, vpc.clone(), zone, zone_id, cidr));
            }
        }
        region
    }

    /// Zone ids are the same zone in every account: `use1-az1` (AWS RAM User Guide, "Availability Zone IDs").
    pub(crate) fn zone_id(&self, letter: &str) -> String {
        let mut parts = self.name.split('-');
        let short: String = [
            parts.next().unwrap_or("xx").to_owned(),
            parts.next().and_then(|part| part.chars().next()).unwrap_or('x').to_string(),
            parts.next().unwrap_or("1").to_owned(),
        ]
        .concat();
        let number = self.rules.zones.iter().position(|zone| zone == letter).unwrap_or(0) + 1;
        format!("{short}-az{number}")
    }

    pub(crate) fn zone_names(&self) -> Vec<String> {
        self.rules.zones.iter().map(|letter| format!("{}{letter}", self.name)).collect()
    }

    pub(crate) fn subnet(&self, id: &str) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == id)
    }

    pub(crate) fn subnet_mut(&mut self, id: &str) -> Option<&mut Subnet> {
        self.subnets.iter_mut().find(|subnet| subnet.id == id)
    }

    /// A new resource id: prefix and 17 hexadecimal digits, never given before in this world.
    pub(crate) fn new_id(&mut self, prefix: &str) -> String {
        self.serial += 1;
        // The serial part keeps ids unique; the random part keeps them from looking like counters.
        format!("{prefix}-0{}{:08x}", hex(&mut self.rng, 8), self.serial)
    }

    /// A random UUID-like text, for request and fleet ids.
    pub(crate) fn new_uuid(&mut self) -> String {
        let mut part = |digits| hex(&mut self.rng, digits);
        format!("{}-{}-{}-{}-{}", part(8), part(4), part(4), part(4), part(12))
    }

    pub(crate) fn tags_of(&self, id: &str) -> &[(String, String)] {
        self.tags.get(id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn after(&mut self, delay: Millis, event: Event) {
        self.agenda.set(self.now + delay.max(0), event);
    }

    pub(crate) fn next_event_at(&self) -> Option<Millis> {
        self.agenda.next_due()
    }

    /// Lets everything happen that is due at `now`.
    pub(crate) fn advance(&mut self, now: Millis) {
        while let Some((due, event)) = self.agenda.pop_due(now) {
            self.now = self.now.max(due);
            self.happen(event);
        }
        self.now = self.now.max(now);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pending { instance, step } => self.pending_over(&instance, step),
            Event::ShutDown { instance, step } => self.shut_down_over(&instance, step),
            Event::Stop { instance, step } | Event::Hibernate { instance, step } => {
                self.stop_over(&instance, step);
            }
            Event::Started { instance, step } => self.start_over(&instance, step),
            Event::Forget { instance } => self.forget(&instance),
            Event::Interruption { instance } => self.interruption_due(&instance),
            Event::HoldOver { instance } => self.hold_over(&instance),
            Event::Maintenance { instance, event } => self.maintenance_due(&instance, &event),
            Event::Replaced { instance } => self.end_member(&instance),
            Event::Reconcile { fleet } => self.reconcile_fleet(&fleet),
            Event::FleetSettled { fleet } => self.fleet_settled(&fleet),
            Event::FleetExpired { fleet } => self.fleet_expired(&fleet),
            Event::Tags { id, tags } => self.put_tags(&id, &tags),
            Event::VolumeStep { volume } => self.volume_step(&volume),
            Event::InterfaceStep { interface } => self.interface_step(&interface),
        }
    }

    /// Runs `make` once for a client token; the same token and parameters get the first result again.
    ///
    /// # Errors
    /// `IdempotentParameterMismatch`, or what `make` says.
    pub(crate) fn once(
        &mut self,
        action: &str,
        request: &crate::api::query::Node,
        make: impl FnOnce(&mut Self) -> Result<String, crate::api::error::ApiError>,
    ) -> Result<String, crate::api::error::ApiError> {
        use std::hash::{Hash, Hasher};
        let Some(token) = request.text("ClientToken").filter(|token| !token.is_empty()) else {
            return make(self);
        };
        // API_CreateFleet and API_RunInstances: 64; API_CreateLaunchTemplate and its versions: 128.
        let most = if action.contains("LaunchTemplate") { 128 } else { 64 };
        if token.len() > most || !token.is_ascii() {
            return Err(crate::api::error::ApiError::invalid_value(
                "ClientToken",
                token,
                &format!("It must be at most {most} ASCII characters."),
            ));
        }
        let mut hasher = std::hash::DefaultHasher::new();
        format!("{:?}", request.without(&["DryRun"])).hash(&mut hasher);
        let fingerprint = hasher.finish();
        let key = (action.to_owned(), token.to_owned());
        if let Some(replay) = self.replays.get(&key) {
            if replay.fingerprint == fingerprint {
                return Ok(replay.result.clone());
            }
            return Err(crate::api::error::ApiError::new(
                "IdempotentParameterMismatch",
                "The client token you have provided is associated with a resource that is already in use with different parameters.",
            ));
        }
        let result = make(self)?;
        let at = self.now;
        if self.replays.len() >= REPLAYS_BEFORE_PRUNING {
            self.replays.retain(|_, replay| replay.at + REPLAY_LIFE > at);
        }
        self.replays.insert(key, Replay { at, fingerprint, result: result.clone() });
        Ok(result)
    }
}

/// Random hexadecimal digits.
pub(crate) fn hex(rng: &mut fastrand::Rng, digits: usize) -> String {
    (0..digits).map(|_| char::from_digit(rng.u32(0..16), 16).unwrap_or('0')).collect()
}

/// A random generator for one part of the world: parts do not disturb each other's choices, and seeds
/// that differ little give generators that differ much.
pub(crate) fn generator(seed: u64, part: &str) -> fastrand::Rng {
    use std::hash::Hasher as _;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u64(seed);
    hasher.write(part.as_bytes());
    fastrand::Rng::with_seed(hasher.finish())
}

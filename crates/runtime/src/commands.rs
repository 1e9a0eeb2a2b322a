// SPDX-License-Identifier: GPL-3.0-or-later
//! What comes over the socket, turned into events and reports.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::active::{Active, EVENTS, SlurmPort};
use ec2fleet_control::protocol::{EventFilter, Operation, RefusalKind, Reply, Response, Subject};
use ec2fleet_control::socket::Command;
use ec2fleet_core::event::Event;
use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{
    EventsReport, ExplainReport, FleetsReport, GroupReport, JournalReport, Mode, NodesReport, Paused,
    PlanReport, PlannedAction, QueueReport, SCHEMA_VERSION, SlurmReport, StatusReport,
};
use ec2fleet_core::site::Site;
use ec2fleet_journal::storage::Storage;
use ec2fleet_observe::history::Origin;
use ec2fleet_observe::log;
use ec2fleet_observe::prices::Prices;

/// Nodes in one request; a hostlist with more is a mistake.
const MAX_NODES: usize = 100_000;

/// Events in one answer.
const MAX_EVENTS: usize = 5_000;

/// Environment variable that lets `panic` through, for tests of what follows a panic.
const PANIC_VARIABLE: &str = "EC2FLEET_ALLOW_PANIC";

/// What status shows besides the engine.
#[derive(Clone, Debug)]
pub struct Identity {
    pub since_unix_ms: u64,
    pub slurm_release: String,
    pub journal_path: String,
    pub warnings: Vec<String>,
    pub paused: Option<Paused>,
}

/// A configuration that was read again, and what an administrator should know of it.
pub struct Fresh {
    pub site: Arc<Site>,
    pub warnings: Vec<String>,
}

/// Reads the configuration again; the error is for people.
pub type Reload<'a> = &'a (dyn Fn() -> Result<Fresh, String> + Send + Sync);

/// slurmctld has read slurm.conf again, so config.json and partitions.json are read again, too. What is wrong leaves the
/// running configuration in force, with an event. False if the fence is lost.
pub fn reconfigured<S: Storage>(active: &mut Active<S>, identity: &mut Identity, reload: Reload<'_>) -> bool {
    match reload() {
        // Most reconfigurations change nothing of ours.
        Ok(fresh) if *fresh.site == **active.driver.engine.site() => true,
        Ok(fresh) => {
            identity.warnings = fresh.warnings;
            active.give(Event::SiteChanged(fresh.site), None)
        }
        Err(message) => {
            refuse(active, message, None);
            true
        }
    }
}

fn refuse<S: Storage>(active: &mut Active<S>, message: String, uid: Option<u32>) {
    let fact = Fact::new(active.clock.now().unix_ms, FactKind::ConfigRefused, message);
    active.note(vec![fact], &uid.map(Origin::user).unwrap_or_default());
}

/// Answer one command. False if the fence is lost.
pub fn obey<S: Storage>(
    active: &mut Active<S>,
    identity: &mut Identity,
    reload: Reload<'_>,
    command: Command,
) -> bool {
    let uid = command.peer.uid;
    let dry_run = command.request.dry_run;
    if !dry_run && let Some(fact) = audit(&command.request.op, active.clock.now().unix_ms) {
        active.note(vec![fact], &Origin::user(uid));
    }
    let answered = Answerer { active, identity, reload, uid, dry_run }.answer(command.request.op);
    let held = answered.is_ok();
    // A client that has gone needs no answer.
    let _ = command.reply.send(answered.unwrap_or_else(|FenceLost| {
        Response::refused(
            RefusalKind::Passive,
            "another process has taken the fence, and this one ends its work",
            "ask again in a moment",
        )
    }));
    held
}

/// Another process has taken the fence: nothing of what was asked is done.
struct FenceLost;

/// That somebody asked for something, and why; what comes of it follows in the history.
fn audit(op: &Operation, unix_ms: u64) -> Option<Fact> {
    if op.is_read_only() {
        return None;
    }
    let fleets;
    let (nodes, why) = match op {
        Operation::Lock { nodes, reason } => (nodes.as_str(), reason.as_str()),
        Operation::Resume { nodes, .. }
        | Operation::Suspend { nodes }
        | Operation::ResumeFail { nodes }
        | Operation::Unlock { nodes }
        | Operation::Reset { nodes }
        | Operation::Replace { nodes } => (nodes.as_str(), ""),
        Operation::PauseOperations { reason } => ("", reason.as_str()),
        Operation::LogLevel { level } => ("", level.as_str()),
        Operation::DeleteFleets { fleet_ids } => {
            fleets = fleet_ids.join(" ");
            ("", fleets.as_str())
        }
        _ => ("", ""),
    };
    let text = if why.is_empty() { op.name().to_owned() } else { format!("{}: {why}", op.name()) };
    let mut fact = Fact::new(unix_ms, FactKind::OperationAsked, text);
    // As it was written; what is no hostlist is refused afterwards.
    fact.nodes = nodes.to_owned();
    Some(fact)
}

struct Answerer<'a, S> {
    active: &'a mut Active<S>,
    identity: &'a mut Identity,
    reload: Reload<'a>,
    uid: u32,
    dry_run: bool,
}

impl<S: Storage> Answerer<'_, S> {
    fn answer(&mut self, op: Operation) -> Result<Response, FenceLost> {
        Ok(match op {
            Operation::Ping => Response::ok(Reply::Pong { version: env!("CARGO_PKG_VERSION").into() }),
            Operation::Status => Response::ok(Reply::Status(Box::new(status(self.active, self.identity)))),
            Operation::Nodes { nodes } => self.nodes(nodes.as_deref()),
            Operation::Events { filter } => self.events(&filter),
            Operation::Explain { subject } => self.explain(&subject),
            Operation::Resume { nodes, jobs } => {
                let jobs = jobs.and_then(|file| file.jobs());
                self.request(&nodes, |nodes| Event::ResumeRequested { nodes, jobs })?
            }
            Operation::Suspend { nodes } => {
                self.request(&nodes, |nodes| Event::SuspendRequested { nodes })?
            }
            Operation::ResumeFail { nodes } => self.request(&nodes, |nodes| Event::ResumeFailed { nodes })?,
            Operation::Lock { nodes, .. } => {
                self.act("lock", &nodes, |nodes| Event::LockRequested { nodes, locked: true })?
            }
            Operation::Unlock { nodes } => {
                self.act("unlock", &nodes, |nodes| Event::LockRequested { nodes, locked: false })?
            }
            Operation::Reset { nodes } => {
                self.act("resume", &nodes, |nodes| Event::ResetRequested { nodes })?
            }
            Operation::Replace { nodes } => {
                self.act("replace", &nodes, |nodes| Event::ReplaceRequested { nodes })?
            }
            Operation::Gc => self.gc()?,
            Operation::PauseOperations { .. } if self.dry_run => {
                done("launches and terminations would be stopped")
            }
            Operation::ResumeOperations if self.dry_run => done("operations would be resumed"),
            Operation::Fleets => {
                let fleets = self.active.driver.engine.fleet_reports();
                Response::ok(Reply::Fleets(FleetsReport { schema: SCHEMA_VERSION, fleets }))
            }
            Operation::DeleteFleets { fleet_ids } => self.delete_fleets(&fleet_ids)?,
            Operation::PauseOperations { reason } => {
                self.identity.paused =
                    Some(Paused { since_unix_ms: self.active.clock.now().unix_ms, uid: self.uid, reason });
                self.give(Event::PauseRequested { paused: true })?;
                done("launches and terminations are stopped")
            }
            Operation::ResumeOperations => {
                self.identity.paused = None;
                self.give(Event::PauseRequested { paused: false })?;
                done("operations are resumed")
            }
            Operation::Reload => self.reload()?,
            Operation::LogLevel { level } => match log::level_named(&level) {
                Some(severity) if self.dry_run => {
                    done(&format!("the log level would be {}", severity.as_str()))
                }
                Some(severity) => {
                    log::set_level(severity);
                    done(&format!("the log level is {}", severity.as_str()))
                }
                None => Response::refused(
                    RefusalKind::BadRequest,
                    format!("{level} is no log level"),
                    "use DEBUG, INFO, WARNING, ERROR or CRITICAL",
                ),
            },
            Operation::Panic => {
                assert!(std::env::var_os(PANIC_VARIABLE).is_none(), "asked to panic by uid {}", self.uid);
                Response::refused(RefusalKind::NotPermitted, "panics are not allowed here", "for tests only")
            }
        })
    }

    fn give(&mut self, event: Event) -> Result<(), FenceLost> {
        if self.active.give(event, Some(self.uid)) { Ok(()) } else { Err(FenceLost) }
    }

    fn expand(&self, nodes: &str) -> Result<Vec<String>, Box<Response>> {
        hostlist::expand_bounded(nodes, MAX_NODES).map_err(|error| {
            Box::new(Response::refused(
                RefusalKind::BadRequest,
                error.to_string(),
                "give a hostlist such as part-group-[0-3]",
            ))
        })
    }

    /// From ResumeProgram and its like: accepted as it is, since slurmctld's bitmaps decide.
    fn request(
        &mut self,
        nodes: &str,
        event: impl FnOnce(Vec<String>) -> Event,
    ) -> Result<Response, FenceLost> {
        let names = match self.expand(nodes) {
            Ok(names) => names,
            Err(refusal) => return Ok(*refusal),
        };
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if !self.dry_run {
            self.give(event(names))?;
        }
        Ok(Response::ok(Reply::Accepted { nodes: nodes.to_owned(), count }))
    }

    /// From an administrator: only nodes that are ours, and with a plan of what is done.
    fn act(
        &mut self,
        action: &str,
        nodes: &str,
        event: impl FnOnce(Vec<String>) -> Event,
    ) -> Result<Response, FenceLost> {
        let names = match self.expand(nodes) {
            Ok(names) => names,
            Err(refusal) => return Ok(*refusal),
        };
        let site = Arc::clone(self.active.driver.engine.site());
        let (ours, foreign): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| site.locate(name).is_some());
        let plan = |nodes: &[String], why: &str| {
            (!nodes.is_empty()).then(|| PlannedAction {
                action: action.into(),
                subject: hostlist::fold(nodes),
                why: why.into(),
            })
        };
        let report = PlanReport {
            schema: SCHEMA_VERSION,
            dry_run: self.dry_run,
            actions: plan(&ours, "asked for").into_iter().collect(),
            refused: plan(&foreign, "not a node of partitions.json").into_iter().collect(),
        };
        if !self.dry_run && !ours.is_empty() {
            self.give(event(ours))?;
        }
        Ok(Response::ok(Reply::Plan(report)))
    }

    fn gc(&mut self) -> Result<Response, FenceLost> {
        let orphans = self.active.driver.engine.orphans();
        let actions = orphans
            .into_iter()
            .map(|id| PlannedAction {
                action: "terminate".into(),
                subject: id,
                why: "it has this cluster's tag and no node; ended when the grace time is over".into(),
            })
            .collect();
        if !self.dry_run {
            self.give(Event::Rescan)?;
        }
        Ok(Response::ok(Reply::Plan(PlanReport {
            schema: SCHEMA_VERSION,
            dry_run: self.dry_run,
            actions,
            refused: Vec::new(),
        })))
    }

    fn delete_fleets(&mut self, fleet_ids: &[String]) -> Result<Response, FenceLost> {
        let engine = &self.active.driver.engine;
        let known = engine.fleet_reports();
        let mut plan = PlanReport { schema: SCHEMA_VERSION, dry_run: self.dry_run, ..PlanReport::default() };
        for id in fleet_ids {
            let planned =
                |why: String| PlannedAction { action: "delete-fleet".into(), subject: id.clone(), why };
            let Some(fleet) = known.iter().find(|fleet| fleet.fleet_id == *id) else {
                plan.refused.push(planned("no maintain fleet of this cluster".into()));
                continue;
            };
            let busy = engine.busy_nodes_of_fleet(id);
            if !busy.is_empty() {
                let why =
                    format!("{} run jobs or are waking or locked: drain them first", hostlist::fold(&busy));
                plan.refused.push(planned(why));
            } else if fleet.nodes.is_empty() {
                plan.actions.push(planned("it holds no node".into()));
            } else {
                plan.actions.push(planned(format!("{} are powered down first, when idle", fleet.nodes)));
            }
        }
        if !self.dry_run && !plan.actions.is_empty() {
            let fleet_ids = plan.actions.iter().map(|action| action.subject.clone()).collect();
            self.give(Event::DeleteFleetsRequested { fleet_ids })?;
        }
        Ok(Response::ok(Reply::Plan(plan)))
    }

    fn reload(&mut self) -> Result<Response, FenceLost> {
        Ok(match (self.reload)() {
            Ok(fresh) if self.dry_run => {
                done(&format!("{} node groups would be in force", fresh.site.groups().len()))
            }
            Ok(fresh) => {
                let groups = fresh.site.groups().len();
                self.identity.warnings = fresh.warnings;
                self.give(Event::SiteChanged(fresh.site))?;
                done(&format!("{groups} node groups are in force"))
            }
            Err(message) => {
                refuse(self.active, message.clone(), Some(self.uid));
                Response::refused(
                    RefusalKind::Failed,
                    message,
                    "the running configuration stays in force; `ec2fleet validate` lists every error",
                )
            }
        })
    }

    fn nodes(&self, wanted: Option<&str>) -> Response {
        let engine = &self.active.driver.engine;
        let nodes = match wanted {
            None => engine.node_reports(),
            Some(list) => match self.expand(list) {
                Ok(names) => names.iter().filter_map(|name| engine.node_report(name)).collect(),
                Err(refusal) => return *refusal,
            },
        };
        Response::ok(Reply::Nodes(NodesReport { schema: SCHEMA_VERSION, nodes }))
    }

    fn events(&self, filter: &EventFilter) -> Response {
        let nodes = match filter.nodes.as_deref().map(|list| self.expand(list)).transpose() {
            Ok(nodes) => nodes,
            Err(refusal) => return *refusal,
        };
        let history = &self.active.history;
        let limit = filter.limit.map_or(MAX_EVENTS, |limit| (limit as usize).min(MAX_EVENTS));
        let events = history.query(filter.after, filter.since_unix_ms, nodes.as_deref(), limit);
        let lost = filter.after.map_or(0, |after| history.oldest_seq().saturating_sub(after + 1));
        Response::ok(Reply::Events(EventsReport {
            schema: SCHEMA_VERSION,
            events,
            next: history.next_seq().saturating_sub(1),
            lost,
        }))
    }

    fn explain(&self, subject: &Subject) -> Response {
        let Subject::Node(name) = subject;
        let engine = &self.active.driver.engine;
        let Some(node) = engine.node_report(name) else {
            return Response::refused(
                RefusalKind::NotFound,
                format!("{name} is not a node of partitions.json"),
                "`ec2fleet nodes` lists them",
            );
        };
        let events = self.active.history.query(None, None, Some(std::slice::from_ref(name)), 200);
        let (summary, next) = super::explain::of(&node, &events);
        Response::ok(Reply::Explain(Box::new(ExplainReport {
            schema: SCHEMA_VERSION,
            subject: format!("node {name}"),
            summary,
            next,
            nodes: vec![node],
            events,
        })))
    }
}

/// With what their instances cost, as far as `ec2fleet cost` has learned prices.
fn group_reports<S: Storage>(active: &Active<S>, identity: &Identity) -> Vec<GroupReport> {
    let engine = &active.driver.engine;
    let mut groups = engine.group_reports();
    let prices = Path::new(&identity.journal_path).parent().map(Prices::load).unwrap_or_default();
    let mut costs: BTreeMap<String, f64> = BTreeMap::new();
    for binding in engine.persisted().bindings.values() {
        if let (Some(usd), Some((group, _))) = (
            prices.of(binding.lifecycle, &binding.instance_type, &binding.zone),
            engine.site().locate(&binding.node),
        ) {
            *costs.entry(group.stem()).or_default() += usd;
        }
    }
    for group in &mut groups {
        group.usd_per_hour = costs.get(&group.stem()).copied();
    }
    groups
}

/// What `ec2fleet status` shows.
pub fn status<S: Storage>(active: &Active<S>, identity: &Identity) -> StatusReport {
    let engine = &active.driver.engine;
    let mut slurm: SlurmReport = engine.slurm_report();
    let mut overflows = 0;
    if let SlurmPort::InProcess(host) = &active.slurm {
        slurm.scans = host.shared.scans.load(Ordering::Relaxed);
        slurm.lock_held_max_us = host.shared.lock_held_max_ns.load(Ordering::Relaxed) / 1_000;
        overflows = host.shared.overflows.load(Ordering::Relaxed);
    }
    let queued = EVENTS - active.events.capacity().min(EVENTS);
    StatusReport {
        schema: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: engine.site().cluster.clone(),
        mode: Mode::Active,
        since_unix_ms: identity.since_unix_ms,
        now_unix_ms: active.clock.now().unix_ms,
        slurm_release: identity.slurm_release.clone(),
        pid: std::process::id(),
        paused: engine.persisted().paused.then(|| {
            identity.paused.clone().unwrap_or(Paused {
                since_unix_ms: 0,
                uid: 0,
                reason: "before the last restart".into(),
            })
        }),
        groups: group_reports(active, identity),
        cloud: engine.cloud_reports(),
        slurm,
        queue: QueueReport {
            depth: u32::try_from(queued).unwrap_or(u32::MAX),
            capacity: u32::try_from(EVENTS).unwrap_or(u32::MAX),
            overflows,
            effects: u32::try_from(engine.calls_in_flight()).unwrap_or(u32::MAX),
            events: active.handled,
        },
        journal: JournalReport {
            path: identity.journal_path.clone(),
            bytes: std::fs::metadata(&identity.journal_path).map_or(0, |meta| meta.len()),
            open_intents: u32::try_from(engine.open_intents()).unwrap_or(u32::MAX),
            error: active.journal_error.clone(),
        },
        warnings: identity.warnings.clone(),
    }
}

fn done(message: &str) -> Response {
    Response::ok(Reply::Done { message: message.to_owned() })
}

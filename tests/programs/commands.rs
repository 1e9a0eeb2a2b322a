// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands of `ec2fleet` as people and programs see them: help, tables, JSON, errors, exit codes.

use std::path::Path;
use std::process::{Command, Stdio};

use ec2fleet_control::protocol::{EventFilter, Operation, RefusalKind, Reply, Response, Subject};
use ec2fleet_control::socket::{Command as Asked, SocketOptions};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::*;
use ec2fleet_core::site::{FleetScope, Lifecycle};

use crate::socket::Server;

/// 2026-01-31T08:00:00Z.
const NOW: u64 = 1_769_846_400_000;

pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// All that a person sees.
    pub fn seen(&self) -> String {
        let mut seen = format!("exit {}\n{}", self.code, self.stdout);
        if !self.stderr.is_empty() {
            seen.push_str(&format!("--- stderr\n{}", self.stderr));
        }
        seen
    }
}

/// Run `ec2fleet` with an environment of the test's own making.
pub fn ec2fleet(dir: &Path, arguments: &[&str]) -> Ran {
    run_in(dir, env!("CARGO_BIN_EXE_ec2fleet"), arguments)
}

fn run_in(dir: &Path, program: &str, arguments: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TZ", "UTC")
        .env("COLUMNS", "100")
        .env("SLURM_CONF", dir.join("slurm.conf"))
        .stdin(Stdio::null())
        .output()
        .expect("the command runs");
    Ran {
        code: output.status.code().expect("it is not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A plugin that answers with made-up reports.
pub fn plugin() -> Server {
    Server::start(SocketOptions::default(), 8, |asked: Asked| {
        let response = answer(&asked.request.op, asked.request.dry_run);
        let _ = asked.reply.send(response);
    })
}

fn answer(op: &Operation, dry_run: bool) -> Response {
    Response::ok(match op {
        Operation::Ping => Reply::Pong { version: "9.9.9".into() },
        Operation::Status => Reply::Status(Box::new(status())),
        Operation::Nodes { nodes: wanted } => {
            let wanted =
                wanted.as_deref().map(|list| hostlist::expand(list).expect("the tool checks hostlists"));
            let mut nodes = nodes();
            nodes.retain(|node| wanted.as_ref().is_none_or(|names| names.contains(&node.name)));
            Reply::Nodes(NodesReport { schema: SCHEMA_VERSION, nodes })
        }
        Operation::Events { filter } => Reply::Events(events(filter)),
        Operation::Explain { subject: Subject::Node(name) } if name == "aws-spot-7" => {
            Reply::Explain(Box::new(explanation()))
        }
        Operation::Explain { .. } => {
            return Response::refused(
                RefusalKind::NotFound,
                "Nothing is known of it.",
                "`ec2fleet nodes` lists the nodes of this cluster.",
            );
        }
        Operation::Gc | Operation::Replace { .. } => Reply::Plan(plan(dry_run)),
        Operation::Fleets => Reply::Fleets(fleets()),
        Operation::DeleteFleets { fleet_ids } => {
            let delete = |id: &String| PlannedAction {
                action: "delete-fleet".into(),
                subject: id.clone(),
                why: "it holds no node".into(),
            };
            Reply::Plan(PlanReport {
                schema: SCHEMA_VERSION,
                dry_run,
                actions: fleet_ids.iter().map(delete).collect(),
                refused: Vec::new(),
            })
        }
        Operation::Reset { .. } => {
            Reply::Plan(PlanReport { schema: SCHEMA_VERSION, dry_run, ..PlanReport::default() })
        }
        Operation::Resume { nodes, .. } | Operation::Suspend { nodes } => {
            Reply::Accepted { nodes: nodes.clone(), count: 4 }
        }
        Operation::Lock { nodes, reason } => Reply::Done { message: format!("{nodes} locked: {reason}") },
        Operation::LogLevel { level } => Reply::Done { message: format!("The log level is {level}.") },
        Operation::Reload => {
            return Response::refused(
                RefusalKind::Failed,
                "The new configuration has 2 errors; the running one stays in force.",
                "`ec2fleet validate` shows them.",
            );
        }
        other => Reply::Done { message: format!("{} done", other.name()) },
    })
}

fn fleets() -> FleetsReport {
    let of_group = FleetReport {
        fleet_id: "fleet-1".into(),
        group: "aws-spot".into(),
        nodes: "aws-spot-[0-2]".into(),
        instances: vec!["i-0".into(), "i-1".into(), "i-2".into()],
        phases: vec!["asleep".into(), "busy".into()],
        scope: FleetScope::Group,
        region: "eu-central-1".into(),
        spot_target: Some(2),
        on_demand_target: Some(1),
        takes_no_nodes: true,
    };
    let of_node = FleetReport {
        fleet_id: "fleet-2".into(),
        group: "gpu-a".into(),
        nodes: "gpu-a-0".into(),
        instances: vec!["i-3".into()],
        phases: vec!["booting".into()],
        scope: FleetScope::Node,
        region: "eu-central-1".into(),
        ..FleetReport::default()
    };
    FleetsReport { schema: SCHEMA_VERSION, fleets: vec![of_group, of_node] }
}

fn status() -> StatusReport {
    let quiet = GroupReport {
        partition: "aws".into(),
        group: "ondemand".into(),
        region: "eu-central-1".into(),
        lifecycle: Lifecycle::OnDemand,
        max_nodes: 10,
        powered_down: 10,
        ..GroupReport::default()
    };
    StatusReport {
        schema: SCHEMA_VERSION,
        version: "9.9.9".into(),
        cluster: "demo".into(),
        mode: Mode::Active,
        since_unix_ms: NOW - 7_380_000,
        now_unix_ms: NOW,
        slurm_release: "22.05.8".into(),
        pid: 4_242,
        paused: Some(Paused { since_unix_ms: NOW - 60_000, uid: 1_000, reason: "zone move".into() }),
        groups: vec![
            GroupReport {
                partition: "aws".into(),
                group: "spot".into(),
                region: "eu-central-1".into(),
                lifecycle: Lifecycle::Spot,
                scope: FleetScope::Group,
                max_nodes: 100,
                wanted: 24,
                pending: 2,
                launching: 3,
                booting: 4,
                ready: 1,
                busy: 12,
                asleep: 1,
                stopping: 5,
                failed: 1,
                powered_down: 71,
                locked: 1,
                instances: 23,
                spot_instances: 20,
                on_demand_instances: 3,
                fleet_target: Some(25),
                usd_per_hour: Some(12.345),
                cooldowns: vec![Cooldown {
                    instance_type: "c5.large".into(),
                    zone: "eu-central-1a".into(),
                    lifecycle: Lifecycle::Spot,
                    until_unix_ms: NOW + 61_000,
                    code: "InsufficientInstanceCapacity".into(),
                    refusals: 2,
                }],
                last_error: Some(LaunchError {
                    at_unix_ms: NOW - 12_000,
                    code: "InsufficientInstanceCapacity".into(),
                    class: "capacity".into(),
                    message: "no capacity".into(),
                    nodes: 2,
                }),
                ..GroupReport::default()
            },
            GroupReport {
                group: "gpu".into(),
                protected: true,
                protected_reason: Some("5 launches in a row gave no instance".into()),
                ..quiet.clone()
            },
            quiet,
        ],
        cloud: vec![CloudReport {
            region: "eu-central-1".into(),
            profile: Some("hpc".into()),
            listed_unix_ms: Some(NOW - 4_000),
            error: Some("UnauthorizedOperation: not allowed to DescribeInstances".into()),
            instances: 23,
            calls: 132,
            throttled: 2,
            in_flight: 1,
        }],
        slurm: SlurmReport {
            loaded_unix_ms: Some(NOW - 4_500),
            error: None,
            updates: 8,
            scans: 700,
            lock_held_max_us: 57,
        },
        queue: QueueReport { depth: 0, capacity: 1024, overflows: 0, effects: 1, events: 901 },
        journal: JournalReport {
            path: "/var/spool/slurm/ec2fleet/journal".into(),
            bytes: 20_480,
            open_intents: 1,
            error: None,
        },
        warnings: vec!["PrivateData=cloud is not set: powered-down nodes are hidden".into()],
    }
}

fn nodes() -> Vec<NodeReport> {
    let node = |index: u32, phase: &str, state: &str| NodeReport {
        name: format!("aws-spot-{index}"),
        partition: "aws".into(),
        group: "spot".into(),
        slurm_state: state.into(),
        desire: Desire::Up,
        phase: phase.into(),
        ..NodeReport::default()
    };
    let mut nodes: Vec<NodeReport> = (0..3)
        .map(|index| NodeReport {
            instance_id: Some(format!("i-0{index}")),
            instance_type: Some("c5.large".into()),
            instance_state: Some("running".into()),
            zone: Some("eu-central-1a".into()),
            lifecycle: Some(Lifecycle::Spot),
            addr: Some(format!("10.0.0.{index}")),
            fleet_id: Some(format!("fleet-{}", index / 2)),
            ..node(index, "busy", "ALLOCATED+CLOUD")
        })
        .collect();
    nodes.push(NodeReport {
        reason: Some("ec2fleet: InsufficientInstanceCapacity\nsecond line".into()),
        ..node(7, "failed", "DOWN+CLOUD+POWERED_DOWN")
    });
    nodes.push(NodeReport { locked: true, ..node(8, "powered-down", "IDLE+CLOUD+POWERED_DOWN") });
    nodes.push(node(9, "powered-down", "IDLE+CLOUD+POWERED_DOWN"));
    nodes.push(NodeReport {
        name: "gpu-a-0".into(),
        partition: "gpu".into(),
        group: "a".into(),
        ..node(0, "booting", "IDLE+CLOUD+NOT_RESPONDING+POWERING_UP")
    });
    nodes
}

fn events(filter: &EventFilter) -> EventsReport {
    let event = |seq: u64, kind: &str, text: &str| EventReport {
        seq,
        unix_ms: NOW + seq * 100,
        kind: kind.into(),
        text: text.into(),
        ..EventReport::default()
    };
    let mut all = vec![
        EventReport {
            nodes: "aws-spot-[0-7]".into(),
            ..event(1, "power-up-seen", "Slurm wants 8 nodes up.")
        },
        EventReport {
            severity: Severity::Warning,
            group: Some("aws-spot".into()),
            request_id: Some("req-1".into()),
            ..event(2, "create-fleet-failed", "InsufficientInstanceCapacity in\n2 pools.")
        },
        EventReport { uid: Some(1_000), ..event(3, "paused", "Operations are paused: zone move") },
    ];
    all.retain(|event| filter.after.is_none_or(|after| event.seq > after));
    all.retain(|_| filter.nodes.as_deref() != Some("aws-none-0"));
    EventsReport {
        schema: SCHEMA_VERSION,
        events: all,
        next: 3,
        lost: u64::from(filter.after.is_none()) * 40,
    }
}

fn explanation() -> ExplainReport {
    ExplainReport {
        schema: SCHEMA_VERSION,
        subject: "node aws-spot-7".into(),
        summary: "It failed to start: EC2 had no capacity in any of 2 pools.".into(),
        next: vec!["Slurm may power it up again at any time; the pools are asked again after 61 s.".into()],
        nodes: nodes().into_iter().filter(|node| node.name == "aws-spot-7").collect(),
        events: events(&EventFilter::default()).events,
    }
}

fn plan(dry_run: bool) -> PlanReport {
    let action = |action: &str, subject: &str, why: &str| PlannedAction {
        action: action.into(),
        subject: subject.into(),
        why: why.into(),
    };
    PlanReport {
        schema: SCHEMA_VERSION,
        dry_run,
        actions: vec![action("terminate", "i-0dead", "it belongs to no node since 4m00s")],
        refused: vec![action("terminate", "i-0young", "it is younger than OrphanGraceSec")],
    }
}

/// The output of one command on the made-up plugin.
fn on_plugin(arguments: &[&str]) -> Ran {
    let server = plugin();
    let socket = server.path.display().to_string();
    let mut all = vec!["--socket", socket.as_str()];
    all.extend(arguments);
    let dir = server.path.parent().expect("a folder");
    std::fs::write(dir.join("slurm.conf"), "ClusterName=demo\n").expect("written");
    ec2fleet(dir, &all)
}

pub fn snapshot(name: &str, ran: &Ran) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, ran.seen());
    });
}

#[test]
fn tables() {
    for (name, arguments) in [
        ("status", &["status"][..]),
        ("status-colour", &["status", "--color", "always"]),
        ("nodes", &["nodes"]),
        ("nodes-wide", &["nodes", "--wide"]),
        ("events", &["events"]),
        ("explain", &["explain", "aws-spot-7"]),
        ("gc-dry-run", &["gc", "--dry-run"]),
        ("gc-yes", &["gc", "--yes"]),
        ("reset-nothing", &["reset", "aws-spot-7", "--yes"]),
        ("resume", &["resume", "aws-spot-[0-3]", "--yes"]),
        ("lock", &["lock", "aws-spot-8", "--reason", "kept for debugging"]),
        ("log-level", &["log-level", "debug"]),
        ("reload", &["reload"]),
        ("pause-operations", &["pause-operations", "--reason", "zone move"]),
        ("resume-operations", &["resume-operations"]),
        ("unlock", &["unlock", "aws-spot-8"]),
        ("suspend", &["suspend", "aws-spot-[0-3]", "--yes"]),
        ("replace-dry-run", &["replace", "aws-spot-0", "--dry-run"]),
        ("capacity", &["capacity"]),
        ("fleets", &["fleets"]),
        ("fleets-show", &["fleets", "show", "fleet-1"]),
        ("fleets-delete", &["fleets", "delete", "fleet-1", "fleet-2", "--dry-run"]),
        ("top", &["top", "--count", "2", "--interval", "1"]),
    ] {
        snapshot(name, &on_plugin(arguments));
    }
}

/// On a terminal of 12 rows of 60 columns, which `script` (of bsdutils) makes.
#[test]
fn top_on_a_terminal() {
    let server = plugin();
    let dir = server.path.parent().expect("a folder");
    std::fs::write(dir.join("slurm.conf"), "ClusterName=demo\n").expect("written");
    let (program, socket) = (env!("CARGO_BIN_EXE_ec2fleet"), server.path.display());
    let command = format!("stty rows 12 cols 60; '{program}' --socket '{socket}' top --count 1");
    let mut ran = run_in(dir, "script", &["-qec", &command, "/dev/null"]);
    ran.stdout = ran.stdout.replace('\r', "").replace('\x1b', "ESC");
    snapshot("top-terminal", &ran);
}

#[test]
fn json() {
    for (name, arguments) in [
        ("json-status", &["status", "--json"][..]),
        ("json-nodes", &["nodes", "--json", "--state", "failed,locked"]),
        ("json-events", &["--json", "events"]),
        ("json-explain", &["explain", "aws-spot-7", "--json"]),
        ("json-gc", &["gc", "--json", "--dry-run"]),
        ("json-resume", &["resume", "aws-spot-[0-3]", "--json", "--yes"]),
        ("json-refusal", &["reload", "--json"]),
        ("json-capacity", &["capacity", "--json"]),
        ("json-fleets", &["fleets", "--json"]),
        ("json-lock", &["lock", "aws-spot-8", "--reason", "kept", "--json"]),
    ] {
        let ran = on_plugin(arguments);
        let value: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(value["schema"], SCHEMA_VERSION, "{name}");
        snapshot(name, &ran);
    }
}

#[test]
fn help() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let top = ec2fleet(dir.path(), &["--help"]);
    snapshot("help", &top);
    let commands: Vec<String> = top
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(ToOwned::to_owned))
        .collect();
    assert!(commands.len() >= 17, "{commands:?}");
    for command in &commands {
        let ran = ec2fleet(dir.path(), &[command, "--help"]);
        // The global options are the same for every command.
        let text = ran.stdout.split("\nGlobal options:").next().unwrap_or_default().to_owned();
        let seen = Ran { code: ran.code, stdout: text, stderr: ran.stderr };
        snapshot(&format!("help-{command}"), &seen);
    }
}

#[test]
fn node_filters() {
    let names = |arguments: &[&str]| -> Vec<String> {
        let mut all = vec!["nodes", "--json"];
        all.extend(arguments);
        let ran = on_plugin(&all);
        assert_eq!(ran.code, 0, "{}", ran.seen());
        let report: NodesReport = serde_json::from_str(&ran.stdout).expect("a nodes report");
        report.nodes.into_iter().map(|node| node.name).collect()
    };
    assert_eq!(names(&[]).len(), 7);
    assert_eq!(names(&["--state", "busy"]), ["aws-spot-0", "aws-spot-1", "aws-spot-2"]);
    assert_eq!(names(&["--state", "powered_down"]), ["aws-spot-7", "aws-spot-8", "aws-spot-9"]);
    assert_eq!(names(&["--state", "DOWN"]), ["aws-spot-7"]);
    assert_eq!(names(&["--state", "idle+cloud+powered_down"]), ["aws-spot-8", "aws-spot-9"]);
    assert_eq!(names(&["--group", "gpu-a"]), ["gpu-a-0"]);
    assert_eq!(names(&["--group", "a,spot", "--state", "booting,failed"]), ["aws-spot-7", "gpu-a-0"]);
    assert_eq!(names(&["aws-spot-[1-2],gpu-a-0"]), ["aws-spot-1", "aws-spot-2", "gpu-a-0"]);
    assert_eq!(names(&["aws-spot-99"]), Vec::<String>::new());
}

#[test]
fn errors_have_a_kind_an_exit_code_and_a_hint() {
    for (arguments, code, words) in [
        (&["explain", "aws-spot-1"][..], 1, "Nothing is known of it."),
        (&["explain", "aws-spot-[1-2]"], 2, "neither one node nor one job"),
        (&["nodes", "aws-["], 2, "list of nodes is not understood"),
        (&["suspend", ","], 2, "No node is named"),
        (&["suspend", "aws-spot-1"], 2, "wants to be confirmed"),
        (&["gc"], 2, "wants to be confirmed"),
        (&["fleets", "delete", "fleet-1"], 2, "wants to be confirmed"),
        (&["fleets", "show", "fleet-9"], 1, "no maintain fleet of this cluster"),
        (&["lock", "aws-spot-1"], 2, "--reason"),
        (&["log-level", "chatty"], 2, "invalid value 'chatty'"),
        (&["events", "--since", "tomorrow"], 2, "is no time"),
        (&["events", "--node", "a]"], 2, "bracket"),
        (&["reload"], 1, "hint: `ec2fleet validate` shows them."),
        (&["no-such-command"], 2, "unrecognized subcommand"),
    ] {
        let ran = on_plugin(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.seen());
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.seen());
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let server = Server::start(SocketOptions::default(), 8, |asked: Asked| {
        let node = NodeReport { name: "n".repeat(100), ..NodeReport::default() };
        let nodes = NodesReport { schema: SCHEMA_VERSION, nodes: vec![node; 5_000] };
        let _ = asked.reply.send(Response::ok(Reply::Nodes(nodes)));
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_ec2fleet"))
        .args(["nodes", "--json", "--socket"])
        .arg(&server.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ec2fleet runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn following_prints_each_event_once() {
    use std::io::BufRead;
    let server = plugin();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ec2fleet"))
        .args(["events", "--follow", "--json", "--socket"])
        .arg(&server.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ec2fleet runs");
    let lines = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let seqs: Vec<u64> = lines
        .take(3)
        .map(|line| serde_json::from_str::<EventReport>(&line.expect("a line")).expect("an event").seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(child.try_wait().expect("it can be asked"), None, "it goes on waiting");
    child.kill().expect("it is still there");
    child.wait().expect("it ends");
}

#[test]
fn the_version_of_both_sides_is_told() {
    let ran = on_plugin(&["version", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&value["program"], &value["plugin"]), (&env!("CARGO_PKG_VERSION").into(), &"9.9.9".into()));
    let ran = on_plugin(&["version"]);
    assert!(ran.stdout.contains("plugin 9.9.9"), "{}", ran.seen());
}

/// The members of what a command prints are those that its schema describes, at every level.
#[test]
fn what_is_printed_is_what_the_schema_describes() {
    for (name, arguments) in [
        ("status", &["status", "--json"][..]),
        ("nodes", &["nodes", "--json"]),
        ("events", &["events", "--json"]),
        ("explain", &["explain", "aws-spot-7", "--json"]),
        ("plan", &["gc", "--yes", "--json"]),
        ("capacity", &["capacity", "--json"]),
        ("fleets", &["fleets", "--json"]),
        ("doctor", &["doctor", "--offline", "--json"]),
        ("accepted", &["resume", "aws-spot-[0-3]", "--json", "--yes"]),
        ("done", &["unlock", "aws-spot-8", "--json"]),
        ("error", &["reload", "--json"]),
        ("version", &["version", "--json"]),
        ("validate", &["validate", "--json"]),
    ] {
        let schema: serde_json::Value =
            serde_json::from_str(&on_plugin(&["schema", name]).stdout).expect("a schema");
        let printed: serde_json::Value = serde_json::from_str(&on_plugin(arguments).stdout).expect("JSON");
        describes(&schema, &schema, &printed, name);
    }
    for name in ["config", "partitions", "cost", "event", "generate-conf", "difference"] {
        let schema: serde_json::Value =
            serde_json::from_str(&on_plugin(&["schema", name]).stdout).expect("a schema");
        assert!(schema["properties"].is_object(), "{name}");
    }
}

pub fn describes(root: &serde_json::Value, schema: &serde_json::Value, value: &serde_json::Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointed = root.pointer(reference.trim_start_matches('#')).expect("a definition");
        return describes(root, pointed, value, at);
    }
    for choices in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[choices].as_array() {
            let fits = |choice: &serde_json::Value| {
                std::panic::catch_unwind(|| describes(root, choice, value, at)).is_ok()
            };
            assert!(choices.iter().any(fits), "{at}: {value} is none of {choices:?}");
            return;
        }
    }
    match value {
        serde_json::Value::Object(members) => {
            for (key, member) in members {
                let described = &schema["properties"][key];
                assert!(!described.is_null(), "{at}.{key} is not described");
                describes(root, described, member, &format!("{at}.{key}"));
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                let key = required.as_str().expect("a name");
                assert!(members.contains_key(key), "{at}.{key} is required");
            }
        }
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                describes(root, &schema["items"], item, &format!("{at}[{index}]"));
            }
        }
        plain => {
            let kind = match plain {
                serde_json::Value::String(_) => "string",
                serde_json::Value::Bool(_) => "boolean",
                serde_json::Value::Null => "null",
                serde_json::Value::Number(number) if number.is_f64() => "number",
                _ => "integer",
            };
            let types = schema["type"].to_string();
            assert!(types.contains(kind) || schema["const"] == *plain, "{at}: {plain} is no {types}");
        }
    }
}

#[test]
fn pages_and_completions_are_made() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let man = dir.path().join("man");
    let ran = ec2fleet(dir.path(), &["man", &man.display().to_string()]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    let page = |name: &str| std::fs::read_to_string(man.join(name)).expect(name);
    assert!(page("ec2fleet.1").contains("Exit codes"));
    assert!(page("ec2fleet-generate-conf.1").contains("slurm.conf.aws"));
    assert!(page("ec2fleet-resume.8").contains("ResumeProgram"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = ec2fleet(dir.path(), &["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("generate-conf"), "{shell}");
    }
    let ran = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().and_then(|mut child| {
        let script = ec2fleet(dir.path(), &["completions", "bash"]).stdout;
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), script.as_bytes())?;
        child.wait()
    });
    assert!(ran.expect("bash runs").success(), "bash understands it");
}

#[test]
fn every_schema_is_documented() {
    let page = include_str!("../../docs/json.md");
    let help = on_plugin(&["schema", "--help"]).stdout;
    // `- status:  status --json`, one line for each.
    let names: Vec<&str> =
        help.lines().filter_map(|line| line.trim_start().strip_prefix("- ")?.split(':').next()).collect();
    assert!(names.len() >= 18, "{help}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("`schema {name}`")), "{name}");
    }
}

/// Neither a view that looks like a broken plugin, nor a stack of system errors.
#[test]
fn who_may_not_ask_the_plugin_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let server = plugin();
    let open = tempfile::tempdir().expect("a scratch folder");
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    allow(open.path(), 0o755);
    std::fs::write(open.path().join("slurm.conf"), "ClusterName=demo\n").expect("written");
    // Root is refused nothing: so somebody else asks. Anybody else loses the right to his own folder.
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let folder = server.path.parent().expect("a folder");
    allow(folder, if root { 0o700 } else { 0o000 });
    // Where tests are built is not always open to others.
    let tool = open.path().join("ec2fleet");
    // By another process: what a test starts while this one has the copy open for writing holds it open too, and Linux runs no
    // program that anybody may still write.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ec2fleet")).arg(&tool).status().expect("cp runs");
    assert!(copied.success(), "{copied}");
    for arguments in
        [&["status"][..], &["nodes"], &["events"], &["lock", "aws-spot-1", "--reason", "x"], &["gc", "--yes"]]
    {
        let mut command = Command::new(&tool);
        command.args(arguments).arg("--socket").arg(&server.path).env_clear();
        command
            .env("PATH", "/nonexistent")
            .env("SLURM_CONF", open.path().join("slurm.conf"))
            .stdin(Stdio::null());
        if root {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().expect("it runs");
        // Where there is something to see without the plugin, it is shown as well.
        let seen =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {seen}");
        assert!(
            seen.contains("You may not talk to the plugin") && seen.contains("root or as SlurmUser"),
            "{seen}"
        );
    }
    allow(folder, 0o700);
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! When the plugin acts and when it only watches: role, configuration, fence, panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::active::{Active, End, HEARTBEAT, SlurmPort};
use super::clock::unix_ms;
use super::commands::{self, Fresh, Identity};
use super::defects::{ATTEMPTS, Defects};
use super::host::HostLink;
use super::metrics;
use super::places;
use super::plugin::PluginOptions;
use super::protocol::{Operation, RefusalKind, Reply, Response};
use super::setup::{self, Configured, SetupError};
use super::socket::{Command, Socket, SocketOptions};
use crate::core::engine::PowerSource;
use crate::core::fact::{Fact, FactKind};
use crate::core::report::{Mode, SCHEMA_VERSION, Severity, StatusReport};
use crate::journal::storage::FileStorage;
use crate::observe::log;
use crate::slurm::controller::HostLogLevel;

/// Commands that may wait.
const COMMANDS: usize = 256;

/// How often a plugin that cannot act looks whether it can now.
const RETRY: Duration = Duration::from_secs(1);

/// How often a standby looks whether it is the primary controller now.
const ROLE_POLL: Duration = Duration::from_millis(25);

type Commands = Arc<Mutex<mpsc::Receiver<Command>>>;

/// Run until slurmctld stops the plugin.
pub async fn run(options: PluginOptions, host: HostLink, mut stop: watch::Receiver<bool>) {
    let (sender, receiver) = mpsc::channel(COMMANDS);
    let receiver: Commands = Arc::new(Mutex::new(receiver));
    let mut last_complaint = String::new();
    let mut listening: Option<Listening> = None;
    let mut defects = Defects::default();
    let mut restarted = None;
    loop {
        if *stop.borrow() {
            break;
        }
        if !host.shared.primary.load(Ordering::SeqCst) {
            listening = None;
            pause(&mut stop, ROLE_POLL).await;
            continue;
        }
        let failure = match catch_unwind(AssertUnwindSafe(|| begin(&options, &host, restarted.take()))) {
            Ok(Ok((configured, active))) => {
                last_complaint.clear();
                if listening.is_none() {
                    listening = Some(listen(&configured, &sender, &stop, &host));
                }
                let task = tokio::spawn(act(
                    active,
                    identity(&options, &configured),
                    configured,
                    options.clone(),
                    host.clone(),
                    Arc::clone(&receiver),
                    stop.clone(),
                ));
                match task.await {
                    Ok(End::Stopped) => break,
                    Ok(end @ (End::NotPrimary | End::FenceLost)) => {
                        host.shared.watch(None);
                        host.log(HostLogLevel::Info, format!("no longer acting: {end:?}"));
                        continue;
                    }
                    Err(failure) => failure.to_string(),
                }
            }
            Ok(Err(error)) => {
                // Every second again, but said once: the log must stay readable.
                let complaint = error.to_string();
                if complaint != last_complaint {
                    let level = if matches!(error, SetupError::Fenced(_)) {
                        HostLogLevel::Info
                    } else {
                        HostLogLevel::Error
                    };
                    host.log(level, format!("passive: {complaint}"));
                    last_complaint = complaint;
                }
                pause(&mut stop, RETRY).await;
                continue;
            }
            Err(_) => "it could not start from its journal and configuration".to_owned(),
        };
        host.shared.watch(None);
        if let Some(attempt) = defects.attempt(Instant::now()) {
            // What it had begun is finished from the journal, as after any crash.
            let text = format!(
                "a defect ended the engine: {failure}. It starts again from its journal ({attempt} of {ATTEMPTS})"
            );
            host.log(HostLogLevel::Error, &text);
            restarted = Some(text);
            continue;
        }
        let reason = format!(
            "a defect stopped the plugin: {failure}. The programs take over; restart slurmctld to load it anew"
        );
        host.log(HostLogLevel::Error, format!("passive: {reason}"));
        let cluster = setup::configure(options.config_dir.as_deref(), options.slurm_conf.as_deref())
            .map(|configured| configured.loaded.site.cluster)
            .unwrap_or_default();
        stay_passive(&reason, &cluster, &receiver, &mut stop).await;
        break;
    }
    host.shared.watch(None);
    drop(listening);
}

/// The socket server and the metrics, ended when this is dropped.
struct Listening(Vec<JoinHandle<()>>);

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// `restarted`: why the engine before this one ended, if a defect ended it.
fn begin(
    options: &PluginOptions,
    host: &HostLink,
    restarted: Option<String>,
) -> Result<(Configured, Active<FileStorage>), SetupError> {
    let configured = setup::configure(options.config_dir.as_deref(), options.slurm_conf.as_deref())?;
    let fence = setup::take_fence(&configured.state_dir, "slurmctld")?;
    let link = host.clone();
    setup::start_log(
        &configured,
        false,
        Some(Box::new(move |severity, line| to_slurmctld(&link, severity, line))),
    );
    let mut active =
        setup::activate(&configured, fence, PowerSource::Watch, SlurmPort::InProcess(host.clone()))?;
    if let Some(text) = restarted {
        active.note(vec![Fact::new(unix_ms(), FactKind::Restarted, text)], None);
    }
    host.log(
        HostLogLevel::Info,
        format!(
            "acting for cluster {} from {}",
            configured.loaded.site.cluster,
            configured.config_dir.display()
        ),
    );
    Ok((configured, active))
}

/// slurmctld's own log gets what an administrator must not miss; the rest is in our log file.
fn to_slurmctld(host: &HostLink, severity: Severity, line: &str) {
    match severity {
        Severity::Error => host.log(HostLogLevel::Error, line),
        Severity::Warning => host.log(HostLogLevel::Info, line),
        Severity::Info => host.log(HostLogLevel::Verbose, line),
        Severity::Debug => {}
    }
}

fn listen(
    configured: &Configured,
    commands: &mpsc::Sender<Command>,
    stop: &watch::Receiver<bool>,
    host: &HostLink,
) -> Listening {
    let mut tasks = Vec::new();
    // Acting matters more than answering: what cannot be had is said and done without.
    match Socket::bind(&places::socket(&configured.state_dir), SocketOptions::default()) {
        Ok(socket) => {
            let (commands, stop, host) = (commands.clone(), stop.clone(), host.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = socket.serve(commands, stop).await {
                    host.log(HostLogLevel::Error, format!("the socket failed: {error}"));
                }
            }));
        }
        Err(error) => {
            host.log(
                HostLogLevel::Error,
                format!("the tool and the programs cannot reach the plugin: {error}"),
            );
        }
    }
    let program = &configured.loaded.program;
    if let Some(port) = program.metrics_port {
        let (commands, host) = (commands.clone(), host.clone());
        tasks.push(tokio::spawn(async move {
            if let Err(error) = metrics::serve(port, commands).await {
                host.log(HostLogLevel::Error, format!("no metrics on port {port}: {error}"));
            }
        }));
    }
    if let Some(path) = program.metrics_file.clone() {
        let commands = commands.clone();
        tasks.push(tokio::spawn(async move { metrics::write_file(&path, commands).await }));
    }
    Listening(tasks)
}

fn identity(options: &PluginOptions, configured: &Configured) -> Identity {
    let release = options.slurm_version;
    Identity {
        since_unix_ms: unix_ms(),
        // SLURM_VERSION_NUM(a,b,c) of slurm.h.
        slurm_release: format!("{}.{:02}.{}", release >> 16, (release >> 8) & 0xff, release & 0xff),
        journal_path: configured.state_dir.join("journal").display().to_string(),
        warnings: warnings(configured),
        paused: None,
    }
}

fn warnings(configured: &Configured) -> Vec<String> {
    configured.loaded.warnings.iter().map(ToString::to_string).collect()
}

async fn act(
    mut active: Active<FileStorage>,
    mut identity: Identity,
    configured: Configured,
    options: PluginOptions,
    host: HostLink,
    commands: Commands,
    mut stop: watch::Receiver<bool>,
) -> End {
    host.shared.watch(Some(active.events.clone()));
    let mut commands = commands.lock().await;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let reload = move || -> Result<Fresh, String> {
        let fresh = setup::configure(options.config_dir.as_deref(), options.slurm_conf.as_deref())
            .map_err(|error| error.to_string())?;
        if fresh.state_dir != configured.state_dir {
            return Err("StateDir cannot be changed while slurmctld runs: restart slurmctld".into());
        }
        if fresh.loaded.site.cluster != configured.loaded.site.cluster {
            // Every instance carries the old name.
            return Err(
                "ClusterName cannot be changed while slurmctld runs: stop slurmctld, end the cluster's \
                        instances, remove the state directory and start it"
                    .into(),
            );
        }
        Ok(Fresh { warnings: warnings(&fresh), site: Arc::new(fresh.loaded.site) })
    };
    loop {
        let held = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return End::Stopped,
            command = commands.recv() => match command {
                Some(command) => commands::obey(&mut active, &mut identity, &reload, command),
                None => return End::Stopped,
            },
            _ = heartbeat.tick() => {
                if !host.shared.primary.load(Ordering::SeqCst) {
                    return End::NotPrimary;
                }
                active.heartbeat()
            }
            () = host.shared.reconfigured.notified() => {
                commands::reconfigured(&mut active, &mut identity, &reload)
            }
            held = active.turn() => held,
        };
        if !held {
            return End::FenceLost;
        }
    }
}

/// Answer that the programs have to do the work.
async fn stay_passive(reason: &str, cluster: &str, commands: &Commands, stop: &mut watch::Receiver<bool>) {
    let since = unix_ms();
    let mut commands = commands.lock().await;
    loop {
        let command = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            command = commands.recv() => command,
        };
        let Some(command) = command else { return };
        let response = match command.request.op {
            Operation::Ping => Response::ok(Reply::Pong { version: env!("CARGO_PKG_VERSION").into() }),
            Operation::Status => {
                Response::ok(Reply::Status(Box::new(passive_status(reason, cluster, since))))
            }
            _ => Response::refused(RefusalKind::Passive, reason, "restart slurmctld to load the plugin anew"),
        };
        let _ = command.reply.send(response);
    }
}

fn passive_status(reason: &str, cluster: &str, since_unix_ms: u64) -> StatusReport {
    StatusReport {
        schema: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: cluster.to_owned(),
        mode: Mode::Passive { reason: reason.to_owned() },
        since_unix_ms,
        now_unix_ms: unix_ms(),
        slurm_release: String::new(),
        pid: std::process::id(),
        paused: None,
        groups: Vec::new(),
        cloud: Vec::new(),
        slurm: crate::core::report::SlurmReport::default(),
        queue: crate::core::report::QueueReport::default(),
        journal: crate::core::report::JournalReport::default(),
        warnings: vec![reason.to_owned()],
    }
}

async fn pause(stop: &mut watch::Receiver<bool>, time: Duration) {
    // Whichever comes first.
    let _ = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await;
}

/// Our log must not reach into slurmctld once the shim may be gone.
pub fn end_log() {
    log::stop();
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! When the plugin acts and when it only watches: role, configuration, fence, panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::active::{Active, End, HEARTBEAT, SlurmPort};
use super::clock::{Clock, unix_ms};
use super::commands::{self, Fresh, Identity};
use super::host::HostLink;
use super::metrics::{self, Board};
use super::places;
use super::plugin::PluginOptions;
use super::setup::{self, Configured, SetupError};
use ec2fleet_control::protocol::{Operation, RefusalKind, Reply, Response};
use ec2fleet_control::socket::{Command, Socket, SocketOptions};
use ec2fleet_core::engine::PowerSource;
use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::report::{Mode, SCHEMA_VERSION, Severity, StatusReport};
use ec2fleet_core::restarts::{ATTEMPTS, Inactive, Next, Restarts};
use ec2fleet_journal::storage::FileStorage;
use ec2fleet_observe::history::Origin;
use ec2fleet_observe::log;
use ec2fleet_slurm::controller::HostLogLevel;

/// Commands that may wait.
const COMMANDS: usize = 256;

/// Who waits for an answer: on the socket, and at the metrics.
#[derive(Clone)]
struct Askers {
    commands: Arc<Mutex<mpsc::Receiver<Command>>>,
    metrics: Board,
}

/// Run until slurmctld stops the plugin.
pub async fn run(options: PluginOptions, host: HostLink, stop: watch::Receiver<bool>) {
    let (sender, receiver) = mpsc::channel(COMMANDS);
    let mut supervisor = Supervisor {
        options,
        host,
        stop,
        sender,
        askers: Askers { commands: Arc::new(Mutex::new(receiver)), metrics: Board::default() },
        clock: Clock::default(),
        restarts: Restarts::default(),
        last_complaint: String::new(),
        listening: None,
        restarted: None,
    };
    supervisor.run().await;
    supervisor.host.shared.watch(None);
}

/// What outlives an engine.
struct Supervisor {
    options: PluginOptions,
    host: HostLink,
    stop: watch::Receiver<bool>,
    sender: mpsc::Sender<Command>,
    askers: Askers,
    clock: Clock,
    restarts: Restarts,
    /// Why no engine could begin, as it was said last.
    last_complaint: String,
    listening: Option<Listening>,
    /// Why the engine before this one ended, if a defect ended it.
    restarted: Option<String>,
}

impl Supervisor {
    async fn run(&mut self) {
        while !*self.stop.borrow() {
            let Some((why, text)) = self.act_if_primary().await else { return };
            match self.restarts.step(self.clock.now().mono_ms, why) {
                Next::After { ms } => pause(&mut self.stop, Duration::from_millis(ms)).await,
                Next::Restart { attempt } => self.note_restart(&text, attempt),
                Next::StayPassive => {
                    self.stay_passive(&text).await;
                    return;
                }
            }
        }
    }

    /// Act for as long as that goes well; then why it ended, and with which words. `None`: slurmctld stops the plugin.
    async fn act_if_primary(&mut self) -> Option<(Inactive, String)> {
        if !self.host.shared.primary.load(Ordering::SeqCst) {
            self.listening = None;
            return Some((Inactive::Standby, String::new()));
        }
        let restarted = self.restarted.take();
        match catch_unwind(AssertUnwindSafe(|| begin(&self.options, &self.host, restarted))) {
            Ok(Ok((configured, active))) => self.act(configured, active).await,
            Ok(Err(error)) => {
                self.complain(&error);
                Some((Inactive::Refused, String::new()))
            }
            Err(_) => {
                self.host.shared.watch(None);
                let text = "it could not start from its journal and configuration".to_owned();
                Some((Inactive::Panicked, text))
            }
        }
    }

    async fn act(
        &mut self,
        configured: Configured,
        active: Active<FileStorage>,
    ) -> Option<(Inactive, String)> {
        self.last_complaint.clear();
        if self.listening.is_none() {
            self.listening = Some(self.listen(&configured));
        }
        let task = tokio::spawn(act(
            active,
            identity(&self.options, &configured),
            configured,
            self.options.clone(),
            self.host.clone(),
            self.askers.clone(),
            self.stop.clone(),
        ));
        let end = task.await;
        if matches!(end, Ok(End::Stopped)) {
            return None;
        }
        self.host.shared.watch(None);
        Some(match end {
            Ok(end) => {
                self.host.log(HostLogLevel::Info, format!("no longer acting: {end:?}"));
                (Inactive::Resigned, String::new())
            }
            Err(failure) => (Inactive::Panicked, failure.to_string()),
        })
    }

    fn listen(&self, configured: &Configured) -> Listening {
        let mut tasks = Vec::new();
        // Acting matters more than answering: what cannot be had is said and done without.
        match Socket::bind(&places::socket(&configured.state_dir), SocketOptions::default()) {
            Ok(socket) => {
                let (commands, stop, host) = (self.sender.clone(), self.stop.clone(), self.host.clone());
                tasks.push(tokio::spawn(async move {
                    if let Err(error) = socket.serve(commands, stop).await {
                        host.log(HostLogLevel::Error, format!("the socket failed: {error}"));
                    }
                }));
            }
            Err(error) => {
                self.host.log(
                    HostLogLevel::Error,
                    format!("the tool and the programs cannot reach the plugin: {error}"),
                );
            }
        }
        let program = &configured.loaded.program;
        if let Some(port) = program.metrics_port {
            let (board, host) = (self.askers.metrics.clone(), self.host.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = metrics::serve(port, board).await {
                    host.log(HostLogLevel::Error, format!("no metrics on port {port}: {error}"));
                }
            }));
        }
        if let Some(path) = program.metrics_file.clone() {
            let board = self.askers.metrics.clone();
            tasks.push(tokio::spawn(async move { metrics::write_file(&path, board).await }));
        }
        Listening(tasks)
    }

    /// It is tried every second and said once: the log must stay readable.
    fn complain(&mut self, error: &SetupError) {
        let complaint = error.to_string();
        if complaint == self.last_complaint {
            return;
        }
        let level =
            if matches!(error, SetupError::Fenced(_)) { HostLogLevel::Info } else { HostLogLevel::Error };
        self.host.log(level, format!("passive: {complaint}"));
        self.last_complaint = complaint;
    }

    /// What the engine had begun is finished from the journal, as after any crash.
    fn note_restart(&mut self, failure: &str, attempt: usize) {
        let text = format!(
            "a defect ended the engine: {failure}. It starts again from its journal ({attempt} of {ATTEMPTS})"
        );
        self.host.log(HostLogLevel::Error, &text);
        self.restarted = Some(text);
    }

    async fn stay_passive(&mut self, failure: &str) {
        let reason = format!(
            "a defect stopped the plugin: {failure}. The programs take over; restart slurmctld to load it anew"
        );
        self.host.log(HostLogLevel::Error, format!("passive: {reason}"));
        let options = &self.options;
        let cluster = setup::configure(options.config_dir.as_deref(), options.slurm_conf.as_deref())
            .map(|configured| configured.loaded.site.cluster)
            .unwrap_or_default();
        stay_passive(&reason, &cluster, &self.askers, &mut self.stop).await;
    }
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
        active.note(vec![Fact::new(unix_ms(), FactKind::Restarted, text)], &Origin::default());
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
    askers: Askers,
    mut stop: watch::Receiver<bool>,
) -> End {
    host.shared.watch(Some(active.events.clone()));
    let mut commands = askers.commands.lock().await;
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
                askers.metrics.render_if_asked(|| commands::status(&active, &identity));
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
async fn stay_passive(reason: &str, cluster: &str, askers: &Askers, stop: &mut watch::Receiver<bool>) {
    let since = unix_ms();
    let mut commands = askers.commands.lock().await;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let command = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = heartbeat.tick() => {
                askers.metrics.render_if_asked(|| passive_status(reason, cluster, since));
                continue;
            }
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

pub(crate) fn passive_status(reason: &str, cluster: &str, since_unix_ms: u64) -> StatusReport {
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
        slurm: ec2fleet_core::report::SlurmReport::default(),
        queue: ec2fleet_core::report::QueueReport::default(),
        journal: ec2fleet_core::report::JournalReport::default(),
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

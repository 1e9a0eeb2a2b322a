// SPDX-License-Identifier: GPL-3.0-or-later
//! [`Slurm`] through scontrol and squeue, for the programs, which run outside slurmctld.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Slurm;
use super::process::{self, Finished};
use super::scontrol::{parse_limit_minutes, parse_nodes, parse_time};
use ec2fleet_core::hostlist;
use ec2fleet_core::slurm_api::{
    NodeStateChange, NodeUpdate, SlurmError, SlurmReply, SlurmRequest, SlurmResult,
};

/// Longest single argument that is given to scontrol. Linux allows 128 KiB (execve(2), MAX_ARG_STRLEN).
const MAX_ARGUMENT: usize = 100 << 10;

/// Where Slurm's commands are and how long they may take.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// SlurmBinPath; `None`: found by PATH.
    pub bin_dir: Option<PathBuf>,
    /// Value of SLURM_CONF for the commands; `None`: as in our own environment.
    pub slurm_conf: Option<PathBuf>,
    /// For one command. scontrol itself gives up after about ten seconds when slurmctld does not answer.
    pub timeout: Duration,
}

impl Default for CommandOptions {
    fn default() -> Self {
        Self { bin_dir: None, slurm_conf: None, timeout: Duration::from_secs(30) }
    }
}

/// Slurm, seen from outside.
#[derive(Clone, Debug)]
pub struct CommandSlurm {
    options: Arc<CommandOptions>,
    release: Arc<OnceLock<(u32, u32)>>,
}

impl CommandSlurm {
    #[must_use]
    pub fn new(options: CommandOptions) -> Self {
        Self { options: Arc::new(options), release: Arc::default() }
    }

    /// The request, done before this returns.
    ///
    /// # Errors
    /// As [`Slurm::call`]. A hostlist with an unknown node is applied to the known ones and then refused; and of an
    /// update that takes several commands, those before the failed one are applied.
    pub fn call_blocking(&self, request: &SlurmRequest) -> SlurmResult {
        match request {
            SlurmRequest::LoadNodes => {
                let output = self.scontrol("the nodes", &["-a", "-o", "show", "nodes"])?;
                Ok(SlurmReply::Nodes(parse_nodes(&output.stdout)))
            }
            SlurmRequest::UpdateNodes(update) => self.update_nodes(update),
            SlurmRequest::StartReadyJobs => Err(SlurmError::Unsupported {
                what: "starting jobs whose nodes are up".into(),
                message: "only the plugin inside slurmctld can ask for it".into(),
            }),
            SlurmRequest::KeepResponding { .. } => Err(SlurmError::Unsupported {
                what: "keeping a sleeping node alive".into(),
                message: "only the plugin inside slurmctld can reset the clock of SlurmdTimeout".into(),
            }),
            SlurmRequest::ExtendJobs { node, minutes } => self.extend_jobs(node, *minutes),
        }
    }

    /// Year and month of the Slurm release.
    ///
    /// # Errors
    /// When scontrol cannot be run or says something else.
    pub fn release(&self) -> Result<(u32, u32), SlurmError> {
        if let Some(release) = self.release.get() {
            return Ok(*release);
        }
        let text = self.release_text()?;
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(year)), Some(Ok(month))) => Ok(*self.release.get_or_init(|| (year, month))),
            _ => Err(SlurmError::Unsupported {
                what: "its release".into(),
                message: format!("scontrol calls it \"{text}\""),
            }),
        }
    }

    /// The Slurm release as scontrol says it: `22.05.8`.
    ///
    /// # Errors
    /// When scontrol cannot be run.
    pub fn release_text(&self) -> Result<String, SlurmError> {
        let output = self.scontrol("its release", &["--version"])?;
        // "slurm-wlm 22.05.8" on Debian, "slurm 24.11.5" elsewhere.
        Ok(output.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned())
    }

    /// What Slurm says about a job.
    ///
    /// # Errors
    /// When Slurm cannot be asked or does not know the job.
    pub fn job(&self, id: u32) -> Result<JobInfo, SlurmError> {
        let what = format!("job {id}");
        let format = "%T|%r|%V|%N";
        let output =
            self.run(&what, "squeue", &["-a", "-h", "-t", "all", "-j", &id.to_string(), "-o", format])?;
        // An array is several lines; the first one that has nodes tells the most.
        let jobs = output.stdout.lines().filter_map(parse_job);
        jobs.max_by_key(|job| !job.nodes.is_empty()).ok_or_else(|| SlurmError::Refused {
            what,
            errno: 2017,
            message: "Slurm has no such job, or it ended some time ago".into(),
        })
    }

    /// Jobs that slurmctld still knows and that had nodes: those that run, and those that ended some minutes ago.
    ///
    /// # Errors
    /// When Slurm cannot be asked.
    pub fn present_jobs(&self) -> Result<Vec<JobSpan>, SlurmError> {
        let arguments = ["-a", "-h", "-t", "all", "-o", "%A|%S|%e|%N"];
        let output = self.run("the jobs", "squeue", &arguments)?;
        let now = now_unix_ms();
        // %e of a job that runs is when its time limit ends.
        let of_past = |end: u64| (end <= now).then_some(end);
        let job = |line: &str| {
            let mut job = parse_job_span(line)?;
            job.end_unix_ms = job.end_unix_ms.and_then(of_past);
            Some(job)
        };
        Ok(output.stdout.lines().filter_map(job).collect())
    }

    /// Jobs that had nodes since a time, from Slurm's accounting; `None` if there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn accounted_jobs(&self, since_unix_ms: u64) -> Result<Option<Vec<JobSpan>>, SlurmError> {
        let what = "the jobs of the past";
        let storage = self.config_value("AccountingStorageType")?.unwrap_or_default();
        if !storage.contains("slurmdbd") {
            return Ok(None);
        }
        let since = utc_time(since_unix_ms);
        // --duplicates: a job that was requeued has a line for each of its runs.
        let arguments =
            ["-a", "-X", "--duplicates", "-n", "-P", "-S", &since, "-o", "JobIDRaw,Start,End,NodeList"];
        let output = self.run(what, "sacct", &arguments)?;
        Ok(Some(output.stdout.lines().filter_map(parse_job_span).collect()))
    }

    /// A parameter of the running slurmctld, as `scontrol show config` says it.
    ///
    /// # Errors
    /// When Slurm cannot be asked.
    pub fn config_value(&self, key: &str) -> Result<Option<String>, SlurmError> {
        let output = self.scontrol("its configuration", &["show", "config"])?;
        let value = output.stdout.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case(key).then(|| value.trim().to_owned())
        });
        Ok(value.filter(|value| !value.is_empty() && value != "(null)"))
    }

    fn update_nodes(&self, update: &NodeUpdate) -> SlurmResult {
        let count = update.names.len();
        let lists = [&update.addrs, &update.hostnames, &update.instance_ids, &update.instance_types];
        if let Some(list) = lists.into_iter().flatten().find(|list| list.len() != count) {
            return Err(SlurmError::Refused {
                what: "an update of nodes".into(),
                errno: 0,
                message: format!("{} values for {count} nodes", list.len()),
            });
        }
        if count == 0 {
            return Ok(SlurmReply::Done);
        }
        if update.addrs.is_some()
            || update.hostnames.is_some()
            || update.state.is_some()
            || update.reason.is_some()
            || update.weight.is_some()
        {
            self.update_range(update, 0, count)?;
        }
        self.update_instances(update)?;
        Ok(SlurmReply::Done)
    }

    /// The nodes from `start` to before `end` in one command, or in two halves if their lists are too long for one.
    fn update_range(&self, update: &NodeUpdate, start: usize, end: usize) -> Result<(), SlurmError> {
        // In this order: slurmctld matches the names and addresses of an update one by one.
        let names = hostlist::fold_ordered(&update.names[start..end]);
        let mut arguments = vec!["update".to_owned(), format!("NodeName={names}")];
        for (key, list) in [("NodeAddr", &update.addrs), ("NodeHostname", &update.hostnames)] {
            if let Some(list) = list {
                arguments.push(format!("{key}={}", hostlist::fold_ordered(&list[start..end])));
            }
        }
        if let Some(state) = update.state {
            arguments.push(format!("State={}", state_word(state)));
        }
        if let Some(weight) = update.weight {
            arguments.push(format!("Weight={weight}"));
        }
        if let Some(reason) = update.reason.as_deref().or_else(|| default_reason(update.state)) {
            arguments.push(format!("Reason={}", one_line(reason)));
        }
        if end - start > 1 && arguments.iter().any(|argument| argument.len() > MAX_ARGUMENT) {
            let middle = start + (end - start) / 2;
            self.update_range(update, start, middle)?;
            return self.update_range(update, middle, end);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.scontrol(&format!("an update of {}", short(&names)), &arguments).map(drop)
    }

    /// InstanceId and InstanceType, which are only shown to people. One value holds for all nodes of a call
    /// (23.11 to 25.11; 26.05 also takes lists), so each value is a command; one scontrol reads them all.
    fn update_instances(&self, update: &NodeUpdate) -> Result<(), SlurmError> {
        if update.instance_ids.is_none() && update.instance_types.is_none() {
            return Ok(());
        }
        if self.release()? < (23, 11) {
            return Ok(());
        }
        let mut commands = String::new();
        for (key, values) in [("InstanceType", &update.instance_types), ("InstanceId", &update.instance_ids)]
        {
            let mut nodes_of: indexmap::IndexMap<&str, Vec<&str>> = indexmap::IndexMap::new();
            for (name, value) in update.names.iter().zip(values.iter().flatten()) {
                nodes_of.entry(value).or_default().push(name);
            }
            for (value, names) in nodes_of {
                commands.push_str(&format!("update NodeName={} {key}={value}\n", hostlist::fold(names)));
            }
        }
        // Reading commands from its standard input, scontrol ends with 0 whatever they came to. That is well here:
        // the addresses are set, and the engine must not take them for refused.
        let mut scontrol = self.command("scontrol");
        process::run(&mut scontrol, &commands, self.options.timeout)
            .map(drop)
            .map_err(|error| unreachable("the instances of nodes", &self.program("scontrol"), &error))
    }

    fn extend_jobs(&self, node: &str, minutes: u32) -> SlurmResult {
        let jobs = self.squeue(node, "RUNNING,SUSPENDED", "%A|%l|%P")?;
        let mut caps: Vec<(String, Option<u64>)> = Vec::new();
        for line in jobs.lines() {
            let mut fields = line.split('|');
            let (Some(id), Some(limit), Some(partition)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some(limit) = parse_limit_minutes(limit) else { continue };
            let cap = match caps.iter().find(|(name, _)| name == partition) {
                Some((_, cap)) => *cap,
                None => {
                    let cap = self.max_time(partition)?;
                    caps.push((partition.to_owned(), cap));
                    cap
                }
            };
            let wanted = limit + u64::from(minutes);
            let new = cap.map_or(wanted, |cap| wanted.min(cap));
            if new > limit {
                self.scontrol(
                    &format!("a longer time limit of job {id}"),
                    &["update", &format!("JobId={id}"), &format!("TimeLimit={new}")],
                )?;
            }
        }
        Ok(SlurmReply::Done)
    }

    /// MaxTime of a partition in minutes; `None` is no limit.
    fn max_time(&self, partition: &str) -> Result<Option<u64>, SlurmError> {
        let what = format!("partition {partition}");
        let output = self.scontrol(&what, &["-a", "-o", "show", "partition", partition])?;
        let value = output.stdout.split(' ').find_map(|pair| pair.strip_prefix("MaxTime="));
        Ok(value.and_then(parse_limit_minutes))
    }

    fn squeue(&self, node: &str, states: &str, format: &str) -> Result<String, SlurmError> {
        let arguments = ["-a", "-h", "-w", node, "-t", states, "-o", format];
        self.run(&format!("the jobs of {node}"), "squeue", &arguments).map(|output| output.stdout)
    }

    fn scontrol(&self, what: &str, arguments: &[&str]) -> Result<Finished, SlurmError> {
        self.run(what, "scontrol", arguments)
    }

    fn run(&self, what: &str, program: &str, arguments: &[&str]) -> Result<Finished, SlurmError> {
        // Slurm's commands themselves look for a missing slurm.conf for a minute.
        if let Some(path) = self.options.slurm_conf.as_deref().filter(|path| !path.exists()) {
            let message = format!("{} does not exist", path.display());
            return Err(SlurmError::Unreachable { what: what.to_owned(), message });
        }
        let finished = process::run(self.command(program).args(arguments), "", self.options.timeout)
            .map_err(|error| unreachable(what, &self.program(program), &error))?;
        checked(what, finished)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.options.bin_dir.as_deref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        // What users may set to change the output.
        for variable in
            ["SLURM_TIME_FORMAT", "SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SQUEUE_STATES", "SQUEUE_PARTITION"]
        {
            command.env_remove(variable);
        }
        command.env("TZ", "UTC").env("LC_ALL", "C");
        // slurmctld 22.05 runs ResumeProgram and its like without a PATH (src/slurmctld/power_save.c).
        if std::env::var_os("PATH").is_none_or(|path| path.is_empty()) {
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/slurm/bin:/usr/local/slurm/bin");
        }
        if let Some(path) = &self.options.slurm_conf {
            command.env("SLURM_CONF", path);
        }
        command
    }
}

/// A job, as squeue shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobInfo {
    /// `PENDING`, `CONFIGURING`, `RUNNING`, …
    pub state: String,
    /// Why it is pending.
    pub reason: String,
    /// When it was submitted; `None` if squeue does not say.
    pub submit_unix_ms: Option<u64>,
    /// Hostlist; empty while it has none.
    pub nodes: String,
}

/// A job and the time that it had its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpan {
    pub id: u32,
    /// Hostlist.
    pub nodes: String,
    pub start_unix_ms: u64,
    /// `None` while it runs.
    pub end_unix_ms: Option<u64>,
}

/// `17|2026-01-31T08:00:00|Unknown|aws-spot-[0-3]`; nothing for a job that has not started.
fn parse_job_span(line: &str) -> Option<JobSpan> {
    let mut fields = line.trim().splitn(4, '|');
    let (id, start, end, nodes) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let time = |text: &str| Some(parse_time(text) * 1_000).filter(|ms| *ms > 0);
    let nodes = Some(nodes).filter(|nodes| !nodes.is_empty() && !nodes.starts_with("None"))?;
    Some(JobSpan {
        id: id.parse().ok()?,
        nodes: nodes.to_owned(),
        start_unix_ms: time(start)?,
        end_unix_ms: time(end),
    })
}

fn now_unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// As [`parse_time`] reads it and Slurm's commands, which are run with TZ=UTC.
fn utc_time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

fn parse_job(line: &str) -> Option<JobInfo> {
    let mut fields = line.trim().splitn(4, '|');
    let (state, reason, submitted, nodes) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(JobInfo {
        state: state.to_owned(),
        reason: reason.to_owned(),
        submit_unix_ms: Some(parse_time(submitted) * 1_000).filter(|ms| *ms > 0),
        nodes: nodes.to_owned(),
    })
}

impl Slurm for CommandSlurm {
    fn call(&self, request: SlurmRequest) -> Pin<Box<dyn Future<Output = SlurmResult> + Send>> {
        let slurm = self.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || slurm.call_blocking(&request)).await {
                Ok(result) => result,
                Err(error) => Err(SlurmError::Unreachable {
                    what: "a request".into(),
                    message: format!("the call was cancelled: {error}"),
                }),
            }
        })
    }
}

fn state_word(state: NodeStateChange) -> &'static str {
    match state {
        NodeStateChange::PowerUp => "POWER_UP",
        NodeStateChange::PowerDown => "POWER_DOWN",
        NodeStateChange::PowerDownForce => "POWER_DOWN_FORCE",
        NodeStateChange::Drain => "DRAIN",
        NodeStateChange::Undrain => "UNDRAIN",
        NodeStateChange::Resume => "RESUME",
        NodeStateChange::Down => "DOWN",
    }
}

/// scontrol refuses DOWN and DRAIN without a reason.
fn default_reason(state: Option<NodeStateChange>) -> Option<&'static str> {
    matches!(state, Some(NodeStateChange::Down | NodeStateChange::Drain)).then_some("ec2fleet")
}

/// A reason on one line, since Slurm prints its user and time after the first one, and without a quotation mark at
/// either end, where scontrol takes it away.
fn one_line(reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    words.join(" ").trim_matches('"').chars().take(1_000).collect()
}

fn short(names: &str) -> String {
    if names.len() <= 60 {
        names.to_owned()
    } else {
        format!("{}…", names.chars().take(60).collect::<String>())
    }
}

fn unreachable(what: &str, program: &Path, error: &std::io::Error) -> SlurmError {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "; set SlurmBinPath in config.json to the folder of Slurm's commands",
        std::io::ErrorKind::TimedOut => "; is slurmctld up?",
        _ => "",
    };
    SlurmError::Unreachable {
        what: what.to_owned(),
        message: format!("{}: {error}{hint}", program.display()),
    }
}

/// What slurmctld answers comes as text; scontrol does not print the number (slurm_errno.h).
fn errno(message: &str) -> i32 {
    [("Access/permission denied", 2002), ("Invalid job id specified", 2017), ("Invalid node name", 2018)]
        .into_iter()
        .find(|(text, _)| message.contains(text))
        .map_or(0, |(_, errno)| errno)
}

fn checked(what: &str, finished: Finished) -> Result<Finished, SlurmError> {
    if finished.status.success() {
        return Ok(finished);
    }
    let lines: Vec<&str> = finished.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The last lines say what it came to.
    let message = match lines.len() {
        0 => format!("no message, {}", finished.status),
        count => lines[count.saturating_sub(3)..].join("; "),
    };
    let no_answer = [
        "Unable to contact slurm controller",
        "Socket timed out",
        "Zero Bytes were transmitted",
        "Protocol authentication error",
        "Communication connection failure",
        "fatal: ",
        "Slurm backup controller in standby mode",
    ];
    if no_answer.iter().any(|text| message.contains(text)) {
        return Err(SlurmError::Unreachable { what: what.to_owned(), message });
    }
    Err(SlurmError::Refused { what: what.to_owned(), errno: errno(&message), message })
}

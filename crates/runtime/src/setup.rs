// SPDX-License-Identifier: GPL-3.0-or-later
//! From files to something that can act: configuration, state directory, fence, journal, EC2 client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::active::{Active, EVENTS, SlurmPort};
use super::clock::Clock;
use super::hosts::HostsFile;
use super::places;
use ec2fleet_config::{ConfigErrors, Loaded, LogFormat, LogLevel, ProgramSettings, SlurmFacts};
use ec2fleet_core::engine::{EngineOptions, PowerSource};
use ec2fleet_core::event::Event;
use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::report::Severity;
use ec2fleet_ec2::sdk::{Ec2, Ec2Options, SharedFiles};
use ec2fleet_journal::driver::Driver;
use ec2fleet_journal::fence::{Attempt, Fence};
use ec2fleet_journal::storage::FileStorage;
use ec2fleet_journal::{Journal, JournalError, Opened};
use ec2fleet_observe::history::{History, Origin};
use ec2fleet_observe::log;
use ec2fleet_observe::usage::UsageLog;

/// Why nothing can be done now. The text says what the administrator can do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error(
        "the state directory {dir} cannot be used: {error}. It must be writable by SlurmUser; StateDir in config.json names another one"
    )]
    StateDir { dir: PathBuf, error: std::io::Error },
    #[error("another process acts for this cluster ({0})")]
    Fenced(String),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// A checked configuration with the files that it came from.
#[derive(Clone, Debug)]
pub struct Configured {
    pub config_dir: PathBuf,
    pub slurm: SlurmFacts,
    pub loaded: Loaded,
    pub state_dir: PathBuf,
}

/// Read slurm.conf, config.json and partitions.json.
///
/// # Errors
/// Every configuration error at once.
pub fn configure(config_dir: Option<&Path>, slurm_conf: Option<&Path>) -> Result<Configured, SetupError> {
    let config_dir = places::config_dir(config_dir, slurm_conf);
    // An unreadable slurm.conf leaves Slurm's defaults; what cannot do without it is reported by the check.
    let slurm = slurm_conf.and_then(|path| SlurmFacts::read(path).ok()).unwrap_or_default();
    let loaded = ec2fleet_config::load(&config_dir, &slurm)?;
    let state_dir = places::state_dir(loaded.program.state_dir.as_deref(), &slurm);
    Ok(Configured { config_dir, slurm, loaded, state_dir })
}

/// Point the log at what config.json says.
pub fn start_log(configured: &Configured, stderr: bool, host: Option<log::Host>) {
    let program = &configured.loaded.program;
    let format = match program.log_format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    log::set_level(match program.log_level {
        LogLevel::Debug => Severity::Debug,
        LogLevel::Info => Severity::Info,
        LogLevel::Warning => Severity::Warning,
        LogLevel::Error | LogLevel::Critical => Severity::Error,
    });
    if let Err(error) = log::start(Some(&program.log_file), format, stderr, host) {
        tracing::warn!(target: log::TARGET, "the log file {} cannot be written: {error}", program.log_file.display());
    }
}

/// Take the fence without waiting.
///
/// # Errors
/// When another process holds it, or the state directory cannot be used.
pub fn take_fence(state_dir: &Path, who: &str) -> Result<Fence, SetupError> {
    let unusable = |error| SetupError::StateDir { dir: state_dir.to_owned(), error };
    places::make_state_dir(state_dir).map_err(unusable)?;
    match Fence::try_take(state_dir, who).map_err(unusable)? {
        Attempt::Held(fence) => Ok(fence),
        Attempt::Taken(holder) => Err(SetupError::Fenced(holder)),
    }
}

/// EC2 as config.json says.
#[must_use]
pub fn ec2_options(program: &ProgramSettings) -> Ec2Options {
    // An emulator on plain HTTP must not be given anybody's credentials.
    let emulated = program.endpoint_url.as_deref().is_some_and(|url| url.starts_with("http://"));
    let profile_files = if emulated { None } else { profile_files() };
    Ec2Options { endpoint_url: program.endpoint_url.clone(), profile_files, ..Ec2Options::default() }
}

/// The AWS configuration files of a process without HOME: slurmctld runs ResumeProgram and its like so, and the SDK
/// then finds no profile.
fn profile_files() -> Option<SharedFiles> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if ["HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].into_iter().any(set) {
        return None;
    }
    // By the user's entry in passwd(5).
    let dir = std::env::home_dir()?.join(".aws");
    dir.is_dir().then(|| SharedFiles { config: dir.join("config"), credentials: dir.join("credentials") })
}

/// Everything that acts, under a fence that is held.
///
/// # Errors
/// When the journal cannot be used.
pub fn activate(
    configured: &Configured,
    fence: Fence,
    source: PowerSource,
    slurm: SlurmPort,
) -> Result<Active<FileStorage>, SetupError> {
    let clock = Clock::default();
    let site = Arc::new(configured.loaded.site.clone());
    let storage = FileStorage::new(&configured.state_dir).fenced(fence.witness());
    let Opened { journal, state, damage } = Journal::open(storage, &site.cluster)?;
    let options = EngineOptions { source, nonce: nonce()?, seed: fastrand::u64(..) };
    let driver = Driver::new(journal, state, Arc::clone(&site), options, clock.now());
    let cloud = Ec2::new(ec2_options(&configured.loaded.program));
    let (events, inbox) = mpsc::channel(EVENTS);
    let mut active = Active {
        driver,
        fence,
        hosts: (configured.loaded.program.hosts_file.clone()).map(|path| HostsFile::new(path, &site.cluster)),
        state_dir: configured.state_dir.clone(),
        history: History::open(&configured.state_dir),
        usage: UsageLog::open(&configured.state_dir),
        clock,
        cloud: Arc::new(cloud),
        slurm,
        events,
        inbox,
        handled: 0,
        journal_error: None,
    };
    let mut facts: Vec<Fact> = Vec::new();
    let now = clock.now().unix_ms;
    if let Some(damage) = damage {
        facts.push(Fact::new(now, FactKind::JournalDamaged, damage));
    }
    for warning in &configured.loaded.warnings {
        tracing::warn!(target: log::TARGET, "{warning}");
    }
    let text = format!(
        "acting for cluster {} with {} node groups, epoch {}",
        site.cluster,
        site.groups().len(),
        active.fence.epoch
    );
    facts.push(Fact::new(now, FactKind::Started, text));
    facts.extend(active.write_hosts());
    active.note(facts, &Origin::default());
    active.usage.begin(active.driver.engine.persisted().bindings.values(), now);
    active.give(Event::Tick, None);
    Ok(active)
}

/// Client tokens must not repeat, even if the state directory is restored from a backup.
fn nonce() -> Result<String, SetupError> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| SetupError::Random(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

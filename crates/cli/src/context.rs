// SPDX-License-Identifier: GPL-3.0-or-later
//! Where a program finds its configuration, Slurm and the plugin.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use crate::args::Global;
use crate::client::Client;
use crate::error::{CliError, ErrorKind};
use ec2fleet_config::{CONFIG_FILE, ConfigErrors, Loaded, SlurmFacts};
use ec2fleet_runtime::places;
use ec2fleet_slurm::command::{CommandOptions, CommandSlurm};

/// Where slurm.conf is: packages of Debian and RPM, a build from source, AWS ParallelCluster.
const SLURM_CONFS: [&str; 3] =
    ["/etc/slurm/slurm.conf", "/usr/local/etc/slurm.conf", "/opt/slurm/etc/slurm.conf"];

/// Answers of a healthy plugin take milliseconds; with 10,000 nodes some tens of them.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Everything a command finds out only when it needs it.
pub struct Context {
    pub config_dir: PathBuf,
    /// `None` if no slurm.conf was found.
    pub slurm_conf: Option<PathBuf>,
    pub facts: SlurmFacts,
    /// Why slurm.conf could not be read.
    pub facts_error: Option<String>,
    socket: Option<PathBuf>,
    loaded: OnceCell<Result<Loaded, ConfigErrors>>,
}

impl Context {
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let slurm_conf = global.slurm_conf.clone().or_else(|| {
            let named = std::env::var_os("SLURM_CONF").filter(|value| !value.is_empty()).map(PathBuf::from);
            let beside =
                global.config_dir.iter().flat_map(|dir| ["slurm.conf", "../slurm.conf"].map(|f| dir.join(f)));
            named.or_else(|| beside.chain(SLURM_CONFS.map(PathBuf::from)).find(|path| path.is_file()))
        });
        let config_dir = places::config_dir(global.config_dir.as_deref(), slurm_conf.as_deref());
        let (facts, facts_error) = match &slurm_conf {
            None => (SlurmFacts::default(), Some("no slurm.conf was found".to_owned())),
            Some(path) => match SlurmFacts::read(path) {
                Ok(facts) => (facts, None),
                Err(error) => (SlurmFacts::default(), Some(format!("{}: {error}", path.display()))),
            },
        };
        Self {
            config_dir,
            slurm_conf,
            facts,
            facts_error,
            socket: global.socket.clone(),
            loaded: OnceCell::new(),
        }
    }

    /// The checked configuration, or everything that is wrong with it.
    ///
    /// # Errors
    /// Every configuration error.
    pub fn loaded(&self) -> Result<&Loaded, &ConfigErrors> {
        self.loaded.get_or_init(|| ec2fleet_config::load(&self.config_dir, &self.facts)).as_ref()
    }

    /// As [`Context::loaded`], for commands that can do nothing without it.
    ///
    /// # Errors
    /// With the first errors in its causes.
    pub fn require_config(&self) -> Result<&Loaded, CliError> {
        self.loaded().map_err(|errors| {
            let count = errors.errors.len();
            let mut error = CliError::new(
                ErrorKind::Configuration,
                format!("The configuration in {} cannot be used.", self.config_dir.display()),
            )
            .hint("`ec2fleet validate` shows every error; --config-dir chooses another folder.");
            for finding in errors.errors.iter().take(3) {
                error = error.cause(finding);
            }
            if count > 3 { error.cause(format!("and {} more", count - 3)) } else { error }
        })
    }

    /// Folder of the journal, the fence and the socket: StateDir, or `ec2fleet` in StateSaveLocation.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        match self.loaded() {
            Ok(loaded) => places::state_dir(loaded.program.state_dir.as_deref(), &self.facts),
            Err(_) => places::state_dir(self.raw_path("StateDir").as_deref(), &self.facts),
        }
    }

    /// A path of config.json when the configuration as a whole has errors: the plugin goes on with the one that it
    /// has, and must still be found.
    fn raw_path(&self, key: &str) -> Option<PathBuf> {
        let text = std::fs::read_to_string(self.config_dir.join(CONFIG_FILE)).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        value.get(key)?.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// LogFileName, if it can be found out.
    #[must_use]
    pub fn log_file(&self) -> Option<PathBuf> {
        match self.loaded() {
            Ok(loaded) => Some(loaded.program.log_file.clone()),
            Err(_) => self.raw_path("LogFileName"),
        }
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| places::socket(&self.state_dir()))
    }

    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.socket(), TIMEOUT)
    }

    /// Slurm through its commands.
    #[must_use]
    pub fn slurm(&self) -> CommandSlurm {
        CommandSlurm::new(self.slurm_options())
    }

    #[must_use]
    pub fn slurm_options(&self) -> CommandOptions {
        CommandOptions {
            bin_dir: match self.loaded() {
                Ok(loaded) => loaded.program.slurm_bin_path.clone(),
                Err(_) => self.raw_path("SlurmBinPath"),
            },
            slurm_conf: self.slurm_conf.clone(),
            ..CommandOptions::default()
        }
    }
}

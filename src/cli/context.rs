// SPDX-License-Identifier: GPL-3.0-or-later
//! Where a program finds its configuration, Slurm and the plugin.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::Global;
use super::client::Client;
use super::error::{CliError, ErrorKind};
use crate::config::{self, CONFIG_FILE, ConfigErrors, Loaded, PARTITIONS_FILE, SlurmFacts};
use crate::runtime::socket::SOCKET_NAME;
use crate::slurm::command::{CommandOptions, CommandSlurm};

/// Where Slurm's packages put slurm.conf: Debian and RPM, a build from source, AWS ParallelCluster.
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
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let program = std::env::current_exe().ok();
        let given_dir = global.config_dir.clone().or_else(|| variable("EC2FLEET_CONFIG_DIR"));
        let slurm_conf = global.slurm_conf.clone().or_else(|| variable("SLURM_CONF")).or_else(|| {
            let beside = given_dir.iter().flat_map(|dir| [dir.join("slurm.conf"), dir.join("../slurm.conf")]);
            beside.chain(SLURM_CONFS.map(PathBuf::from)).find(|path| path.is_file())
        });
        let config_dir = given_dir.unwrap_or_else(|| {
            let of_slurm = slurm_conf.as_deref().and_then(Path::parent).map(Path::to_owned);
            // slurmctld starts programs with an empty environment, so their own folder is the other place that a
            // site can choose: the Python plugin kept its programs and its files in one folder, too.
            let of_program = program.as_deref().and_then(Path::parent).map(Path::to_owned);
            of_slurm
                .iter()
                .chain(&of_program)
                .find(|dir| dir.join(PARTITIONS_FILE).is_file())
                .or(of_slurm.as_ref())
                .cloned()
                .unwrap_or_else(|| PathBuf::from("/etc/slurm"))
        });
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
        self.loaded.get_or_init(|| config::load(&self.config_dir, &self.facts)).as_ref()
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
            Ok(loaded) => loaded.program.state_dir.clone(),
            Err(_) => self.raw_path("StateDir"),
        }
        .unwrap_or_else(|| Path::new(self.facts.state_save_location()).join("ec2fleet"))
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
        self.socket.clone().unwrap_or_else(|| self.state_dir().join(SOCKET_NAME))
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

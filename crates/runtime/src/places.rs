// SPDX-License-Identifier: GPL-3.0-or-later
//! Where things are: configuration folder, state directory, socket. One rule for plugin, programs and tool.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ec2fleet_config::{CONFIG_FILE, SlurmFacts};
use ec2fleet_control::socket::SOCKET_NAME;

/// Environment variable that names the configuration folder.
pub const CONFIG_DIR_VARIABLE: &str = "EC2FLEET_CONFIG_DIR";

/// Name of the state directory below StateSaveLocation.
const STATE_DIR_NAME: &str = "ec2fleet";

/// slurm.conf: as Slurm's own commands find it.
#[must_use]
pub fn slurm_conf() -> PathBuf {
    std::env::var_os("SLURM_CONF").map_or_else(|| "/etc/slurm/slurm.conf".into(), PathBuf::from)
}

/// The folder of config.json: the given one, else `EC2FLEET_CONFIG_DIR`, else `ec2fleet` or `aws` next to
/// slurm.conf, else the folder of slurm.conf itself.
#[must_use]
pub fn config_dir(given: Option<&Path>, slurm_conf: Option<&Path>) -> PathBuf {
    if let Some(dir) = given {
        return dir.to_owned();
    }
    if let Some(dir) = std::env::var_os(CONFIG_DIR_VARIABLE) {
        return dir.into();
    }
    let base = slurm_conf.and_then(Path::parent).unwrap_or_else(|| Path::new("/etc/slurm"));
    [base.join("ec2fleet"), base.join("aws"), base.to_owned()]
        .into_iter()
        .find(|dir| dir.join(CONFIG_FILE).exists())
        .unwrap_or_else(|| base.join("ec2fleet"))
}

/// The state directory: `StateDir` of config.json, else `ec2fleet` below StateSaveLocation.
#[must_use]
pub fn state_dir(configured: Option<&Path>, slurm: &SlurmFacts) -> PathBuf {
    configured.map_or_else(|| Path::new(slurm.state_save_location()).join(STATE_DIR_NAME), Path::to_owned)
}

#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET_NAME)
}

/// Make the state directory if its parent is there; a missing parent is a mount that is not up.
///
/// # Errors
/// What the file system said.
pub fn make_state_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! A munged of our own.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{Daemon, run};
use super::{Outcome, paths, wait};

pub struct Munge {
    pub socket: PathBuf,
    daemon: Daemon,
}

impl Munge {
    pub fn start(scratch: &Path) -> Outcome<Self> {
        let folder = scratch.join("munge");
        let setup = || -> std::io::Result<()> {
            use std::io::Write;
            std::fs::create_dir(&folder)?;
            // munged refuses a socket that others could not reach.
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
            let mut key = [0_u8; 128];
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(folder.join("key"))?
                .write_all(&key)
        };
        setup().map_err(|e| format!("{}: {e}", folder.display()))?;
        let socket = folder.join("socket");
        let mut command = Command::new(paths::system("munged")?);
        command.args(["--foreground", "--force", "--num-threads=4"]);
        for (option, file) in [
            ("key-file", "key"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("log-file", "log"),
            ("seed-file", "seed"),
        ] {
            command.arg(format!("--{option}={}", folder.join(file).display()));
        }
        let mut daemon = Daemon::start("munged", command, &folder.join("output"))?;
        let asked = socket.display().to_string();
        wait::until("munged", || {
            daemon.check()?;
            Ok(run(Command::new("munge").args(["-n", "-S", &asked])).ok())
        })?;
        Ok(Self { socket, daemon })
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Where the things under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Outcome;
use super::process::run;

pub fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/rig is two folders below the root")
}

/// The folder of the built programs and of libslurm_ec2_fleet.so: that of this test or example, without `deps/` or
/// `examples/`.
pub fn build() -> PathBuf {
    let mut folder = std::env::current_exe().expect("a running program has a path");
    folder.pop();
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.pop();
    }
    folder
}

pub fn program(name: &str) -> Outcome<PathBuf> {
    existing(build().join(name), "run `make build`")
}

pub fn library() -> Outcome<PathBuf> {
    existing(build().join("libslurm_ec2_fleet.so"), "run `make build`")
}

/// The shim for the installed Slurm; built here if it is not up to date (it takes a second).
pub fn shim() -> Outcome<PathBuf> {
    static BUILT: OnceLock<Outcome<PathBuf>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let folder = build().with_file_name("shim");
            run(Command::new("make")
                .args(["--no-print-directory", "-C"])
                .arg(source().join("c_shim"))
                .arg(format!("OUT={}", folder.display()))
                // A make that started us has its own variables and job slots.
                .env_remove("MAKEFLAGS")
                .env_remove("MAKELEVEL"))?;
            existing(folder.join("job_submit_ec2_fleet.so"), "run `make shim`")
        })
        .clone()
}

pub fn node_side() -> PathBuf {
    source().join("deploy/node/ec2fleet-node")
}

/// A system daemon; the PATH of a user may not have the folders of daemons.
pub fn system(name: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .ok_or_else(|| format!("{name} is not installed: run `make deps`"))
}

/// The folder of the installed Slurm's plugins.
pub fn slurm_plugins() -> Outcome<PathBuf> {
    let mut folders: Vec<PathBuf> =
        ["/usr/lib64/slurm", "/usr/lib/slurm", "/usr/lib/slurm-wlm", "/usr/local/lib/slurm"]
            .map(Into::into)
            .into();
    if let Ok(libraries) = std::fs::read_dir("/usr/lib") {
        folders.extend(libraries.flatten().map(|entry| entry.path().join("slurm-wlm")));
    }
    folders
        .into_iter()
        .find(|folder| folder.join("auth_munge.so").exists())
        .ok_or_else(|| "no Slurm plugins are installed: run `make deps`".to_owned())
}

fn existing(path: PathBuf, remedy: &str) -> Outcome<PathBuf> {
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: {remedy}", path.display())) }
}

/// The installed Slurm's release: `(24, 11)`.
pub fn slurm_release() -> Outcome<(u32, u32)> {
    // `slurm-wlm 22.05.8`, `slurm 24.11.5`
    let text = run(Command::new(system("slurmctld")?).arg("-V"))?;
    text.split_whitespace()
        .last()
        .and_then(|version| {
            let mut parts = version.split('.').map(str::parse);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        })
        .ok_or_else(|| format!("slurmctld -V printed {text:?}"))
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! A whole cluster on this machine: munge, slurmctld, EC2 (ec2-emulator) and compute nodes (real slurmds), with addresses and
//! ports of its own and below one scratch folder: any number of them run side by side. Everything is a real process but Amazon.
//! Dropping the rig ends all of it.

// The demo and the tests each use their own part.
#![allow(dead_code)]

pub mod cluster;
pub mod emulator;
pub mod instances;
pub mod loopback;
pub mod munge;
pub mod paths;
pub mod ports;
pub mod process;
pub mod slurm;
pub mod wait;

use std::path::{Path, PathBuf};

/// What failed, in words for people.
pub type Outcome<T> = Result<T, String>;

/// A scratch folder that outlives a failure.
pub struct Scratch {
    folder: tempfile::TempDir,
}

/// Scratch folders are kept to look at, also of tests that pass.
pub fn keeps_scratch() -> bool {
    std::env::var_os("EC2FLEET_KEEP_SCRATCH").is_some()
}

impl Scratch {
    pub fn new() -> Outcome<Self> {
        let mut folder = tempfile::Builder::new().prefix("ec2fleet-").tempdir().map_err(|e| e.to_string())?;
        if keeps_scratch() {
            folder.disable_cleanup(true);
            eprintln!("scratch folder: {}", folder.path().display());
        }
        Ok(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leave the folder where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

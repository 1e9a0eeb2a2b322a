// SPDX-License-Identifier: GPL-3.0-or-later
//! Emulated instances as processes of this machine (tests/rig/node/instance).

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::{Outcome, paths};

/// Makes the programs that stand for "an instance boots", "ends", "hibernates" and "wakes".
pub struct Instances {
    scratch: PathBuf,
}

/// One event in an instance's life, named as tests/rig/node/instance names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Boot,
    End,
    Freeze,
    Thaw,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Boot, Self::End, Self::Freeze, Self::Thaw];

    fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::End => "end",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

impl Instances {
    /// Compile what makes a process believe in a machine of its own, and write the hook programs.
    pub fn prepare(scratch: &Path, slurm_conf: &Path, node_side: &Path) -> Outcome<Self> {
        let sources = paths::source().join("tests/rig/node");
        compile(&["-shared", "-fPIC"], &sources.join("machine.c"), &scratch.join("machine.so"))?;
        compile(&[], &sources.join("init.c"), &scratch.join("init"))?;
        let instances = Self { scratch: scratch.to_owned() };
        let slurmd = paths::system("slurmd")?;
        for verb in Verb::ALL {
            let text = format!(
                "#!/bin/sh\n\
                 export RIG_FOLDER='{}' RIG_NODE_SIDE='{}' RIG_INSTANCE=\"${{EC2_MEMORY_OF:-$EC2_INSTANCE_ID}}\" SLURM_CONF='{conf}'\n\
                 export SLURMD='{}' SLURMD_OPTIONS='-b -f {conf}'\n\
                 unset LD_PRELOAD\n\
                 exec '{}' {}\n",
                scratch.display(),
                node_side.display(),
                slurmd.display(),
                sources.join("instance").display(),
                verb.as_str(),
                conf = slurm_conf.display(),
            );
            write_program(&instances.program(verb), &text)?;
        }
        Ok(instances)
    }

    /// The program for the emulator to run.
    pub fn program(&self, verb: Verb) -> PathBuf {
        self.scratch.join(format!("instance-{}", verb.as_str()))
    }

    /// Run a hook ourselves. Further environment as the emulator would give it.
    pub fn run(&self, verb: Verb, instance: &str, environment: &[(&str, &str)]) -> Outcome<()> {
        let mut command = Command::new(self.program(verb));
        command.env("EC2_INSTANCE_ID", instance).envs(environment.iter().copied());
        run(&mut command).map(drop)
    }

    /// Instances that have booted and not ended.
    pub fn living(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(self.scratch.join("instances")).into_iter().flatten().flatten() {
            if entry.path().join("address").exists() {
                ids.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        ids.sort();
        ids
    }

    /// What the instance's slurmd printed before it had a log file.
    pub fn console(&self, instance: &str) -> PathBuf {
        self.scratch.join("instances").join(instance).join("console.log")
    }

    /// End whatever still runs.
    pub fn end_all(&self) {
        for instance in self.living() {
            if let Err(error) = self.run(Verb::End, &instance, &[]) {
                eprintln!("{error}");
            }
        }
    }
}

pub fn compile(options: &[&str], source: &Path, result: &Path) -> Outcome<()> {
    run(Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .arg("-o")
        .arg(result)
        .arg(source)
        .arg("-ldl"))
    .map(drop)
}

pub fn write_program(path: &Path, text: &str) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| format!("{}: {e}", path.display()))
}

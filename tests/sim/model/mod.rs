// SPDX-License-Identifier: GPL-3.0-or-later
//! A cluster in virtual time: slurmctld's power save, EC2, the disk and the controllers, moved by one seed.
//!
//! The driver, the engine and the journal in it are the production ones. Everything around them is a model whose
//! rules are EC2's and Slurm's; where a rule comes from is said at the rule.

pub mod chaos;
mod checks;
mod controller;
mod disk;
mod duties;
mod ec2;
mod fleets;
mod kernel;
pub mod mutant;
pub mod plan;
pub mod run;
mod slurmctld;
mod world;

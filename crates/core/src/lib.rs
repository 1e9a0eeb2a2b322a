// SPDX-License-Identifier: GPL-3.0-or-later
//! Pure decisions: no tokio, no AWS, no files, no wall clock.

pub mod ec2_api;
pub mod ec2_limits;
pub mod engine;
pub mod event;
pub mod fact;
pub mod fleet_spec;
pub mod hostlist;
pub mod jobs;
pub mod limits;
pub mod name_map;
pub mod power_watch;
pub mod program_pass;
pub mod record;
pub mod relocation;
pub mod reply;
pub mod report;
pub mod restarts;
pub mod resume_file;
pub mod site;
pub mod slurm_api;
pub mod tag;
pub mod tags;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;

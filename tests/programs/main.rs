// SPDX-License-Identifier: GPL-3.0-or-later
//! The programs and what they are made of, with real sockets and real processes.

mod cluster;
mod commands;
mod doctor;
mod generated;
mod iam_policy;
mod online;
mod reports;
mod run_by_slurm;
mod scontrol;
mod socket;
mod with_slurm;

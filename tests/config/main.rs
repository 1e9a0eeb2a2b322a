// SPDX-License-Identifier: GPL-3.0-or-later
//! The configuration: what is accepted, what is reported, what is generated.

mod accepted;
mod broken;
mod properties;
mod schema;
mod slurm_conf;

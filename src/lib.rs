// SPDX-License-Identifier: GPL-3.0-or-later
//! The library that slurmctld loads: Slurm cloud nodes from Amazon EC2 Fleets.
//!
//! This package is the C boundary. What runs behind it is in `crates/`; `docs/architecture.md` has the map.

pub mod ffi;

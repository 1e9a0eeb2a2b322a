// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm cloud nodes from Amazon EC2 Fleets.
//!
//! Data flows one way: event, decision (pure, [`core`]), effect, fact. `docs/architecture.md` has the map.

pub mod cli;
pub mod cloud;
pub mod config;
pub mod core;
pub mod emulator;
pub mod ffi;
pub mod journal;
pub mod observe;
pub mod runtime;
pub mod slurm;

// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm cloud nodes from Amazon EC2 Fleets.
//!
//! Data flows one way: event, decision (pure, [`core`]), effect, fact. `docs/architecture.md` has the map.

pub mod core;
pub mod driver;
pub mod journal;

#[cfg(feature = "aws")]
pub mod cli;
#[cfg(feature = "aws")]
pub mod cloud;
#[cfg(feature = "aws")]
pub mod config;
#[cfg(feature = "aws")]
pub mod emulator;
#[cfg(feature = "aws")]
pub mod ffi;
#[cfg(feature = "aws")]
pub mod observe;
#[cfg(feature = "aws")]
pub mod runtime;
#[cfg(feature = "aws")]
pub mod slurm;

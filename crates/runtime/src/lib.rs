// SPDX-License-Identifier: GPL-3.0-or-later
//! The driver around the pure engine: queue, timers, effects, socket, shutdown.

pub mod active;
pub mod clock;
pub mod commands;
pub mod explain;
pub mod host;
pub mod hosts;
pub mod metrics;
pub mod places;
pub mod plugin;
pub mod setup;
pub mod standalone;
pub mod supervise;

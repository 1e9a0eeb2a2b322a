// SPDX-License-Identifier: GPL-3.0-or-later
//! The driver around the pure engine: queue, timers, effects, socket, shutdown.

pub mod driver;
pub mod plugin;
pub mod protocol;
pub mod socket;

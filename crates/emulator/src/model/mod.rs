// SPDX-License-Identifier: GPL-3.0-or-later
//! The emulated account: regions and what they hold, their clock and their life.

pub(crate) mod capacity;
pub mod catalog;
pub(crate) mod environment;
pub(crate) mod fleet;
pub(crate) mod fleet_plan;
pub(crate) mod instance;
pub(crate) mod interface;
pub(crate) mod launch;
pub(crate) mod launch_data;
pub(crate) mod network;
pub(crate) mod region;
pub(crate) mod requirements;
pub(crate) mod reservation;
pub(crate) mod spot;
pub(crate) mod storage;
pub(crate) mod template;
pub mod time;
pub mod world;

// SPDX-License-Identifier: GPL-3.0-or-later
//! An EC2 for tests, demonstrations and rehearsals, on loopback.
//!
//! [`world::World`] is the emulated account: pure, deterministic under a seed, with virtual time.
//! [`server::Emulator`] serves it: EC2 Query API, instance metadata, control endpoint, hooks.
//! `docs/emulator.md` is for its users. It imports nothing else of the project.

mod base64;
mod capacity;
pub mod catalog;
pub mod command;
mod control;
pub mod ctl;
mod environment;
pub mod error;
pub mod faults;
mod filter;
mod fleet;
mod fleet_api;
mod fleet_plan;
mod hooks;
mod instance;
mod instance_api;
mod instance_attribute;
mod instance_describe;
mod interface;
mod launch;
mod launch_data;
pub mod metadata;
mod network;
mod page;
pub mod query;
mod region;
mod requirements;
mod reservation;
pub mod scenario;
pub mod server;
mod spot;
mod storage;
mod tag;
mod template;
mod throttle;
pub mod time;
mod type_api;
pub mod world;
mod xml;

pub use command::Command;
pub use hooks::HookPrograms;
pub use region::{Moment, Signal};
pub use scenario::Scenario;
pub use server::{Emulator, Options};
pub use world::{LogEntry, Reply, Request, World};

// SPDX-License-Identifier: GPL-3.0-or-later
//! An EC2 for tests, demonstrations and rehearsals, on loopback.
//!
//! [`World`] is the emulated account: pure, deterministic under a seed, with virtual time.
//! [`Emulator`] serves it: EC2 Query API, instance metadata, control endpoint, hooks.
//! `docs/emulator.md` is for its users. It imports nothing else of the project.

pub mod api;
pub mod control;
pub mod model;
pub mod server;

pub use control::command::Command;
pub use control::scenario::Scenario;
pub use model::region::{Moment, Signal};
pub use model::world::{LogEntry, Reply, Request, World};
pub use server::hooks::HookPrograms;
pub use server::{Emulator, Options};

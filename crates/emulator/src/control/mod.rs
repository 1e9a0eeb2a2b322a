// SPDX-License-Identifier: GPL-3.0-or-later
//! What users of the emulator command, and how: scenarios, faults, the control endpoint and its
//! program.

pub mod command;
pub mod ctl;
pub(crate) mod endpoint;
pub mod faults;
pub mod scenario;

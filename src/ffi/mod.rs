// SPDX-License-Identifier: GPL-3.0-or-later
//! The C boundary to slurmctld: the only unsafe code of the project.
//!
//! `c_shim/plugin_abi.h` is the contract and `docs/plugin-abi.md` explains it. Three rules are kept here:
//! no panic leaves through a C function ([`boundary`]); slurmctld is called from one thread, the one that owns the
//! [`host::Host`]; and every thread of ours has all signals blocked, so that slurmctld receives its own.

#![allow(unsafe_code)]

mod abi;
mod boundary;
pub mod entry;
mod host;

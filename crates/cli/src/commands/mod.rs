// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands of `ec2fleet`, one a file; what they share stands beside this folder.

pub(crate) mod capacity;
pub(crate) mod cost;
pub mod doctor;
pub(crate) mod events;
pub(crate) mod fleets;
pub mod generate;
pub(crate) mod iam;
pub(crate) mod manual;
pub(crate) mod nodes;
pub(crate) mod operate;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod validate;
pub(crate) mod version;

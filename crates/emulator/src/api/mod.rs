// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2's Query API: parameters in, XML out, and the actions on fleets and instances.
//!
//! The actions on what surrounds them (subnets, volumes, templates, Spot requests, …) stand with
//! their subject in `model`.

pub(crate) mod base64;
pub(crate) mod describe_instances;
pub mod error;
pub(crate) mod filter;
pub(crate) mod fleets;
pub(crate) mod instance_attribute;
pub(crate) mod instance_types;
pub(crate) mod instances;
pub(crate) mod page;
pub mod query;
pub(crate) mod tag;
pub(crate) mod throttle;
pub(crate) mod xml;

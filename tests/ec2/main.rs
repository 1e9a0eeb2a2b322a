// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet_ec2::sdk` against servers that speak the EC2 Query API: moto's, and one that answers as told.

mod backend;
mod catalog;
mod docs;
mod emulated;
mod faults;
mod moto;
mod script;
mod shared;
mod wire;

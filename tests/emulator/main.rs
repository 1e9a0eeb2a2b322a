// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of the emulator: its world in virtual time, its server, its program, and the AWS SDK for Rust
//! against it. The contract with EC2's documents is tests/botocore.

mod account;
mod behaviour;
mod figures;
mod properties;
mod scenarios;
mod sdk;
mod sdk_every_action;
mod server;

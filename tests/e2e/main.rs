// SPDX-License-Identifier: GPL-3.0-or-later
//! End to end: a real slurmctld, real slurmds, munge, the plugin and the programs, with ec2-emulator in Amazon's place.

mod all_night;
mod crash;
mod fleets;
mod flow;
mod group_fleet;
mod ha;
mod hibernation;
mod newcomer;
mod releases;
mod rig_itself;
mod survival;
mod tool;
mod weights;

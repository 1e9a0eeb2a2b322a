// SPDX-License-Identifier: GPL-3.0-or-later
//! What the tool and the programs ask of whoever acts for the cluster, and the socket that carries it.

pub mod protocol;
pub mod socket;

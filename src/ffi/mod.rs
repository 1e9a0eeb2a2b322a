// SPDX-License-Identifier: GPL-3.0-or-later
//! The C boundary to slurmctld: the only unsafe code.

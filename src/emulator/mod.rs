// SPDX-License-Identifier: GPL-3.0-or-later
//! An EC2 for tests, demonstrations and rehearsals, on loopback.

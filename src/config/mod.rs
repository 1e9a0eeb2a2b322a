// SPDX-License-Identifier: GPL-3.0-or-later
//! `config.json` and `partitions.json` to a checked site model.

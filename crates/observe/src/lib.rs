// SPDX-License-Identifier: GPL-3.0-or-later
//! One event vocabulary, shown as log lines, history and metrics.

pub mod history;
pub mod log;
pub mod metrics;
pub mod prices;
pub mod usage;

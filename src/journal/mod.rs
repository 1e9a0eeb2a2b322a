// SPDX-License-Identifier: GPL-3.0-or-later
//! Write-ahead intents, snapshot and fence.

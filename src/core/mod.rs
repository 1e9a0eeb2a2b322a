// SPDX-License-Identifier: GPL-3.0-or-later
//! Pure decisions: no tokio, no AWS, no files, no wall clock.

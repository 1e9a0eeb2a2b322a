// SPDX-License-Identifier: GPL-3.0-or-later
//! Pure code: properties, tables, and comparison with what Slurm's own commands answer.

mod hostlist;
mod resume_file;

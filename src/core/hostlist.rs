// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's hostlist expressions: `gpu-a-[0-3,7]` and the names that it stands for.

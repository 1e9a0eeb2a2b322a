// SPDX-License-Identifier: GPL-3.0-or-later
//! The administrator's tool.

fn main() -> std::process::ExitCode {
    slurm_ec2_fleet::cli::main()
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurm.conf names as ResumeProgram.

use ec2fleet_cli::programs;

fn main() -> std::process::ExitCode {
    programs::main(programs::Program::Resume)
}

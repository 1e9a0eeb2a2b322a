// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurm.conf names as ResumeFailProgram.

use ec2fleet_cli::programs;

fn main() -> std::process::ExitCode {
    programs::main(programs::Program::ResumeFail)
}

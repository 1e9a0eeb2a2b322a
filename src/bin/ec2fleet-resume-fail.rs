// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurm.conf names as ResumeFailProgram.

use slurm_ec2_fleet::cli::programs;

fn main() -> std::process::ExitCode {
    programs::main(programs::Program::ResumeFail)
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The administrator's tool.

fn main() -> std::process::ExitCode {
    ec2fleet_cli::main()
}

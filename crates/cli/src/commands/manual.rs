// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet man` and `ec2fleet completions`: made from the command line's own description.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{self, Cli};
use crate::error::{CliError, ErrorKind, Exit};
use crate::output::Output;
use crate::programs::{self, Program};

/// # Errors
/// When a page cannot be written.
pub fn man(args: &args::Man, out: &mut Output) -> Result<Exit, CliError> {
    let mut tool = Cli::command();
    tool.build();
    let mut pages = vec![page("ec2fleet.1".into(), Man::new(tool.clone()))?];
    for command in tool.get_subcommands() {
        let name = format!("ec2fleet-{}", command.get_name());
        pages.push(page(format!("{name}.1"), Man::new(command.clone()).title(name))?);
    }
    for program in [Program::Resume, Program::Suspend, Program::ResumeFail] {
        let command = programs::command(program);
        let name = format!("{}.8", command.get_name());
        pages.push(page(name, Man::new(command).section("8"))?);
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| failed(&args.dir, &error))?;
    for (name, text) in &pages {
        let path = args.dir.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, &error))?;
    }
    out.line(format!("{} pages are written to {}.", pages.len(), args.dir.display()))?;
    Ok(Exit::Success)
}

fn page(name: String, man: Man) -> Result<(String, Vec<u8>), CliError> {
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((name, text))
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::new(ErrorKind::Failed, format!("{} cannot be written.", path.display())).cause(error)
}

/// # Errors
/// When nobody reads the output any more.
pub fn completions(args: &args::Completions, out: &mut Output) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ec2fleet", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

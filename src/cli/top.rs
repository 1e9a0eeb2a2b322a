// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet top`.

use std::thread;
use std::time::Duration;

use super::args;
use super::context::Context;
use super::error::{CliError, Exit};
use super::output::Output;
use super::status;

/// # Errors
/// When there is nothing to show, or nobody reads any more.
pub fn run(context: &Context, args: &args::Top, out: &mut Output) -> Result<Exit, CliError> {
    let mut shown = 0;
    loop {
        let report = status::report(context)?;
        if out.json {
            out.json_line(&report)?;
        } else {
            if out.terminal {
                // To the upper left corner, and clear what is below.
                out.text("\x1b[H\x1b[J")?;
            } else if shown > 0 {
                out.line("")?;
            }
            status::print(&report, out)?;
        }
        out.flush()?;
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(Exit::Success);
        }
        thread::sleep(Duration::from_secs(args.interval));
    }
}

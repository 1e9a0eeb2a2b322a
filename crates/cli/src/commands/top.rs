// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet top`: the status and the last events, again and again.

use std::thread;
use std::time::Duration;

use crate::args;
use crate::commands::events;
use crate::commands::status;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::{Output, Style};
use crate::screen::{Size, fitted};
use crate::when::{clock, now_unix_ms};
use ec2fleet_control::protocol::EventFilter;

/// As many events as any terminal has lines for.
const EVENTS: u32 = 100;

/// # Errors
/// When there is nothing to show at the first time, or nobody reads any more. On a terminal what fails later is
/// shown instead: slurmctld may be restarting.
pub fn run(context: &Context, args: &args::Top, out: &mut Output) -> Result<Exit, CliError> {
    let mut shown = 0;
    loop {
        if out.json {
            out.json_line(&status::report(context)?)?;
        } else if out.terminal {
            let text = match out.drawn(|out| view(context, out)) {
                Err(error) if shown > 0 => out.drawn(|out| failure(&error, out))?,
                drawn => drawn?,
            };
            out.text(&fitted(&text, Size::of_terminal()))?;
        } else {
            if shown > 0 {
                out.line("")?;
            }
            status::print(&status::report(context)?, out)?;
        }
        out.flush()?;
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(Exit::Success);
        }
        thread::sleep(Duration::from_secs(args.interval));
    }
}

fn view(context: &Context, out: &mut Output) -> Result<(), CliError> {
    status::print(&status::report(context)?, out)?;
    // Without the plugin there are none, and the status has said so.
    if let Ok(mut report) =
        events::ask(context, &EventFilter { limit: Some(EVENTS), ..EventFilter::default() })
    {
        out.line("")?;
        out.styled(Style::Strong, "LAST EVENTS, the newest first")?;
        report.events.reverse();
        events::print(&report, out)?;
    }
    Ok(())
}

fn failure(error: &CliError, out: &mut Output) -> Result<(), CliError> {
    out.styled(Style::Bad, format!("{}: {} It is asked again.", clock(now_unix_ms()), error.message))?;
    error.causes.iter().chain(&error.hint).try_for_each(|line| out.line(format!("  {line}")))
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet cost`: what instances have cost since some time, and what Spot has saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::args::{self, CostBy};
use crate::context::Context;
use crate::error::{CliError, ErrorKind, Exit};
use crate::output::{Output, Style, Table};
use crate::prices::{self, Wanted};
use crate::when::{clock, now_unix_ms, since};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{CostReport, CostRow, SCHEMA_VERSION};
use ec2fleet_core::site::{Lifecycle, stem_of};
use ec2fleet_observe::prices::Prices;
use ec2fleet_observe::usage::{self, Span, Usage};
use ec2fleet_slurm::command::JobSpan;

/// # Errors
/// When the record of instances, the prices or the jobs cannot be read.
pub fn run(context: &Context, args: &args::Cost, out: &mut Output) -> Result<Exit, CliError> {
    let now = now_unix_ms();
    let from = since(&args.since, now)?;
    let dir = context.state_dir();
    let usage = read_usage(&dir)?;
    let mut notes = Vec::new();
    match usage.recorded_unix_ms {
        None => notes.push(format!(
            "{} has no {}: nothing was launched yet, or --config-dir names another cluster.",
            dir.display(),
            usage::FILE_NAME
        )),
        Some(first) if first > from => {
            notes.push(format!("Nothing is recorded of the time before {}.", clock(first)));
        }
        Some(_) => {}
    }
    let window = Window { from, to: now };
    let spans: Vec<Span> = usage.spans.iter().filter_map(|span| window.clip(span)).collect();
    let mut wanted = Wanted::new();
    for one in spans.iter().map(|span| &span.of).filter(|one| one.lifecycle == Lifecycle::Spot) {
        wanted.entry(one.account.clone()).or_default().insert(one.instance_type.clone());
    }
    let wanted = (!args.offline).then_some(wanted);
    let prices = prices::learn(context, args.prices.as_deref(), wanted, out, &mut notes)?;
    let jobs = match args.by {
        CostBy::Job => jobs(context, from, &mut notes)?,
        _ => BTreeMap::new(),
    };
    let mut report = add_up(&spans, &prices, args.by, &jobs, window);
    report.recorded_unix_ms = usage.recorded_unix_ms;
    report.notes = notes;
    if out.json {
        out.json(&report)?;
    } else {
        print(&report, args.by, out)?;
    }
    Ok(Exit::Success)
}

fn read_usage(dir: &Path) -> Result<Usage, CliError> {
    usage::read(dir).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        CliError::new(kind, "The record of instances cannot be read.")
            .cause(format!("{}: {error}", dir.join(usage::FILE_NAME).display()))
            .hint("Run the command as root or as SlurmUser, on the controller.")
    })
}

/// The time that is looked at, milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: u64,
    to: u64,
}

impl Window {
    fn clip(self, span: &Span) -> Option<Span> {
        let end = span.to_unix_ms.unwrap_or(self.to);
        (end > self.from && span.from_unix_ms < self.to).then(|| Span {
            from_unix_ms: span.from_unix_ms.max(self.from),
            to_unix_ms: span.to_unix_ms.map(|end| end.min(self.to)),
            ..span.clone()
        })
    }
}

/// A job on one node.
#[derive(Clone, Debug)]
struct OnNode {
    id: u32,
    from: u64,
    to: u64,
}

/// By node: the jobs that had it.
fn jobs(
    context: &Context,
    from: u64,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, Vec<OnNode>>, CliError> {
    let slurm = context.slurm();
    // By job and start: one that was requeued has run more than once.
    let mut spans: BTreeMap<(u32, u64), JobSpan> = BTreeMap::new();
    let keyed = |job: JobSpan| ((job.id, job.start_unix_ms), job);
    const FORGETS: &str = "slurmctld alone was asked, which forgets jobs some minutes after their end (MinJobAge): what \
                           earlier jobs used is under \"no job\".";
    match slurm.accounted_jobs(from) {
        Ok(Some(found)) => spans.extend(found.into_iter().map(keyed)),
        Ok(None) => notes.push(format!("Slurm has no accounting: {FORGETS}")),
        Err(error) => notes.push(format!("Slurm's accounting does not answer ({error}): {FORGETS}")),
    }
    spans.extend(slurm.present_jobs()?.into_iter().map(keyed));
    let mut by_node: BTreeMap<String, Vec<OnNode>> = BTreeMap::new();
    for job in spans.into_values() {
        for node in hostlist::expand(&job.nodes)? {
            let to = job.end_unix_ms.unwrap_or(u64::MAX);
            by_node.entry(node).or_default().push(OnNode { id: job.id, from: job.start_unix_ms, to });
        }
    }
    Ok(by_node)
}

fn add_up(
    spans: &[Span],
    prices: &Prices,
    by: CostBy,
    jobs: &BTreeMap<String, Vec<OnNode>>,
    window: Window,
) -> CostReport {
    let mut rows: BTreeMap<String, CostRow> = BTreeMap::new();
    let mut total = CostRow { name: "total".into(), ..CostRow::default() };
    let mut unpriced: BTreeSet<String> = BTreeSet::new();
    for span in spans {
        let of = &span.of;
        let price = Price::of(prices, span);
        if price.usd.is_none() {
            unpriced.insert(format!("{} ({})", of.instance_type, of.lifecycle.as_str()));
        }
        let stem = stem_of(&of.node);
        let end = span.to_unix_ms.unwrap_or(window.to);
        let whole = Piece { ms: end.saturating_sub(span.from_unix_ms), runs: span.to_unix_ms.is_none() };
        let pieces: Vec<(String, Piece, f64)> = match by {
            CostBy::Partition => {
                let partition = stem.split_once('-').map_or(stem, |(partition, _)| partition);
                vec![(partition.to_owned(), whole, 1.0)]
            }
            CostBy::Group => vec![(stem.to_owned(), whole, 1.0)],
            CostBy::Type => vec![(of.instance_type.clone(), whole, 1.0)],
            CostBy::Job => by_job(span, end, jobs.get(&of.node).map_or(&[][..], Vec::as_slice)),
        };
        for (name, piece, part) in pieces {
            let row = rows.entry(name.clone()).or_insert_with(|| CostRow { name, ..CostRow::default() });
            price.add(row, piece, part);
        }
        price.add(&mut total, whole, 1.0);
    }
    CostReport {
        schema: SCHEMA_VERSION,
        now_unix_ms: window.to,
        since_unix_ms: window.from,
        recorded_unix_ms: None,
        rows: rows.into_values().collect(),
        total,
        unpriced: unpriced.into_iter().collect(),
        notes: Vec::new(),
    }
}

/// Some of an instance's time.
#[derive(Clone, Copy, Debug)]
struct Piece {
    ms: u64,
    /// Whether it runs at the window's end.
    runs: bool,
}

/// Jobs that share a node share its price in equal parts; before, between and after them it has no job.
fn by_job(span: &Span, end: u64, jobs: &[OnNode]) -> Vec<(String, Piece, f64)> {
    let (from, to) = (span.from_unix_ms, end);
    let mut edges: BTreeSet<u64> = [from, to].into();
    for job in jobs {
        edges.extend([job.from, job.to].into_iter().filter(|edge| (from..to).contains(edge)));
    }
    let edges: Vec<u64> = edges.into_iter().collect();
    let mut pieces = Vec::new();
    for pair in edges.windows(2) {
        let here: Vec<u32> =
            jobs.iter().filter(|job| job.from <= pair[0] && job.to > pair[0]).map(|job| job.id).collect();
        let piece = Piece { ms: pair[1] - pair[0], runs: pair[1] == to && span.to_unix_ms.is_none() };
        if here.is_empty() {
            pieces.push(("no job".to_owned(), piece, 1.0));
        }
        #[expect(clippy::cast_precision_loss)]
        let part = 1.0 / here.len().max(1) as f64;
        pieces.extend(here.into_iter().map(|id| (format!("job {id}"), piece, part)));
    }
    pieces
}

/// What an instance costs in an hour, and would cost more on-demand.
struct Price {
    spot: bool,
    usd: Option<f64>,
    saved: f64,
}

impl Price {
    fn of(prices: &Prices, span: &Span) -> Self {
        let of = &span.of;
        let usd = prices.of(of.lifecycle, &of.instance_type, &of.zone);
        let spot = of.lifecycle == Lifecycle::Spot;
        let saved = match (spot, usd, prices.on_demand(&of.instance_type)) {
            (true, Some(spot), Some(on_demand)) => (on_demand - spot).max(0.0),
            _ => 0.0,
        };
        Self { spot, usd, saved }
    }

    fn add(&self, row: &mut CostRow, piece: Piece, part: f64) {
        #[expect(clippy::cast_precision_loss)]
        let hours = part * piece.ms as f64 / 3_600_000.0;
        let usd = self.usd.unwrap_or(0.0);
        *(if self.spot { &mut row.spot_hours } else { &mut row.on_demand_hours }) += hours;
        row.usd += hours * usd;
        row.saved_usd += hours * self.saved;
        if piece.runs {
            *(if self.spot { &mut row.spot_instances } else { &mut row.on_demand_instances }) += part;
            row.usd_per_hour += part * usd;
            row.saved_usd_per_hour += part * self.saved;
        }
    }
}

fn print(report: &CostReport, by: CostBy, out: &mut Output) -> Result<(), CliError> {
    let first = match by {
        CostBy::Partition => "PARTITION",
        CostBy::Group => "GROUP",
        CostBy::Type => "TYPE",
        CostBy::Job => "JOB",
    };
    out.line(format!("From {} to {}", clock(report.since_unix_ms), clock(report.now_unix_ms)))?;
    out.line("")?;
    let mut table = Table::new(&[
        first,
        "SPOT-HOURS>",
        "ONDEMAND-HOURS>",
        "$>",
        "SAVED-$>",
        "SPOT-NOW>",
        "ONDEMAND-NOW>",
        "$/H>",
    ]);
    let number = |value: f64| {
        if (value - value.round()).abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    for row in report.rows.iter().chain([&report.total]) {
        let style = if row.name == "total" { Style::Strong } else { Style::Plain };
        table.row(
            style,
            [
                row.name.clone(),
                format!("{:.2}", row.spot_hours),
                format!("{:.2}", row.on_demand_hours),
                format!("{:.2}", row.usd),
                format!("{:.2}", row.saved_usd),
                number(row.spot_instances),
                number(row.on_demand_instances),
                format!("{:.4}", row.usd_per_hour),
            ],
        );
    }
    out.table(&table)?;
    if !report.unpriced.is_empty() {
        out.line("")?;
        let types = report.unpriced.join(", ");
        let text = format!(
            "Without a price, and counted as free: {types}. --prices names a file of on-demand prices; EC2 tells Spot prices."
        );
        out.styled(Style::Warning, text)?;
    }
    for note in &report.notes {
        out.styled(Style::Warning, note)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ec2fleet_core::site::Account;
    use ec2fleet_observe::usage::Use;

    const HOUR: u64 = 3_600_000;

    fn span(node: &str, kind: &str, lifecycle: Lifecycle, from: u64, to: Option<u64>) -> Span {
        let of = Use {
            node: node.into(),
            instance_id: format!("i-{node}"),
            account: Account { region: "eu-central-1".into(), profile: None },
            instance_type: kind.into(),
            zone: "z1".into(),
            lifecycle,
            since_unix_ms: from,
        };
        Span { of, from_unix_ms: from, to_unix_ms: to }
    }

    fn prices() -> Prices {
        let mut prices = Prices::default();
        prices.learn_spot("z1".into(), "c5.large".into(), 0.03);
        prices.on_demand.insert("c5.large".into(), 0.10);
        prices
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    fn row(report: &CostReport, name: &str) -> CostRow {
        report
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap_or_else(|| panic!("{name} in {report:?}"))
            .clone()
    }

    #[test]
    fn hours_and_prices_are_added_up() {
        let window = Window { from: 10 * HOUR, to: 20 * HOUR };
        let spans = [
            // Half of it before the window.
            span("a-x-0", "c5.large", Lifecycle::Spot, 8 * HOUR, Some(12 * HOUR)),
            span("a-y-0", "c5.large", Lifecycle::OnDemand, 19 * HOUR, None),
            span("b-x-0", "m5.large", Lifecycle::Spot, 15 * HOUR, None),
            span("b-x-1", "m5.large", Lifecycle::Spot, HOUR, Some(9 * HOUR)),
        ];
        let clipped: Vec<Span> = spans.iter().filter_map(|span| window.clip(span)).collect();
        assert_eq!(clipped.len(), 3);
        let report = add_up(&clipped, &prices(), CostBy::Group, &BTreeMap::new(), window);
        let one = row(&report, "a-x");
        assert!(close(one.spot_hours, 2.0) && close(one.usd, 0.06) && close(one.saved_usd, 0.14), "{one:?}");
        assert!(close(one.spot_instances, 0.0) && close(one.usd_per_hour, 0.0), "{one:?}");
        let one = row(&report, "a-y");
        assert!(close(one.on_demand_hours, 1.0) && close(one.usd, 0.10) && close(one.usd_per_hour, 0.10));
        assert_eq!(report.unpriced, ["m5.large (spot)"]);
        let total = &report.total;
        assert!(close(total.spot_hours, 7.0) && close(total.spot_instances, 1.0), "{total:?}");
        assert!(close(total.usd, 0.16) && close(total.saved_usd, 0.14), "{total:?}");
        let report = add_up(&clipped, &prices(), CostBy::Partition, &BTreeMap::new(), window);
        assert!(close(row(&report, "a").usd, 0.16) && close(row(&report, "b").spot_hours, 5.0));
        let report = add_up(&clipped, &prices(), CostBy::Type, &BTreeMap::new(), window);
        assert!(close(row(&report, "c5.large").usd, 0.16));
    }

    #[test]
    fn jobs_share_the_time_that_they_are_on_a_node() {
        let window = Window { from: 0, to: 10 * HOUR };
        let spans = [span("a-x-0", "c5.large", Lifecycle::Spot, 0, None)];
        let on = |id, from: u64, to| OnNode { id, from: from * HOUR, to };
        // Two hours alone, two shared, two for the other, and the rest without a job.
        let jobs = [("a-x-0".to_owned(), vec![on(1, 1, 5 * HOUR), on(2, 3, 7 * HOUR)])].into();
        let report = add_up(&spans, &prices(), CostBy::Job, &jobs, window);
        assert!(close(row(&report, "job 1").spot_hours, 3.0), "{report:?}");
        assert!(close(row(&report, "job 2").spot_hours, 3.0), "{report:?}");
        assert!(close(row(&report, "no job").spot_hours, 4.0), "{report:?}");
        assert!(close(row(&report, "no job").spot_instances, 1.0));
        let sum: f64 = report.rows.iter().map(|row| row.usd).sum();
        assert!(close(sum, report.total.usd) && close(sum, 0.3));
        // A job that goes on has the instance now.
        let jobs = [("a-x-0".to_owned(), vec![on(3, 9, u64::MAX)])].into();
        let report = add_up(&spans, &prices(), CostBy::Job, &jobs, window);
        assert!(close(row(&report, "job 3").usd_per_hour, 0.03), "{report:?}");
        assert!(close(row(&report, "no job").spot_instances, 0.0));
    }
}

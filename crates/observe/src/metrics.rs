// SPDX-License-Identifier: GPL-3.0-or-later
//! The status report as OpenMetrics text. Names and units: docs/metrics.md.

use std::fmt::Write as _;

use ec2fleet_core::report::{GroupReport, Mode, StatusReport};

/// A gauge of one node group: name, help, value.
type GroupGauge = (&'static str, &'static str, fn(&GroupReport) -> f64);

/// Every metric of a node group, in the order in which it is written.
pub const GROUP_GAUGES: [GroupGauge; 13] = [
    ("ec2fleet_nodes_wanted", "Nodes that Slurm wants powered up.", |g| g.wanted.into()),
    ("ec2fleet_nodes_pending", "Nodes that wait for a launch.", |g| g.pending.into()),
    ("ec2fleet_nodes_launching", "Nodes whose instance EC2 has been asked for.", |g| g.launching.into()),
    ("ec2fleet_nodes_booting", "Nodes with an instance that have not registered.", |g| g.booting.into()),
    ("ec2fleet_nodes_ready", "Registered nodes without a job.", |g| g.ready.into()),
    ("ec2fleet_nodes_busy", "Registered nodes with a job.", |g| g.busy.into()),
    ("ec2fleet_nodes_asleep", "Nodes whose instance EC2 has hibernated.", |g| g.asleep.into()),
    ("ec2fleet_nodes_stopping", "Nodes that are being powered down.", |g| g.stopping.into()),
    ("ec2fleet_nodes_failed", "Nodes that could not be powered up, or are DOWN.", |g| g.failed.into()),
    ("ec2fleet_instances_spot", "Spot instances that stand behind nodes.", |g| g.spot_instances.into()),
    ("ec2fleet_instances_on_demand", "On-demand instances that stand behind nodes.", |g| {
        g.on_demand_instances.into()
    }),
    ("ec2fleet_pools_cooling", "Capacity pools that are not asked first.", |g| count(g.cooldowns.len())),
    ("ec2fleet_group_protected", "1 while launches are stopped after repeated failures.", |g| {
        u8::from(g.protected).into()
    }),
];

#[allow(clippy::cast_precision_loss)]
fn count(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss)]
fn whole(number: u64) -> f64 {
    number as f64
}

/// The whole exposition, ending in `# EOF`.
#[must_use]
pub fn render(status: &StatusReport) -> String {
    let mut out = String::new();
    let active = u8::from(matches!(status.mode, Mode::Active));
    head(&mut out, "ec2fleet_active", "gauge", "1 while the plugin decides and acts.");
    line(&mut out, "ec2fleet_active", &[("cluster", &status.cluster)], active.into());
    head(
        &mut out,
        "ec2fleet_paused",
        "gauge",
        "1 while an administrator has stopped launches and terminations.",
    );
    line(&mut out, "ec2fleet_paused", &[], u8::from(status.paused.is_some()).into());
    for (name, help, value) in GROUP_GAUGES {
        head(&mut out, name, "gauge", help);
        for group in &status.groups {
            line(&mut out, name, &[("partition", &group.partition), ("group", &group.group)], value(group));
        }
    }
    head(&mut out, "ec2fleet_ec2_calls", "counter", "Calls to EC2 since the plugin began to act.");
    for cloud in &status.cloud {
        line(&mut out, "ec2fleet_ec2_calls_total", &[("region", &cloud.region)], whole(cloud.calls));
    }
    head(&mut out, "ec2fleet_ec2_throttled", "counter", "Calls that EC2 throttled.");
    for cloud in &status.cloud {
        line(&mut out, "ec2fleet_ec2_throttled_total", &[("region", &cloud.region)], whole(cloud.throttled));
    }
    head(&mut out, "ec2fleet_ec2_list_age_seconds", "gauge", "Age of the last complete list of instances.");
    for cloud in &status.cloud {
        if let Some(at) = cloud.listed_unix_ms {
            let age = whole(status.now_unix_ms.saturating_sub(at)) / 1000.0;
            line(&mut out, "ec2fleet_ec2_list_age_seconds", &[("region", &cloud.region)], age);
        }
    }
    let totals = [
        ("ec2fleet_slurm_updates", "Node updates sent to slurmctld.", status.slurm.updates),
        (
            "ec2fleet_slurm_scans",
            "Readings of the power bitmaps under the node read lock.",
            status.slurm.scans,
        ),
        ("ec2fleet_events", "Events that the engine has handled.", status.queue.events),
        (
            "ec2fleet_queue_overflows",
            "Times the event queue was full, each followed by a rescan.",
            status.queue.overflows,
        ),
    ];
    for (name, help, value) in totals {
        head(&mut out, name, "counter", help);
        line(&mut out, &format!("{name}_total"), &[], whole(value));
    }
    head(&mut out, "ec2fleet_lock_held_max_seconds", "gauge", "Longest time the node read lock was held.");
    line(&mut out, "ec2fleet_lock_held_max_seconds", &[], whole(status.slurm.lock_held_max_us) / 1e6);
    head(&mut out, "ec2fleet_journal_open_intents", "gauge", "Calls written down and not answered yet.");
    line(&mut out, "ec2fleet_journal_open_intents", &[], status.journal.open_intents.into());
    out.push_str("# EOF\n");
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {help}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    out.push_str(name);
    if !labels.is_empty() {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let _ = write!(out, "{{{}}}", labels.join(","));
    }
    let _ = writeln!(out, " {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReport {
        let text = r#"{"schema":1,"version":"0","cluster":"a\"b","mode":{"state":"active"},"since_unix_ms":0,
            "now_unix_ms":5000,"slurm_release":"","pid":1,"groups":[{"partition":"p","group":"g","busy":3}],
            "cloud":[{"region":"eu-west-1","listed_unix_ms":2000,"calls":7}],"slurm":{},"queue":{},"journal":{}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_group_gauge_has_a_line_for_every_group() {
        let text = render(&status());
        for (name, _, _) in GROUP_GAUGES {
            assert!(text.contains(&format!("\n{name}{{partition=\"p\",group=\"g\"}} ")), "{name} in {text}");
        }
        assert!(text.contains("ec2fleet_nodes_busy{partition=\"p\",group=\"g\"} 3\n"));
        assert!(text.contains("ec2fleet_ec2_calls_total{region=\"eu-west-1\"} 7\n"));
        assert!(text.contains("ec2fleet_ec2_list_age_seconds{region=\"eu-west-1\"} 3\n"));
        assert!(text.contains("ec2fleet_active{cluster=\"a\\\"b\"} 1\n"));
        assert!(text.ends_with("# EOF\n"));
    }

    /// Names in the dashboard's queries, as Prometheus stores them.
    fn dashboard_names() -> std::collections::BTreeSet<String> {
        let text = include_str!("../../../deploy/grafana/slurm-ec2-fleet.json");
        let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut queries: Vec<&str> = Vec::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            queries.extend(panel["targets"].as_array().unwrap().iter().filter_map(|t| t["expr"].as_str()));
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            queries.extend(variable["query"]["query"].as_str());
        }
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let names = queries.iter().flat_map(|query| query.split(word));
        names.filter(|name| name.starts_with("ec2fleet_")).map(str::to_owned).collect()
    }

    #[test]
    fn the_dashboard_shows_every_metric_and_no_other() {
        let mut samples = std::collections::BTreeSet::new();
        for line in render(&status()).lines().filter(|line| !line.starts_with('#')) {
            samples.insert(line.split([' ', '{']).next().unwrap().to_owned());
        }
        assert_eq!(dashboard_names(), samples);
    }

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../../docs/metrics.md");
        for line in render(&status()).lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What the commands print that look at files: validate, doctor, cost, generate-conf.

use std::path::Path;

use ec2fleet_cli::commands::doctor::{self, judge};
use ec2fleet_cli::output::Output;
use serde_json::{Value, json};

use crate::commands::{Ran, describes, ec2fleet, snapshot};
use crate::doctor::{CONFIG, PARTITIONS, SLURM_CONF, cluster};

/// A folder with a cluster's files.
fn site(partitions: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let state = dir.path().join("state");
    std::fs::create_dir_all(state.join("ec2fleet")).expect("created");
    let slurm_conf = SLURM_CONF.replace("/var/spool/slurm", &state.display().to_string());
    for (name, text) in
        [("slurm.conf", slurm_conf.as_str()), ("config.json", CONFIG), ("partitions.json", partitions)]
    {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

/// One command, with what differs from run to run replaced.
fn run(dir: &Path, arguments: &[&str]) -> Ran {
    let mut ran = ec2fleet(dir, arguments);
    for text in [&mut ran.stdout, &mut ran.stderr] {
        *text = text.replace(&dir.display().to_string(), "DIR");
        let tool =
            Path::new(env!("CARGO_BIN_EXE_ec2fleet")).parent().expect("a folder").display().to_string();
        *text = text.replace(&tool, "BIN");
    }
    ran
}

fn fits(schema: &str, ran: &Ran) -> Value {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let schema: Value =
        serde_json::from_str(&ec2fleet(scratch.path(), &["schema", schema]).stdout).expect("a schema");
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.seen()));
    describes(&schema, &schema, &printed, "$");
    printed
}

#[test]
fn validate() {
    let dir = site(PARTITIONS);
    snapshot("validate", &run(dir.path(), &["validate"]));
    let ran = run(dir.path(), &["validate", "--json"]);
    fits("validate", &ran);
    snapshot("json-validate", &ran);
    let broken = PARTITIONS.replace("\"MaxNodes\":10", "\"MaxNodes\":\"ten\"").replace(
        "\"PurchasingOption\":\"spot\",\"SpotOptions\"",
        "\"PurchasingOptoin\":\"spot\",\"SpotOptions\"",
    );
    let dir = site(&broken);
    snapshot("validate-broken", &run(dir.path(), &["validate"]));
    let ran = run(dir.path(), &["validate", "--json"]);
    fits("validate", &ran);
    snapshot("json-validate-broken", &ran);
}

#[test]
fn generate_conf() {
    let dir = site(PARTITIONS);
    let ran = run(dir.path(), &["generate-conf", "--json"]);
    fits("generate-conf", &ran);
    snapshot("json-generate-conf", &ran);
    snapshot("generate-conf-check-missing", &run(dir.path(), &["generate-conf", "--check"]));
    let out = dir.path().display().to_string();
    snapshot("generate-conf-output", &run(dir.path(), &["generate-conf", "--output", &out]));
    let ran = run(dir.path(), &["generate-conf", "--check"]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    let installed = dir.path().join("slurm.conf.aws");
    let text = std::fs::read_to_string(&installed).expect("it was written");
    std::fs::write(&installed, text.replace("CPUs=2 RealMemory=3000", "CPUs=4 RealMemory=3000"))
        .expect("written");
    snapshot("generate-conf-diff", &run(dir.path(), &["generate-conf", "--diff"]));
    let ran = run(dir.path(), &["generate-conf", "--check", "--json"]);
    fits("difference", &ran);
    snapshot("json-generate-conf-check", &ran);
}

/// Weights from prices that are known, and a warning where they are not.
#[test]
fn weights_by_price() {
    let dir = site(PARTITIONS);
    let prices = json!({ "spot": { "eu-central-1a": { "c5.large": 0.0341, "c6i.large": 0.0299 },
        // Another region's price of the same type is no price of this group.
        "us-east-1a": { "c5.large": 0.01 } } });
    std::fs::write(dir.path().join("state/ec2fleet/prices.json"), prices.to_string()).expect("written");
    let ran = run(dir.path(), &["generate-conf", "--weight-by-price"]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    let line = |stem: &str| {
        let start = format!("NodeName={stem}-");
        ran.stdout.lines().find(|line| line.starts_with(&start)).expect("a line").to_owned()
    };
    assert!(line("aws-spot").ends_with(" Weight=299"), "{}", ran.seen());
    assert!(line("aws-sleep").ends_with(" Weight=341"), "{}", ran.seen());

    // Weights that follow the instances need no price: a node without an instance has that of Spot.
    let weights = "\"NodeWeights\":{\"spot\":20,\"on-demand\":10},\"PurchasingOption\":\"spot\"";
    let dir = site(&PARTITIONS.replace("\"PurchasingOption\":\"spot\"", weights));
    for arguments in [&["generate-conf"][..], &["generate-conf", "--weight-by-price"]] {
        let ran = run(dir.path(), arguments);
        assert_eq!(ran.stdout.matches(" Weight=20").count(), 2, "{}", ran.seen());
        assert_eq!(ran.stdout.matches("Weight=").count(), 2, "{}", ran.seen());
    }

    let own = PARTITIONS.replace("{\"CPUs\":\"2\"}", "{\"CPUs\":\"2\",\"Weight\":\"7\"}");
    let dir = site(&own.replace(
        "\"PurchasingOption\":\"spot\",\"LaunchTemplateS",
        "\"PurchasingOption\":\"on-demand\",\"LaunchTemplateS",
    ));
    let ran = run(dir.path(), &["generate-conf", "--weight-by-price"]);
    assert!(ran.stdout.contains("Weight=7") && ran.stdout.matches("Weight=").count() == 1, "{}", ran.seen());
    assert!(ran.stderr.contains("aws-spot: the price of its instance types is not known"), "{}", ran.seen());
    let file = dir.path().join("list.json");
    std::fs::write(&file, "{\"c6i.large\": 0.1}").expect("written");
    let ran =
        run(dir.path(), &["generate-conf", "--weight-by-price", "--prices", &file.display().to_string()]);
    assert!(ran.stdout.contains("Weight=1000"), "{}", ran.seen());
}

/// 2026-01-31T08:00:00Z.
const NOON: u64 = 1_769_846_400_000;

#[test]
fn cost() {
    let dir = site(PARTITIONS);
    snapshot(
        "cost-nothing",
        &without_now(run(dir.path(), &["cost", "--offline", "--since", "2026-01-31T07:00"])),
    );
    let instance = |node: &str, lifecycle: &str| {
        json!({ "node": node, "instance_id": format!("i-{node}"), "account": { "region": "eu-central-1", "profile": null },
            "instance_type": "c5.large", "zone": "eu-central-1a", "lifecycle": lifecycle, "since_unix_ms": NOON })
    };
    let lines = [
        json!({ "unix_ms": NOON, "begin": [instance("aws-spot-0", "spot"), instance("aws-spot-1", "spot"), instance("aws-sleep-0", "on-demand")] }),
        json!({ "unix_ms": NOON + 3_600_000, "end": "aws-spot-0" }),
        json!({ "unix_ms": NOON + 5_400_000, "end": "aws-spot-1,aws-sleep-0" }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("state/ec2fleet/usage.jsonl"), text).expect("written");
    let prices = json!({ "spot": { "eu-central-1a": { "c5.large": 0.04 } } });
    std::fs::write(dir.path().join("state/ec2fleet/prices.json"), prices.to_string()).expect("written");
    std::fs::write(dir.path().join("prices.json"), "{\"c5.large\": 0.1}").expect("written");
    for (name, by) in [("cost-group", "group"), ("cost-partition", "partition"), ("cost-type", "type")] {
        let ran = run(dir.path(), &["cost", "--offline", "--since", "2026-01-31T08:30", "--by", by]);
        snapshot(name, &without_now(ran));
    }
    let ran = run(dir.path(), &["cost", "--offline", "--since", "2026-01-31T07:00", "--json"]);
    let report = fits("cost", &ran);
    let total = &report["total"];
    assert_eq!((&total["spot_hours"], &total["on_demand_hours"]), (&json!(2.5), &json!(1.5)), "{report:#}");
    let usd = |key: &str| total[key].as_f64().expect("a number");
    assert!((usd("usd") - 0.25).abs() < 1e-9 && (usd("saved_usd") - 0.15).abs() < 1e-9, "{report:#}");
}

/// With Slurm's commands replaced by scripts that print what those of 24.11.5 with slurmdbd were seen to print.
#[test]
fn cost_by_job() {
    let dir = site(PARTITIONS);
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).expect("created");
    let config = CONFIG.replacen('{', &format!("{{\"SlurmBinPath\":\"{}\",", bin.display()), 1);
    std::fs::write(dir.path().join("config.json"), config).expect("written");
    let command = |name: &str, lines: &[&str]| {
        let path = bin.join(name);
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>'{}'\ncat <<'X'\n{}\nX\n",
            bin.join("calls").display(),
            lines.join("\n")
        );
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("executable");
    };
    // Job 4 was requeued after a quarter of an hour and ran again later; 5 shared the node's last quarter with it; 7 waits.
    command("scontrol", &["AccountingStorageType   = accounting_storage/slurmdbd"]);
    command(
        "sacct",
        &[
            "4|2026-01-31T08:00:00|2026-01-31T08:15:00|aws-spot-0",
            "4|2026-01-31T08:30:00|2026-01-31T09:00:00|aws-spot-[0-1]",
            "5|2026-01-31T08:45:00|Unknown|aws-spot-0",
            "7|Unknown|Unknown|None assigned",
        ],
    );
    command("squeue", &["5|2026-01-31T08:45:00|2027-01-31T08:45:00|aws-spot-0", "7|N/A|N/A|"]);
    let instance = |node: &str| {
        json!({ "node": node, "instance_id": format!("i-{node}"), "account": { "region": "eu-central-1", "profile": null },
            "instance_type": "c5.large", "zone": "eu-central-1a", "lifecycle": "spot", "since_unix_ms": NOON })
    };
    let lines = [
        json!({ "unix_ms": NOON, "begin": [instance("aws-spot-0"), instance("aws-spot-1")] }),
        json!({ "unix_ms": NOON + 3_600_000, "end": "aws-spot-[0-1]" }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("state/ec2fleet/usage.jsonl"), text).expect("written");

    let ran = run(dir.path(), &["cost", "--offline", "--since", "2026-01-31T07:00", "--by", "job", "--json"]);
    let report = fits("cost", &ran);
    let hours: std::collections::BTreeMap<String, f64> = report["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            (row["name"].as_str().expect("a name").to_owned(), row["spot_hours"].as_f64().expect("hours"))
        })
        .collect();
    let expected = [("job 4", 0.25 + 0.25 + 0.125 + 0.5), ("job 5", 0.125), ("no job", 0.25 + 0.5)];
    assert_eq!(hours, expected.map(|(name, hours)| (name.to_owned(), hours)).into());
    let calls = std::fs::read_to_string(bin.join("calls")).expect("called");
    assert!(calls.contains("--duplicates") && calls.contains("-S 2026-01-31T07:00:00"), "{calls}");
}

/// The first line ends with the time of the run.
fn without_now(mut ran: Ran) -> Ran {
    let first = ran.stdout.lines().next().unwrap_or_default().to_owned();
    if let Some((from, _)) = first.split_once(" to ") {
        ran.stdout = ran.stdout.replacen(&first, &format!("{from} to NOW"), 1);
    }
    ran
}

#[test]
fn doctor() {
    let printed = |inputs: &doctor::Inputs| -> Ran {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("out");
        let report = judge(inputs);
        let mut out = Output::to(Box::new(std::fs::File::create(&path).expect("a file")));
        doctor::print(&report, false, &mut out).expect("printed");
        out.flush().expect("written");
        let stdout = std::fs::read_to_string(path).expect("read");
        Ran { code: 0, stdout, stderr: String::new() }
    };
    let mut inputs = cluster(SLURM_CONF, CONFIG, PARTITIONS);
    snapshot("doctor", &printed(&inputs));
    inputs.shim = Some(Ok(0x18_0b_05));
    inputs.journal = Err("Permission denied".into());
    snapshot("doctor-broken", &printed(&inputs));
    let stdout = serde_json::to_string_pretty(&judge(&inputs)).expect("JSON");
    let ran = Ran { code: 5, stdout, stderr: String::new() };
    fits("doctor", &ran);
    snapshot("json-doctor-broken", &ran);
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The administrator's tool on a whole cluster: what it shows is what is, and what it is told to do happens.

use std::process::Command;

use serde_json::{Value, json};

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::{paths, wait};

/// One command: exit code, standard output, standard error.
fn tool(cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(paths::program("ec2fleet").unwrap())
        .args(arguments)
        .arg("--config-dir")
        .arg(&cluster.config)
        .env("SLURM_CONF", &cluster.slurm.conf)
        .env("AWS_ACCESS_KEY_ID", "rig")
        .env("AWS_SECRET_ACCESS_KEY", "rig")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json_of(cluster: &Cluster, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    let (_, stdout, stderr) = tool(cluster, &all);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}{stderr}"))
}

fn phases(cluster: &Cluster, phase: &str) -> Vec<String> {
    let report = json_of(cluster, &["nodes", "--state", phase]);
    let names =
        report["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned());
    names.collect()
}

fn wait_for_phase(cluster: &Cluster, phase: &str, count: usize) {
    wait::until(&format!("{count} nodes {phase}"), || {
        Ok((phases(cluster, phase).len() == count).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_tool_shows_what_is_and_does_what_it_is_told() {
    let scenario = json!({ "images": [{ "id": "ami-00000000000000001" }] });
    let cluster = Cluster::start(&Options { suspend_time: 600, scenario, ..Options::default() }).unwrap();
    cluster.wait_for_plugin().unwrap();
    let job = cluster.slurm.sbatch(&["-N", "2", "-o", "/dev/null"], "srun sleep 3600").unwrap();
    wait_for_phase(&cluster, "busy", 2);

    let status = json_of(&cluster, &["status"]);
    let group = &status["groups"][0];
    assert_eq!(status["mode"]["state"], "active");
    assert_eq!((group["busy"].as_u64(), group["instances"].as_u64()), (Some(2), Some(2)), "{group}");
    let (code, text, _) = tool(&cluster, &["status"]);
    assert!(code == 0 && text.contains("cloud-spot"), "{text}");
    let living = cluster.emulator.living_instances().unwrap();
    for node in json_of(&cluster, &["nodes", "--state", "busy"])["nodes"].as_array().unwrap() {
        let id = node["instance_id"].as_str().unwrap();
        assert!(living.iter().any(|i| i.id == id && i.address == node["addr"].as_str().unwrap()), "{node}");
    }
    let busy = phases(&cluster, "busy");
    let explained = json_of(&cluster, &["explain", &busy[0]]);
    let kinds: Vec<&str> =
        explained["events"].as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    assert!(kinds.contains(&"power-up-seen") && kinds.contains(&"nodes-ready"), "{kinds:?}");
    let explained = json_of(&cluster, &["explain", &job.to_string()]);
    assert!(explained["summary"].as_str().unwrap().contains("2 busy"), "{explained}");
    let since = json_of(&cluster, &["events", "--since", "1h", "--node", &busy[0]]);
    assert!(!since["events"].as_array().unwrap().is_empty());

    // What it costs: by job, and from then on in status.
    std::fs::write(cluster.config.join("prices.json"), "{\"c5.large\": 1.5, \"m5.large\": 1.5}").unwrap();
    let cost = json_of(&cluster, &["cost", "--by", "job"]);
    let row =
        cost["rows"].as_array().unwrap().iter().find(|row| row["name"] == format!("job {job}")).unwrap();
    assert_eq!(row["spot_instances"].as_f64(), Some(2.0), "{cost:#}");
    assert!(row["spot_hours"].as_f64() > Some(0.0) && row["saved_usd"].as_f64() > Some(0.0), "{cost:#}");
    let usd = json_of(&cluster, &["status"])["groups"][0]["usd_per_hour"].as_f64().unwrap();
    assert!((usd - cost["total"]["usd_per_hour"].as_f64().unwrap()).abs() < 1e-9, "{cost:#}");

    // A healthy cluster is healthy.
    let report = json_of(&cluster, &["doctor"]);
    let alarms: Vec<&Value> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["verdict"] == "error").collect();
    assert_eq!(alarms, Vec::<&Value>::new());

    // Hands off, and on again.
    assert_eq!(tool(&cluster, &["lock", &busy[0], "--reason", "debugging"]).0, 0);
    assert_eq!(phases(&cluster, "locked"), [busy[0].clone()]);
    assert_eq!(tool(&cluster, &["unlock", &busy[0]]).0, 0);
    assert_eq!(phases(&cluster, "locked"), Vec::<String>::new());

    let dry = tool(&cluster, &["pause-operations", "--reason", "rehearsal", "--dry-run"]);
    assert!(dry.0 == 0 && dry.1.contains("would be stopped"), "{dry:?}");
    assert_eq!(json_of(&cluster, &["status"])["paused"], Value::Null);

    // Nothing is launched while operations are paused, and what waits is launched afterwards.
    assert_eq!(tool(&cluster, &["pause-operations", "--reason", "zone move"]).0, 0);
    let (_, text, _) = tool(&cluster, &["status"]);
    assert!(text.contains("PAUSED") && text.contains("zone move"), "{text}");
    cluster.slurm.sbatch(&["-N", "1", "-o", "/dev/null"], "srun true").unwrap();
    wait_for_phase(&cluster, "pending", 1);
    assert_eq!(cluster.emulator.living_instances().unwrap().len(), 2);
    assert_eq!(tool(&cluster, &["resume-operations"]).0, 0);
    wait::until("the third instance", || Ok((cluster.emulator.living_instances()?.len() == 3).then_some(())))
        .unwrap();

    // A broken file changes nothing, a right one does.
    let partitions = cluster.config.join("partitions.json");
    let whole = std::fs::read_to_string(&partitions).unwrap();
    std::fs::write(&partitions, "{").unwrap();
    let (code, _, stderr) = tool(&cluster, &["reload"]);
    assert!(code == 1 && stderr.contains("partitions.json"), "{stderr}");
    assert_eq!(tool(&cluster, &["validate"]).0, 5);
    assert_eq!(json_of(&cluster, &["status"])["groups"][0]["max_nodes"], 4);
    std::fs::write(&partitions, whole.replace("\"MaxNodes\": 4", "\"MaxNodes\": 3")).unwrap();
    assert_eq!(tool(&cluster, &["reload"]).0, 0);
    assert_eq!(json_of(&cluster, &["status"])["groups"][0]["max_nodes"], 3);
    assert_eq!(tool(&cluster, &["log-level", "ERROR"]).0, 0);

    // Audit: who asked for it is in the history.
    let events = json_of(&cluster, &["events"]);
    let own = std::process::Command::new("id").arg("-u").output().unwrap();
    let uid: u64 = String::from_utf8(own.stdout).unwrap().trim().parse().unwrap();
    let asked = |kind: &str| {
        events["events"].as_array().unwrap().iter().any(|e| e["kind"] == kind && e["uid"] == json!(uid))
    };
    assert!(asked("node-locked") && asked("paused"), "{events:#}");
    let audited: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["kind"] == "operation-asked" && e["uid"] == json!(uid))
        .filter_map(|e| e["text"].as_str())
        .collect();
    for text in [
        "lock: debugging",
        "unlock",
        "pause-operations: zone move",
        "resume-operations",
        "reload",
        "log-level: ERROR",
    ] {
        assert!(audited.contains(&text), "{text} is not in {audited:?}");
    }
    assert!(!audited.iter().any(|text| text.contains("rehearsal")), "{audited:?}");

    let (code, _, stderr) = tool(&cluster, &["suspend", &busy[0]]);
    assert!(code == 2 && stderr.contains("--yes"), "{stderr}");
    assert!(cluster.slurm.command("scancel").arg(job.to_string()).status().unwrap().success());
}

/// slurmctld 22.05 keeps the plugin loaded while it reads slurm.conf again; since 23.11 a new process takes over.
#[test]
fn scontrol_reconfigure_reads_the_configuration_again() {
    let mut cluster = Cluster::start(&Options { suspend_time: 600, ..Options::default() }).unwrap();
    cluster.wait_for_plugin().unwrap();
    let partitions = cluster.config.join("partitions.json");
    let whole = std::fs::read_to_string(&partitions).unwrap();
    let max_nodes = |cluster: &Cluster| json_of(cluster, &["status"])["groups"][0]["max_nodes"].as_u64();
    let wait_for = |cluster: &Cluster, count: u64| {
        let what = format!("a node group of {count} nodes");
        wait::until(&what, || Ok((max_nodes(cluster) == Some(count)).then_some(()))).unwrap();
    };
    wait_for(&cluster, 4);

    std::fs::write(&partitions, whole.replace("\"MaxNodes\": 4", "\"MaxNodes\": 3")).unwrap();
    cluster.slurm.scontrol(&["reconfigure"]).unwrap();
    wait_for(&cluster, 3);

    let stays_loaded = paths::slurm_release().is_ok_and(|release| release < (23, 11));
    if stays_loaded {
        std::fs::write(&partitions, "{").unwrap();
        cluster.slurm.scontrol(&["reconfigure"]).unwrap();
        let refused = || {
            cluster.events().into_iter().find(|e| e["kind"] == "config-refused" && e["severity"] == "error")
        };
        let event = wait::until("the refusal", || Ok(refused())).unwrap();
        assert!(event["text"].as_str().unwrap().contains("partitions.json"), "{event}");
        assert_eq!(cluster.plugin_mode().as_deref(), Some("active"));
        assert_eq!(max_nodes(&cluster), Some(3));
    }

    std::fs::write(&partitions, &whole).unwrap();
    cluster.slurm.scontrol(&["reconfigure"]).unwrap();
    wait_for(&cluster, 4);
    // What came back works: the fourth node, too.
    super::flow::run_job(&cluster, 4);
    cluster.slurm.check().unwrap();
}

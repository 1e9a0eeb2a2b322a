// SPDX-License-Identifier: GPL-3.0-or-later
//! The server in process and the program itself: hooks, clock, control program, orderly end.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ec2fleet_emulator::{Emulator, HookPrograms, Options, Scenario};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ec2-emulator");

/// Only a guard against a test that hangs.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !check() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn query(url: &str, parameters: &[(&str, &str)]) -> Result<String, ureq::Error> {
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("Version", "2016-11-15")
        .extend_pairs(parameters)
        .finish();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    agent.post(url).send(body)?.body_mut().read_to_string()
}

fn launch(url: &str, count: u32) -> Vec<String> {
    let body = query(
        url,
        &[
            ("Action", "RunInstances"),
            ("ImageId", "ami-12345678"),
            ("InstanceType", "c5.large"),
            ("MinCount", "1"),
            ("MaxCount", &count.to_string()),
        ],
    )
    .unwrap();
    crate::account::texts(&body, "instanceId")
}

fn hook(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process_with_a_clock_that_the_test_moves() {
    let emulator = Emulator::start(Options {
        scenario: Scenario { speed: 0.0, ..Scenario::default() },
        ..Options::default()
    })
    .await
    .unwrap();
    let url = emulator.url();
    let ids = tokio::task::spawn_blocking(move || launch(&url, 2)).await.unwrap();
    let states = |emulator: &Emulator| -> Vec<String> {
        emulator.instances().iter().map(|i| i["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&emulator), ["pending", "pending"]);
    emulator.advance(5_000);
    assert_eq!(states(&emulator), ["running", "running"]);
    assert_eq!(emulator.signals().len(), 2);
    assert_eq!(emulator.calls(0)["RunInstances"], 1);
    let metadata = format!("{}/latest/meta-data/instance-id", emulator.metadata_url(&ids[1]));
    let id =
        tokio::task::spawn_blocking(move || ureq::get(metadata).call().unwrap().body_mut().read_to_string())
            .await
            .unwrap();
    assert_eq!(id.unwrap(), ids[1]);
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_of_one_instance_run_in_order_and_living_ones_end_at_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let script = |wait: &str| {
        format!(
            "{wait}echo \"$EC2_EVENT $EC2_INSTANCE_ID $EC2_PRIVATE_IP $EC2_INSTANCE_TYPE $EC2_AVAILABILITY_ZONE $EC2_SUBNET_ID $EC2_LIFECYCLE $EC2_IMAGE_ID $EC2_METADATA_URL\" >> {}",
            record.display()
        )
    };
    // The boot hook is slow: the end of the same instance waits for it.
    let boot = hook(folder.path(), "boot", &script("sleep 0.3; "));
    let end = hook(folder.path(), "end", &script(""));
    let emulator = Emulator::start(Options {
        scenario: Scenario { speed: 100.0, ..Scenario::default() },
        hooks: HookPrograms { on_boot: Some(boot), on_end: Some(end), ..HookPrograms::default() },
        ..Options::default()
    })
    .await
    .unwrap();
    let url = emulator.url();
    let at = url.clone();
    let ids = tokio::task::spawn_blocking(move || launch(&at, 2)).await.unwrap();
    let lines = || std::fs::read_to_string(&record).unwrap_or_default();
    tokio::task::block_in_place(|| {
        eventually("both run", || emulator.signals().len() == 2);
        query(&url, &[("Action", "TerminateInstances"), ("InstanceId.1", &ids[0])]).unwrap();
        eventually("one has ended", || lines().contains("end "));
    });
    emulator.shutdown().await;
    let text = lines();
    let events_of = |id: &str| -> Vec<&str> {
        text.lines().filter(|line| line.contains(id)).map(|line| line.split(' ').next().unwrap()).collect()
    };
    assert_eq!(events_of(&ids[0]), ["boot", "end"]);
    assert_eq!(events_of(&ids[1]), ["boot", "end"]);
    let first = text.lines().find(|line| line.contains(&ids[0])).unwrap();
    assert_eq!(
        first,
        format!(
            "boot {id} 127.10.0.4 c5.large us-east-1a subnet-aaaa on-demand ami-12345678 {url}/imds/{id}",
            id = ids[0]
        )
    );
}

struct Running {
    child: Child,
    url: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("one line that says where").to_owned();
        Self { child, url }
    }

    fn ctl(&self, arguments: &[&str]) -> (bool, String) {
        let output =
            Command::new(PROGRAM).args(["ctl", "--endpoint", &self.url]).args(arguments).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.ctl(arguments);
        assert!(success, "{arguments:?}: {text}");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone when the test ended it itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn the_control_program() {
    let emulator = Running::start(&["--speed", "0", "--seed", "5"]);
    let mark = emulator.ok(&["mark"]);
    query(
        &emulator.url,
        &[
            ("Action", "RunInstances"),
            ("ImageId", "ami-12345678"),
            ("InstanceType", "c5.large"),
            ("MinCount", "3"),
            ("MaxCount", "3"),
            ("InstanceMarketOptions.MarketType", "spot"),
        ],
    )
    .unwrap();
    emulator.ok(&["time", "--advance", "10"]);
    let list = emulator.ok(&["list", "--state", "running"]);
    assert_eq!(list.lines().count(), 4, "{list}");
    let id = list.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(emulator.ok(&["interrupt", &id]).trim(), id);
    emulator.ok(&["capacity", "c5.large/*/spot", "1"]);
    emulator.ok(&["time", "--advance", "300"]);
    assert_eq!(emulator.ok(&["list", "--state", "running"]).lines().count(), 2);
    assert!(emulator.ok(&["pools"]).contains("c5.large/us-east-1a/spot"));
    assert_eq!(emulator.ok(&["calls", "--since", mark.trim()]), "RunInstances  1\ntotal         1\n");
    emulator.ok(&["fault", "Describe*", "--code", "InternalError", "--count", "1"]);
    assert!(query(&emulator.url, &[("Action", "DescribeRegions")]).unwrap().contains("InternalError"));
    emulator.ok(&["fault", "*", "--lost-reply"]);
    query(&emulator.url, &[("Action", "DescribeRegions")]).expect_err("the reply is lost");
    emulator.ok(&["clear-faults"]);
    query(&emulator.url, &[("Action", "DescribeRegions")]).unwrap();
    let (success, text) = emulator.ctl(&["interrupt", "i-00000000000000000"]);
    assert!(!success && text.contains("not an instance"), "{text}");
    let (success, text) = emulator.ctl(&["fault", "CreateFleet"]);
    assert!(!success && text.contains("--code"), "{text}");
    let log = emulator.ok(&["log"]);
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn the_program_ends_in_order_and_refuses_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let port_file = folder.path().join("url");
    let ended = folder.path().join("ended");
    let end = hook(folder.path(), "end", &format!("echo \"$EC2_INSTANCE_ID\" > {}", ended.display()));
    let mut child = Command::new(PROGRAM)
        .args(["--speed", "100", "--port-file"])
        .arg(&port_file)
        .arg("--on-end")
        .arg(&end)
        .spawn()
        .unwrap();
    eventually("the port file", || port_file.exists());
    let url = std::fs::read_to_string(&port_file).unwrap().trim().to_owned();
    let ids = launch(&url, 1);
    eventually("it runs", || {
        query(&url, &[("Action", "DescribeInstances")]).unwrap().contains("<name>running</name>")
    });
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(&ended).unwrap().trim(), ids[0]);

    let wrong = folder.path().join("wrong.json");
    std::fs::write(&wrong, r#"{"pols": []}"#).unwrap();
    let output = Command::new(PROGRAM).arg("--scenario").arg(&wrong).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("wrong.json") && text.contains("pols"), "{text}");
}

#[test]
fn the_schema_describes_every_member_of_a_scenario() {
    let output = Command::new(PROGRAM).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let scenario = serde_json::to_value(Scenario::default()).unwrap();
    for name in scenario.as_object().unwrap().keys() {
        assert!(schema["properties"][name].is_object(), "{name}");
    }
    assert!(schema.to_string().contains("at_s"));
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! ec2fleet-resume, -suspend and -resume-fail as slurmctld runs them: an empty environment but for SLURM_CONF and
//! SLURM_RESUME_FILE, and closed standard streams.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use ec2fleet_control::protocol::{Operation, RefusalKind, Reply, Request, Response};
use ec2fleet_control::socket::{Command as Asked, SocketOptions};

use crate::socket::{LONG, Server};

const RESUME: &str = env!("CARGO_BIN_EXE_ec2fleet-resume");
const SUSPEND: &str = env!("CARGO_BIN_EXE_ec2fleet-suspend");
const RESUME_FAIL: &str = env!("CARGO_BIN_EXE_ec2fleet-resume-fail");

/// A folder with slurm.conf, config.json and partitions.json, and the folder for the socket.
struct Site {
    dir: PathBuf,
}

impl Site {
    fn make(dir: &Path, state: &Path) -> Self {
        let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
        write(
            "slurm.conf",
            format!("ClusterName=demo\nStateSaveLocation={}\nPrivateData=cloud\n", dir.display()),
        );
        write(
            "config.json",
            serde_json::json!({
                "LogLevel": "INFO", "LogFileName": dir.join("plugin.log"), "StateDir": state, "SlurmConf": {},
            })
            .to_string(),
        );
        write(
            "partitions.json",
            serde_json::json!({ "Partitions": [{ "PartitionName": "aws", "NodeGroups": [{
                "NodeGroupName": "spot", "MaxNodes": 10, "Region": "eu-central-1",
                "SlurmSpecifications": { "CPUs": "2" }, "PurchasingOption": "spot",
                "LaunchTemplateSpecification": { "LaunchTemplateName": "compute", "Version": "1" },
                "LaunchTemplateOverrides": [{ "InstanceType": "c5.large" }],
                "SubnetIds": ["subnet-11111111"],
            }]}]})
            .to_string(),
        );
        Self { dir: dir.to_owned() }
    }

    /// As slurmctld does it; the exit code and what was logged.
    fn run(&self, program: &str, arguments: &[&str], resume_file: Option<&str>) -> (i32, String) {
        let mut command = Command::new("/bin/sh");
        // The shell closes the standard streams, as slurmctld 22.05 does before it executes a program.
        command.args(["-c", r#"exec "$@" <&- >&- 2>&-"#, "sh", program]).args(arguments);
        command.env_clear().env("SLURM_CONF", self.dir.join("slurm.conf")).process_group(0);
        if let Some(text) = resume_file {
            let path = self.dir.join("resume-file");
            std::fs::write(&path, text).expect("written");
            command.env("SLURM_RESUME_FILE", path);
        }
        let status = command.status().expect("it runs");
        let log = std::fs::read_to_string(self.dir.join("plugin.log")).unwrap_or_default();
        (status.code().expect("it is not killed"), log)
    }
}

/// A plugin that gives every request to the test and answers `response`.
fn plugin(response: Response) -> (Server, mpsc::Receiver<Request>) {
    let (seen, requests) = mpsc::channel();
    let server = Server::start(SocketOptions::default(), 8, move |asked: Asked| {
        seen.send(asked.request).expect("the test listens");
        let _ = asked.reply.send(response.clone());
    });
    (server, requests)
}

fn accepted() -> Response {
    Response::ok(Reply::Accepted { nodes: "aws-spot-[0-3]".into(), count: 4 })
}

#[test]
fn requests_reach_the_plugin() {
    let (server, requests) = plugin(accepted());
    let dir = tempfile::tempdir().expect("a scratch folder");
    let site = Site::make(dir.path(), server.path.parent().expect("a folder"));
    let file =
        r#"{"all_nodes_resume":"aws-spot-[0-3]","jobs":[{"job_id":17,"nodes_resume":"aws-spot-[0-3]"}]}"#;
    let nodes = || "aws-spot-[0-3]".to_owned();

    assert_eq!(site.run(RESUME, &["aws-spot-[0-3]"], Some(file)), (0, String::new()));
    let Operation::Resume { nodes: seen, jobs: Some(jobs) } = requests.recv_timeout(LONG).expect("asked").op
    else {
        panic!("a resume with jobs is expected")
    };
    assert_eq!((seen, jobs.jobs[0].job_id, jobs.all_nodes), (nodes(), 17, Some(nodes())));

    // A reboot for features gives them as a second argument.
    assert_eq!(site.run(RESUME, &["aws-spot-[0-3]", "featureA"], None).0, 0);
    assert_eq!(
        requests.recv_timeout(LONG).expect("asked").op,
        Operation::Resume { nodes: nodes(), jobs: None }
    );
    assert_eq!(site.run(SUSPEND, &["aws-spot-[0-3]"], None).0, 0);
    assert_eq!(requests.recv_timeout(LONG).expect("asked").op, Operation::Suspend { nodes: nodes() });
    assert_eq!(site.run(RESUME_FAIL, &["aws-spot-[0-3]"], None).0, 0);
    assert_eq!(requests.recv_timeout(LONG).expect("asked").op, Operation::ResumeFail { nodes: nodes() });
}

#[test]
fn a_broken_resume_file_costs_the_jobs_and_not_the_nodes() {
    let (server, requests) = plugin(accepted());
    let dir = tempfile::tempdir().expect("a scratch folder");
    let site = Site::make(dir.path(), server.path.parent().expect("a folder"));
    let (code, log) = site.run(RESUME, &["aws-spot-1"], Some("{\"jobs\":"));
    assert_eq!(code, 0);
    assert!(log.contains("without knowing their jobs"), "{log}");
    let expected = Operation::Resume { nodes: "aws-spot-1".into(), jobs: None };
    assert_eq!(requests.recv_timeout(LONG).expect("asked").op, expected);
}

#[test]
fn what_the_plugin_refuses_is_logged_and_fails() {
    let refusal = Response::refused(RefusalKind::BadRequest, "node aws-spot-99 is not known", "Check it.");
    let (server, _requests) = plugin(refusal);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let site = Site::make(dir.path(), server.path.parent().expect("a folder"));
    let (code, log) = site.run(SUSPEND, &["aws-spot-99"], None);
    assert_eq!(code, 1);
    assert!(log.contains(" error   ec2fleet-suspend["), "{log}");
    assert!(
        log.contains("aws-spot-99: the plugin refused: node aws-spot-99 is not known Check it."),
        "{log}"
    );
}

#[test]
fn with_a_broken_configuration_the_plugin_is_still_found_and_the_log_too() {
    let (server, requests) = plugin(accepted());
    let dir = tempfile::tempdir().expect("a scratch folder");
    let site = Site::make(dir.path(), server.path.parent().expect("a folder"));
    std::fs::write(dir.path().join("partitions.json"), "{").expect("written");
    assert_eq!(site.run(SUSPEND, &["aws-spot-1"], None), (0, String::new()));
    assert_eq!(
        requests.recv_timeout(LONG).expect("asked").op,
        Operation::Suspend { nodes: "aws-spot-1".into() }
    );
    drop(server);
    let (code, log) = site.run(SUSPEND, &["aws-spot-1"], None);
    assert_eq!(code, 1);
    assert!(log.contains("partitions.json:1"), "{log}");
}

#[test]
fn a_malformed_hostlist_is_never_sent() {
    let (server, requests) = plugin(accepted());
    let dir = tempfile::tempdir().expect("a scratch folder");
    let site = Site::make(dir.path(), server.path.parent().expect("a folder"));
    let (code, log) = site.run(RESUME, &["aws-spot-[0-"], None);
    assert_eq!(code, 1);
    assert!(log.contains("bracket"), "{log}");
    assert!(requests.try_recv().is_err());
    assert_eq!(site.run(RESUME, &[], None).0, 2);
}

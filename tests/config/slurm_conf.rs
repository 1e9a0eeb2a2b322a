// SPDX-License-Identifier: GPL-3.0-or-later
//! Reading slurm.conf.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use ec2fleet_config::SlurmFacts;
use ec2fleet_config::slurm_conf::noted_fleets;

use crate::accepted::slurm;

#[test]
fn keys_ignore_case_and_comments_and_continuations_are_followed() {
    let facts = slurm(concat!(
        "# a comment\n",
        "clustername = Alpha   # the name\n",
        "RESUMETIMEOUT=600 SuspendTimeout=90\n",
        "SlurmctldParameters=idle_on_node_suspend,\\\n",
        "node_reg_mem_percent=90\n",
        "MailProg=/bin/a\\#b\n",
        "Epilog=\"/a b/c\"\n",
        "SuspendTime=INFINITE\n",
        "ResumeTimeout=700\n",
        "  \n",
    ));
    assert_eq!(facts.problems, []);
    assert_eq!(facts.cluster_name(), Some("Alpha"));
    assert_eq!(facts.resume_timeout_s(), 700, "the last one counts");
    assert_eq!(facts.suspend_timeout_s(), 90);
    assert_eq!(facts.suspend_time_s(), None);
    assert!(facts.has("slurmctldparameters", "IDLE_ON_NODE_SUSPEND"));
    assert_eq!(facts.get("MailProg"), Some("/bin/a#b"));
    assert_eq!(facts.get("Epilog"), Some("/a b/c"));
    assert_eq!(facts.setting("Epilog").unwrap().line, 7, "of the file, not of the joined lines");
}

#[test]
fn fleets_that_another_plugin_noted_are_found() {
    let text = "# made by hand\n#EC2_FLEET aws spot fleet-11111111-2222-3333-4444-555555555555\n\
        NodeName=aws-spot-[0-9] CPUs=4\n  #EC2_FLEET\taws  od   fleet-2\n#EC2_FLEETS aws x fleet-3\n\
        #EC2_FLEET aws spot\n#EC2_FLEET aws again fleet-2\n#EC2_FLEET aws spot not-an-id\n";
    let found = noted_fleets(text);
    let fleets: Vec<_> = found.iter().map(|f| (&*f.partition, &*f.group, &*f.fleet_id)).collect();
    assert_eq!(
        fleets,
        [("aws", "spot", "fleet-11111111-2222-3333-4444-555555555555"), ("aws", "od", "fleet-2")]
    );
}

#[test]
fn what_is_not_set_is_slurms_default() {
    let facts = slurm("ClusterName=x\n");
    assert_eq!((facts.resume_timeout_s(), facts.suspend_timeout_s(), facts.suspend_time_s()), (60, 30, None));
    assert_eq!((facts.resume_rate(), facts.suspend_rate(), facts.slurmd_timeout_s()), (300, 60, 300));
    assert_eq!((facts.state_save_location(), facts.slurm_user()), ("/var/spool", "root"));
    assert!(facts.is_known());
    assert!(!SlurmFacts::default().is_known());
}

#[test]
fn node_and_partition_lines_inherit_from_default_lines() {
    let facts = slurm(concat!(
        "NodeName=DEFAULT CPUs=4 State=UNKNOWN\n",
        "NodeName=a[0-3] Weight=2\n",
        "NodeName=DEFAULT State=CLOUD\n",
        "NodeName=b-c-[0-9],b-d-0 RealMemory=100\n",
        "NodeName=e State=CLOUD+DRAIN CPUs=8\n",
        "PartitionName=DEFAULT MaxTime=60\n",
        "PartitionName=p Nodes=ALL SuspendTime=500\n",
    ));
    assert_eq!(facts.nodes.len(), 3);
    assert_eq!(facts.nodes[0].get("cpus"), Some("4"));
    assert!(!facts.nodes[0].is_cloud());
    assert_eq!(facts.nodes[1].get("CPUs"), Some("4"));
    let cloud: Vec<&str> = facts.cloud_nodes().map(|l| l.name.as_str()).collect();
    assert_eq!(cloud, ["b-c-[0-9],b-d-0", "e"]);
    assert_eq!(facts.partitions[0].get("MaxTime"), Some("60"));
    assert_eq!((facts.partitions[0].name.as_str(), facts.partitions[0].line), ("p", 7));
}

#[test]
fn includes_are_relative_and_know_the_cluster_and_circles_end() {
    let files: HashMap<&str, &str> = [
        ("/etc/slurm/sub/slurm.conf.aws", "ResumeTimeout=500\nInclude more\n"),
        ("/etc/slurm/sub/more", "NodeName=n State=CLOUD\n"),
        ("/etc/slurm/alpha.conf", "SuspendTime=700\n"),
        ("/etc/slurm/circle", "include circle\nSuspendRate=1\n"),
    ]
    .into();
    let facts = SlurmFacts::parse(
        Path::new("/etc/slurm/slurm.conf"),
        "ClusterName=Alpha\nINCLUDE sub/slurm.conf.aws\n Include %c.conf\nInclude circle\nInclude gone\nIncludeX=1\n",
        &mut |path| {
            files
                .get(path.to_str().unwrap())
                .map(|text| (*text).to_owned())
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        },
    );
    assert_eq!(facts.resume_timeout_s(), 500);
    assert_eq!(facts.suspend_time_s(), Some(700));
    assert_eq!(facts.suspend_rate(), 1);
    assert_eq!(facts.nodes[0].file, Path::new("/etc/slurm/sub/more"));
    let problems: Vec<String> = facts.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("/etc/slurm/circle:1: Include"), "{problems:?}");
    assert!(
        problems[1].starts_with("/etc/slurm/slurm.conf:5: Cannot include /etc/slurm/gone"),
        "{problems:?}"
    );
}

#[test]
fn lines_that_are_not_pairs_are_problems() {
    let facts =
        slurm("ClusterName=x\nResumeTimeout\nSuspendTime= # nothing\nNodeName=a State=CLOUD CPUs\n=5\n");
    let lines: Vec<u32> = facts.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [2, 3, 4, 5]);
    assert_eq!(facts.nodes.len(), 1);
}

#[test]
fn a_file_is_read_with_bytes_that_are_not_utf8() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("slurm.conf");
    std::fs::write(&file, b"ClusterName=x # caf\xe9\nInclude aws\n").unwrap();
    std::fs::write(dir.path().join("aws"), "ResumeTimeout=1000\n").unwrap();
    let facts = SlurmFacts::read(&file).unwrap();
    assert_eq!((facts.cluster_name(), facts.resume_timeout_s()), (Some("x"), 1000));
    assert!(SlurmFacts::read(&dir.path().join("gone")).is_err());
}

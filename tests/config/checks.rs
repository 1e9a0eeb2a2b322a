// SPDX-License-Identifier: GPL-3.0-or-later
//! The check list for slurm.conf: silent on a healthy cluster, and right about each fault.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use slurm_ec2_fleet::config::{self, Check, FileState, GenerateOptions, SlurmFacts, Verdict};

use crate::accepted::slurm;
use crate::broken::{Edit, apply, base_config, base_partitions, check_values};

/// A slurm.conf that leaves nothing to be desired, but for the nodes and partitions.
const HEALTHY: &str = "ClusterName=test
SlurmctldHost=head
StateSaveLocation=/var/spool/slurmctld
SlurmUser=slurm
PrivateData=cloud,jobs
ReturnToService=2
TreeWidth=65533
CommunicationParameters=NoAddrCache
SlurmctldParameters=idle_on_node_suspend,node_reg_mem_percent=90
ResumeProgram=/usr/sbin/ec2fleet-resume
SuspendProgram=/usr/sbin/ec2fleet-suspend
ResumeFailProgram=/usr/sbin/ec2fleet-resume-fail
ResumeTimeout=300
SuspendTimeout=60
SuspendTime=400
ResumeRate=0
SuspendRate=0
SlurmdTimeout=300
JobSubmitPlugins=lua,ec2_fleet
GresTypes=gpu
";

fn run(edits: &[Edit], change: impl Fn(String) -> String) -> Vec<Check> {
    let (mut config, mut partitions) = (base_config(), base_partitions());
    for edit in edits {
        apply(&mut config, &mut partitions, edit);
    }
    let loaded = check_values(&config, &partitions, &slurm("ClusterName=test")).unwrap();
    let lines =
        config::generate(&loaded.site, &indexmap::IndexMap::new(), &GenerateOptions::default()).slurm_conf;
    let facts = slurm(&change(format!("{HEALTHY}{lines}")));
    config::slurm_checks(&facts, &loaded.site)
}

fn found(checks: &[Check]) -> Vec<(&'static str, Verdict)> {
    checks.iter().filter(|c| c.verdict != Verdict::Ok).map(|c| (c.id, c.verdict)).collect()
}

#[test]
fn a_healthy_cluster_gets_no_remark() {
    let checks = run(&[], |text| text);
    assert_eq!(found(&checks), [], "{checks:#?}");
    let ids: BTreeSet<&str> = checks.iter().map(|c| c.id).collect();
    assert_eq!(ids.len(), checks.len(), "each check once");
    assert!(checks.len() >= 20, "{}", checks.len());
    let hibernating =
        [Edit::Set("/NodeGroups/1/SpotOptions", json!({ "InstanceInterruptionBehavior": "hibernate" }))];
    assert_eq!(found(&run(&hibernating, |text| text)), []);
}

/// What is replaced in the healthy slurm.conf, by what, and what must be found.
type Fault = (&'static str, &'static str, &'static [(&'static str, Verdict)]);

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    ("ClusterName=test\n", "", &[("cluster-name", Verdict::Fail)]),
    ("ClusterName=test\n", "ClusterName=test\nInclude gone.conf\n", &[("slurm-conf", Verdict::Fail)]),
    ("ClusterName=test\n", "ClusterName=test\nnonsense\n", &[("slurm-conf", Verdict::Fail)]),
    ("PrivateData=cloud,jobs\n", "", &[("private-data", Verdict::Warn)]),
    ("PrivateData=cloud,jobs\n", "PrivateData=jobs\n", &[("private-data", Verdict::Warn)]),
    ("ReturnToService=2\n", "", &[("return-to-service", Verdict::Warn)]),
    ("ReturnToService=2\n", "ReturnToService=1\n", &[("return-to-service", Verdict::Warn)]),
    ("TreeWidth=65533\n", "", &[("tree-width", Verdict::Warn)]),
    ("TreeWidth=65533\n", "TreeWidth=109\n", &[("tree-width", Verdict::Warn)]),
    ("TreeWidth=65533\n", "TreeWidth=110\n", &[]),
    ("CommunicationParameters=NoAddrCache\n", "", &[("no-addr-cache", Verdict::Warn)]),
    ("idle_on_node_suspend,", "", &[("idle-on-node-suspend", Verdict::Warn)]),
    ("idle_on_node_suspend,", "idle_on_node_suspend,cloud_dns,", &[("cloud-dns", Verdict::Warn)]),
    ("SlurmctldParameters=idle_on_node_suspend,node_reg_mem_percent=90\n", "", &[("idle-on-node-suspend", Verdict::Warn)]),
    ("ResumeProgram=/usr/sbin/ec2fleet-resume\n", "", &[("resume-program", Verdict::Fail)]),
    ("ResumeProgram=/usr/sbin/ec2fleet-resume\n", "ResumeProgram=ec2fleet-resume\n", &[("resume-program", Verdict::Fail)]),
    ("ResumeProgram=/usr/sbin/ec2fleet-resume\n", "ResumeProgram=/slurm/etc/aws/resume.py\n", &[("resume-program", Verdict::Fail)]),
    ("ResumeProgram=/usr/sbin/ec2fleet-resume\n", "ResumeProgram=/usr/sbin/ec2fleet-suspend\n", &[("resume-program", Verdict::Fail)]),
    ("ResumeProgram=/usr/sbin/ec2fleet-resume\n", "ResumeProgram=/etc/slurm/both-clouds\n", &[("resume-program", Verdict::Warn)]),
    ("SuspendProgram=/usr/sbin/ec2fleet-suspend\n", "", &[("suspend-program", Verdict::Fail)]),
    ("ResumeFailProgram=/usr/sbin/ec2fleet-resume-fail\n", "", &[("resume-fail-program", Verdict::Warn)]),
    ("ResumeTimeout=300\n", "", &[("resume-timeout", Verdict::Fail)]),
    ("ResumeTimeout=300\n", "ResumeTimeout=310\n", &[("resume-timeout", Verdict::Warn)]),
    ("ResumeTimeout=300\n", "ResumeTimeout=INFINITE\n", &[("resume-timeout", Verdict::Warn), ("suspend-time", Verdict::Warn)]),
    ("SuspendTimeout=60\n", "SuspendTimeout=0\n", &[("suspend-timeout", Verdict::Fail)]),
    ("SuspendTimeout=60\n", "SuspendTimeout=61\n", &[("suspend-timeout", Verdict::Warn)]),
    ("SuspendTimeout=60\n", "SuspendTimeout=101\n", &[("suspend-timeout", Verdict::Warn), ("suspend-time", Verdict::Warn)]),
    ("SuspendTime=400\n", "", &[("suspend-time", Verdict::Fail)]),
    ("SuspendTime=400\n", "SuspendTime=INFINITE\n", &[("suspend-time", Verdict::Fail)]),
    ("SuspendTime=400\n", "SuspendTime=359\n", &[("suspend-time", Verdict::Warn)]),
    ("Default=yes\n", "Default=yes SuspendTime=INFINITE\n", &[("suspend-time", Verdict::Fail)]),
    ("ResumeRate=0\n", "ResumeRate=99\n", &[("resume-rate", Verdict::Warn)]),
    ("ResumeRate=0\n", "ResumeRate=100\n", &[]),
    ("SuspendRate=0\n", "", &[("suspend-rate", Verdict::Warn)]),
    ("SlurmdTimeout=300\n", "SlurmdTimeout=0\n", &[("slurmd-timeout", Verdict::Warn)]),
    ("SlurmdTimeout=300\n", "SlurmdTimeout=300\nRebootProgram=reboot\n", &[("reboot-program", Verdict::Warn)]),
    ("JobSubmitPlugins=lua,ec2_fleet\n", "JobSubmitPlugins=lua\n", &[("job-submit-plugins", Verdict::Warn)]),
    ("NodeName=cloud-od-[0-9] ", "NodeName=cloud-od-[0-8] ", &[("node-lines", Verdict::Fail)]),
    ("NodeName=cloud-od-[0-9] ", "NodeName=cloud-od-[0-10] ", &[("node-lines", Verdict::Warn)]),
    ("NodeName=cloud-od-[0-9] State=CLOUD", "NodeName=cloud-od-[0-9] State=FUTURE", &[("node-lines", Verdict::Fail)]),
    ("Nodes=cloud-od-[0-9],", "Nodes=cloud-od-[1-9],", &[("partition-lines", Verdict::Fail)]),
    ("Nodes=cloud-od-[0-9],cloud-spot-[0-99]", "Nodes=ALL", &[]),
    ("PartitionName=cloud ", "PartitionName=other ", &[("suspend-time", Verdict::Ok), ("partition-lines", Verdict::Fail)]),
    ("SlurmdTimeout=300\n", "SlurmdTimeout=300\nSuspendExcParts=cloud\n", &[("suspend-exclusions", Verdict::Warn)]),
    ("SlurmdTimeout=300\n", "SlurmdTimeout=300\nSuspendExcNodes=head,cloud-od-[3-4]\n", &[("suspend-exclusions", Verdict::Warn)]),
    ("SlurmdTimeout=300\n", "SlurmdTimeout=300\nSuspendExcNodes=cloud-od-[0-9]:2\n", &[]),
    ("State=CLOUD CPUs=4", "State=CLOUD RealMemory=100 CPUs=4", &[]),
];

#[test]
fn each_fault_is_found_and_nothing_else() {
    for (number, (from, to, expected)) in FAULTS.iter().enumerate() {
        let checks = run(&[], |text| {
            assert!(text.contains(from), "case {number}: {from}");
            text.replacen(from, to, 1)
        });
        let expected: Vec<_> = expected.iter().copied().filter(|(_, v)| *v != Verdict::Ok).collect();
        assert_eq!(found(&checks), expected, "case {number}: {from:?} -> {to:?}: {checks:#?}");
        for check in checks.iter().filter(|c| c.verdict != Verdict::Ok) {
            assert!(check.remedy.len() > 5 && check.reason.ends_with('.'), "case {number}: {check:?}");
        }
    }
}

#[test]
fn faults_that_depend_on_the_configuration() {
    let hibernate = json!({ "InstanceInterruptionBehavior": "hibernate" });
    let checks = run(&[Edit::Set("/NodeGroups/1/SpotOptions", hibernate.clone())], |text| {
        text.replace("JobSubmitPlugins=lua,ec2_fleet\n", "")
    });
    assert_eq!(found(&checks), [("job-submit-plugins", Verdict::Fail)]);

    let checks = run(
        &[
            Edit::Set("/NodeGroups/1/SpotOptions", hibernate),
            Edit::Set("/NodeGroups/1/KeepResponding", json!(false)),
        ],
        |text| text,
    );
    assert_eq!(found(&checks), [("slurmd-timeout", Verdict::Warn)]);

    let memory = [Edit::Set("/NodeGroups/0/SlurmSpecifications/RealMemory", json!(1000))];
    let checks = run(&memory, |text| text.replace(",node_reg_mem_percent=90", ""));
    assert_eq!(found(&checks), [("node-reg-mem-percent", Verdict::Warn)]);

    let gres = [Edit::Set("/NodeGroups/0/SlurmSpecifications/Gres", json!("gpu:1,license:x:4"))];
    assert_eq!(found(&run(&gres, |text| text)), [("gres-types", Verdict::Fail)]);
    assert_eq!(found(&run(&gres, |text| text.replace("GresTypes=gpu", "GresTypes=License,GPU"))), []);
}

#[test]
fn without_slurm_conf_there_is_one_failure() {
    let loaded = check_values(&base_config(), &base_partitions(), &slurm("ClusterName=test")).unwrap();
    let checks = config::slurm_checks(&SlurmFacts::default(), &loaded.site);
    assert_eq!(found(&checks), [("slurm-conf", Verdict::Fail)]);
}

#[test]
fn the_files_of_the_programs() {
    let facts = slurm(HEALTHY);
    let all_good = config::program_checks(&facts, &|_| FileState::Good);
    assert_eq!(found(&all_good), []);
    assert_eq!(all_good.len(), 3);
    let checks = config::program_checks(&facts, &|path: &Path| match path.to_str().unwrap() {
        "/usr/sbin/ec2fleet-resume" => FileState::Missing,
        "/usr/sbin/ec2fleet-suspend" => FileState::NotExecutable,
        "/usr/sbin/ec2fleet-resume-fail" => FileState::WritableByOthers,
        other => panic!("{other}"),
    });
    assert_eq!(
        found(&checks),
        [
            ("resume-program-file", Verdict::Fail),
            ("suspend-program-file", Verdict::Fail),
            ("resume-fail-program-file", Verdict::Warn)
        ]
    );
}

#[test]
fn every_anchor_is_in_the_documentation() {
    let page = include_str!("../../docs/configuration.md");
    let anchors: BTreeSet<String> =
        page.lines().filter_map(|l| l.strip_prefix("#### ")).map(|l| l.trim().to_owned()).collect();
    let mut checks = run(&[], |text| text);
    checks.extend(config::program_checks(&slurm(HEALTHY), &|_| FileState::Good));
    for check in checks {
        let (file, anchor) = check.anchor.split_once('#').unwrap();
        assert_eq!(file, "docs/configuration.md");
        assert!(anchors.contains(anchor), "no heading \"#### {anchor}\" in {file}");
    }
}

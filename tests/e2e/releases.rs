// SPDX-License-Identifier: GPL-3.0-or-later
//! What differs between Slurm's releases, and what has to be alike in all of them (docs/releases.md). `make test-releases`
//! runs these with the packages of each.

use std::path::Path;

use super::flow::{our_errors, run_job};
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::{paths, wait};

/// A job that runs until a file appears. Returns its id when it runs on all of its nodes.
pub fn job_until(cluster: &Cluster, nodes: u32, finish: &Path) -> u32 {
    let script = format!("while [ ! -e {} ]; do sleep 0.2; done", finish.display());
    let job = cluster.slurm.sbatch(&["-N", &nodes.to_string(), "-o", "/dev/null"], &script).unwrap();
    wait::until("the job to run", || {
        let job = cluster.slurm.job(job)?;
        if matches!(job["JobState"].as_str(), "FAILED" | "NODE_FAIL" | "CANCELLED") {
            return Err(format!("{job:?}"));
        }
        Ok((job["JobState"] == "RUNNING").then_some(()))
    })
    .unwrap();
    job
}

#[test]
fn nodes_show_their_instances_where_slurm_has_a_field_for_them() {
    let cluster = Cluster::start(&Options::default()).unwrap();
    let finish = cluster.scratch.path().join("finish");
    let job = job_until(&cluster, 3, &finish);
    let bound = cluster.bindings().unwrap();
    assert_eq!(bound.len(), 3, "{bound:?}");
    let instances = cluster.emulator.instances().unwrap();
    for (name, id) in &bound {
        let node = cluster.slurm.node(name).unwrap();
        if paths::slurm_release().unwrap() >= (23, 11) {
            let instance = instances.iter().find(|i| i.id == *id).unwrap();
            assert_eq!(node["InstanceId"], *id, "{node:?}");
            assert_eq!(node["InstanceType"], instance.kind, "{node:?}");
        } else {
            // No such field; `ec2fleet nodes` has the instance in every release.
            assert!(!node.contains_key("InstanceId"), "{node:?}");
        }
    }
    std::fs::write(&finish, "").unwrap();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
    cluster.wait_for_rest().unwrap();
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn the_plugin_loads_beside_lua() {
    let mut cluster = Cluster::start(&Options { start: false, ..Options::default() }).unwrap();
    let folder = cluster.slurm.conf.parent().unwrap();
    std::fs::write(
        folder.join("job_submit.lua"),
        "function slurm_job_submit(job, partitions, uid)\n\
         \x20 job.comment = 'read by lua'\n\
         \x20 return slurm.SUCCESS\n\
         end\n\
         function slurm_job_modify(change, job, partitions, uid)\n\
         \x20 return slurm.SUCCESS\n\
         end\n",
    )
    .unwrap();
    let conf = std::fs::read_to_string(&cluster.slurm.conf).unwrap();
    std::fs::write(
        &cluster.slurm.conf,
        conf.replace("JobSubmitPlugins=ec2_fleet", "JobSubmitPlugins=lua,ec2_fleet"),
    )
    .unwrap();
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    run_job(&cluster, 4);
    let jobs = cluster.slurm.scontrol(&["-o", "show", "jobs"]).unwrap();
    assert!(jobs.contains("Comment=read by lua"), "{jobs}");
    cluster.wait_for_rest().unwrap();
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

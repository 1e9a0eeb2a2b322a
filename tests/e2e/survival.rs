// SPDX-License-Identifier: GPL-3.0-or-later
//! slurmctld outlives everything that can be wrong with the plugin, and nodes and instances end in the right state.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::flow::{our_errors, run_job, submit};
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::instances::compile;
use ec2fleet_rig::wait;

/// The job is run by the programs, which slurmctld starts in any case.
fn the_programs_do_the_work(cluster: &mut Cluster) {
    run_job(cluster, 2);
    cluster.wait_for_rest().unwrap();
    cluster.slurm.check().unwrap();
}

fn one_error_that_says(cluster: &Cluster, words: &[&str]) {
    let errors = our_errors(cluster);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for word in words {
        assert!(errors[0].contains(word), "{word} is not in {}", errors[0]);
    }
}

#[test]
fn a_missing_library() {
    let environment = vec![("EC2FLEET_LIBRARY".into(), "/nonexistent/libslurm_ec2_fleet.so".into())];
    let mut cluster = Cluster::start(&Options { environment, ..Options::default() }).unwrap();
    the_programs_do_the_work(&mut cluster);
    one_error_that_says(&cluster, &["/nonexistent/libslurm_ec2_fleet.so", "passive"]);
}

#[test]
fn a_library_of_another_release() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("other.c");
    std::fs::write(
        &source,
        "unsigned ec2fleet_plugin_abi_version(void) { return 4711; }\n\
         int ec2fleet_plugin_start(void) { return *(volatile int *)0; }\n\
         int ec2fleet_plugin_stop(void) { return *(volatile int *)0; }\n",
    )
    .unwrap();
    let library = folder.path().join("other.so");
    compile(&["-shared", "-fPIC"], &source, &library).unwrap();
    let environment = vec![("EC2FLEET_LIBRARY".into(), library.display().to_string())];
    let mut cluster = Cluster::start(&Options { environment, ..Options::default() }).unwrap();
    the_programs_do_the_work(&mut cluster);
    one_error_that_says(&cluster, &["4711", "passive"]);
}

#[test]
fn a_malformed_configuration_until_it_is_mended() {
    let mut cluster = Cluster::start(&Options { start: false, ..Options::default() }).unwrap();
    let file = cluster.config.join("partitions.json");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "{\"Partitions\": [").unwrap();
    cluster.slurm.start().unwrap();
    wait::until("an error in slurmctld's log", || Ok((!our_errors(&cluster).is_empty()).then_some(())))
        .unwrap();
    assert!(our_errors(&cluster)[0].contains("passive"), "{:?}", our_errors(&cluster));
    wait::until("the place of the error", || {
        Ok(cluster.slurm.log_text().contains("partitions.json:1:").then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.emulator.instances().unwrap().len(), 0);

    std::fs::write(&file, &good).unwrap();
    cluster.slurm.scontrol(&["reconfigure"]).unwrap();
    cluster.wait_for_plugin().unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();

    // A bad file at reload leaves the running configuration in force.
    std::fs::write(&file, "{\"Partitions\": 7}").unwrap();
    let answer = cluster.ask_plugin(&json!({"v": 1, "op": "reload"})).unwrap();
    assert_eq!(answer["error"]["kind"], "failed", "{answer}");
    assert!(cluster.events().iter().any(|event| event["kind"] == "config-refused"));
    assert_eq!(cluster.plugin_mode().as_deref(), Some("active"));
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
    cluster.slurm.check().unwrap();
}

#[test]
fn a_missing_configuration_until_it_is_there() {
    let mut cluster = Cluster::start(&Options { start: false, ..Options::default() }).unwrap();
    let away = cluster.config.with_file_name("away");
    std::fs::rename(&cluster.config, &away).unwrap();
    cluster.slurm.start().unwrap();
    wait::until("an error in slurmctld's log", || Ok((!our_errors(&cluster).is_empty()).then_some(())))
        .unwrap();

    std::fs::rename(&away, &cluster.config).unwrap();
    cluster.slurm.scontrol(&["reconfigure"]).unwrap();
    cluster.wait_for_plugin().unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
    cluster.slurm.check().unwrap();
}

#[test]
fn ec2_out_of_reach_for_a_minute_in_mid_launch() {
    let mut cluster = Cluster::start(&Options::default()).unwrap();
    cluster.wait_for_plugin().unwrap();
    let output = cluster.scratch.path().join("job.out");
    let job = submit(&cluster, 4, &output);
    wait::until("CreateFleet to be sent", || {
        Ok(cluster.events().iter().any(|event| event["kind"] == "create-fleet-sent").then_some(()))
    })
    .unwrap();
    cluster.emulator.freeze();
    std::thread::sleep(Duration::from_secs(60));
    cluster.emulator.thaw();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
    cluster.wait_for_rest().unwrap();
    // The same client token was sent again: nothing was launched twice.
    assert_eq!(cluster.emulator.instances().unwrap().len(), 4);
    cluster.slurm.check().unwrap();
}

fn allow_panics() -> Options {
    Options { environment: vec![("EC2FLEET_ALLOW_PANIC".into(), "1".into())], ..Options::default() }
}

/// The answer may or may not come: the engine that should give it is gone.
fn panic_in_the_engine(cluster: &Cluster) {
    drop(cluster.ask_plugin(&json!({"v": 1, "op": "panic"})));
}

fn restarts(cluster: &Cluster) -> usize {
    cluster.events().iter().filter(|event| event["kind"] == "restarted").count()
}

/// No program would be started for these nodes before ResumeTimeout.
#[test]
fn a_panic_while_create_fleet_is_on_its_way() {
    let mut cluster = Cluster::start(&allow_panics()).unwrap();
    cluster.wait_for_plugin().unwrap();
    // Nothing is launched before EC2 was listed once.
    run_job(&cluster, 1);
    cluster.wait_for_rest().unwrap();
    let before = cluster.emulator.instances().unwrap().len();
    let sent = || cluster.events().iter().filter(|event| event["kind"] == "create-fleet-sent").count();
    let sent_before = sent();
    cluster.emulator.freeze();
    let job = submit(&cluster, 4, &cluster.scratch.path().join("job.out"));
    wait::until("CreateFleet to be sent", || Ok((sent() > sent_before).then_some(()))).unwrap();
    panic_in_the_engine(&cluster);
    wait::until("the engine to start again", || Ok((restarts(&cluster) == 1).then_some(()))).unwrap();
    cluster.emulator.thaw();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
    cluster.wait_for_rest().unwrap();
    assert_eq!(cluster.plugin_mode().as_deref(), Some("active"));
    // The same client token was sent again: nothing was launched twice.
    assert_eq!(cluster.emulator.instances().unwrap().len(), before + 4);
    assert_eq!(our_errors(&cluster).len(), 1, "{:?}", our_errors(&cluster));
    cluster.slurm.check().unwrap();
}

#[test]
fn panics_that_do_not_end_hand_over_to_the_programs() {
    let mut cluster = Cluster::start(&allow_panics()).unwrap();
    cluster.wait_for_plugin().unwrap();
    for panics in 1..=3 {
        panic_in_the_engine(&cluster);
        wait::until("the engine to start again", || Ok((restarts(&cluster) == panics).then_some(())))
            .unwrap();
        cluster.wait_for_plugin().unwrap();
    }
    let job = submit(&cluster, 4, &cluster.scratch.path().join("job.out"));
    // Earlier, nothing would start a program for these nodes before ResumeTimeout.
    wait::until("the nodes' addresses", || {
        Ok(cluster.events().iter().any(|event| event["kind"] == "addresses-set").then_some(()))
    })
    .unwrap();
    panic_in_the_engine(&cluster);
    wait::until("the plugin to be left alone", || {
        Ok((cluster.plugin_mode().as_deref() == Some("passive")).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
    cluster.wait_for_rest().unwrap();
    the_programs_do_the_work(&mut cluster);
    assert!(our_errors(&cluster).iter().any(|line| line.contains("passive")), "{:?}", our_errors(&cluster));

    // A restart brings the plugin back.
    assert!(cluster.slurm.stop());
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
}

/// Jobs of two nodes each, `disturb` while their nodes are waking; all of them complete.
fn jobs_survive(times: usize, mut disturb: impl FnMut(&mut Cluster)) {
    let mut cluster = Cluster::start(&Options { nodes: 8, ..Options::default() }).unwrap();
    cluster.wait_for_plugin().unwrap();
    let mut jobs = Vec::new();
    for round in 0..times {
        // No srun: slurmctld (22.05.8) refuses credentials for a moment while it reads slurm.conf again, and srun
        // does not try again.
        let output = cluster.scratch.path().join(format!("job-{round}.out")).display().to_string();
        jobs.push(cluster.slurm.sbatch(&["-N2", "-o", &output], "sleep 0.2").unwrap());
        // At a different moment of the resume each time.
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..1500)));
        disturb(&mut cluster);
        cluster.slurm.check().unwrap();
    }
    let mut states = BTreeSet::new();
    for job in jobs {
        states.insert(cluster.slurm.wait_for_job(job).unwrap()["JobState"].clone());
    }
    assert_eq!(states, BTreeSet::from(["COMPLETED".to_owned()]));
    cluster.wait_for_rest().unwrap();
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn twenty_reconfigures_during_resumes() {
    jobs_survive(20, |cluster| drop(cluster.slurm.scontrol(&["reconfigure"]).unwrap()));
}

#[test]
fn twenty_restarts_during_resumes() {
    jobs_survive(20, |cluster| {
        assert!(cluster.slurm.stop(), "slurmctld did not end by itself");
        cluster.slurm.start().unwrap();
    });
}

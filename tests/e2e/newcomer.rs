// SPDX-License-Identifier: GPL-3.0-or-later
//! The README's way from nothing to a first job: its very lines, with /etc/slurm in a scratch folder and EC2 emulated.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::instances::write_program;
use ec2fleet_rig::paths;

/// The lines of the README's block that begins with `make`.
fn commands() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let path = readme.split("## From nothing to a first job").nth(1).expect("the section");
    let block =
        path.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of commands");
    block.lines().filter(|line| !line.trim().is_empty()).map(ToOwned::to_owned).collect()
}

/// What the newcomer writes into the two files.
fn edit(cluster: &Cluster, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let example = |name: &str| -> Value {
        let file = paths::source().join("examples/config/first-job").join(name);
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    let mut config = example("config.json");
    config["LogFileName"] = json!(cluster.scratch.path().join("ec2fleet.log"));
    config["EndpointUrl"] = json!(cluster.emulator.url);
    let mut partitions = example("partitions.json");
    let group = &mut partitions["Partitions"][0]["NodeGroups"][0];
    group["Region"] = json!("us-east-1");
    group["LaunchTemplateSpecification"]["LaunchTemplateName"] = json!("rig");
    group["SubnetIds"] = json!(["subnet-0000000a", "subnet-0000000b"]);
    // The emulated instances are processes of this machine, however small it is.
    group["SlurmSpecifications"] = json!({ "CPUs": "1", "RealMemory": "64" });
    for (name, value) in [("config.json", config), ("partitions.json", partitions)] {
        std::fs::write(folder.join(name), format!("{value:#}")).unwrap();
    }
}

#[test]
fn the_readme_leads_from_nothing_to_a_first_job() {
    let scenario = json!({ "images": [{ "id": "ami-00000000000000001" }] });
    let mut cluster =
        Cluster::start(&Options { start: false, plugin: false, scenario, ..Options::default() }).unwrap();
    cluster.slurm.unset("EC2FLEET_CONFIG_DIR");
    cluster.slurm.unset("EC2FLEET_LIBRARY");
    let scratch = cluster.scratch.path().to_owned();
    let at = |name: &str| scratch.join(name).display().to_string();

    // A Slurm that knows nothing of the cloud, with its plugins where `make install` puts ours.
    let plugins = paths::slurm_plugins().unwrap();
    let installed = format!("{}{}", at("root"), plugins.display());
    let ours = ["NodeName=", "PartitionName=", "ResumeProgram=", "SuspendProgram=", "ResumeFailProgram="];
    let conf = std::fs::read_to_string(&cluster.slurm.conf).unwrap();
    let conf: String = conf
        .lines()
        .filter(|line| !ours.iter().any(|start| line.starts_with(start)))
        .map(|line| match line.strip_prefix("PluginDir=") {
            Some(folders) => format!("PluginDir={installed}:{folders}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&cluster.slurm.conf, conf).unwrap();

    // What a controller has and this test has not: root by sudo, an editor, systemd; and what built this test need not be built again.
    let bin = scratch.join("bin");
    std::fs::create_dir(&bin).unwrap();
    edit(&cluster, &scratch.join("edited"));
    let build = paths::build();
    let shim = paths::shim().unwrap();
    let install = format!(
        "#!/bin/sh\n[ \"$1\" = install ] || exit 0\nDESTDIR='{}' PREFIX=/usr/local PLUGIN_DIR='{}' exec '{}' '{}' '{}' \
         ec2fleet ec2fleet-resume ec2fleet-suspend ec2fleet-resume-fail\n",
        at("root"),
        plugins.display(),
        paths::source().join("deploy/install.sh").display(),
        build.display(),
        shim.display(),
    );
    let edit = format!(
        "#!/bin/sh\nfor file; do cp '{}'/\"${{file##*/}}\" \"$file\" || exit 1; done\n",
        at("edited")
    );
    let restart = format!("#!/bin/sh\n[ \"$*\" = 'restart slurmctld' ] && : >'{}'\n", at("restart"));
    for (name, text) in [
        ("make", install.as_str()),
        ("sudo", "#!/bin/sh\nexec \"$@\"\n"),
        ("sudoedit", &edit),
        ("systemctl", &restart),
    ] {
        write_program(&bin.join(name), text).unwrap();
    }
    let work = scratch.join("work");
    std::fs::create_dir(&work).unwrap();
    std::os::unix::fs::symlink(paths::source().join("examples"), work.join("examples")).unwrap();
    let path = format!(
        "{}:{}:{}",
        bin.display(),
        at("root/usr/local/bin"),
        std::env::var("PATH").unwrap_or_default()
    );

    let commands = commands();
    assert!((5..=10).contains(&commands.len()), "{commands:#?}");
    for line in &commands {
        let output = Command::new("sh")
            .args(["-c", &line.replace("/etc/slurm", &scratch.display().to_string())])
            .current_dir(&work)
            .env("PATH", &path)
            .env("SLURM_CONF", &cluster.slurm.conf)
            .env("LD_PRELOAD", scratch.join("machine.so"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let seen = format!(
            "{line}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        eprintln!("$ {seen}");
        // doctor may warn: this Slurm is made for tests, not for a site.
        let accepted: &[i32] = if line.contains("doctor") { &[0, 6] } else { &[0] };
        assert!(
            output.status.code().is_some_and(|code| accepted.contains(&code)),
            "{}: {seen}",
            output.status
        );
        if scratch.join("restart").exists() {
            std::fs::remove_file(scratch.join("restart")).unwrap();
            cluster.slurm.stop();
            cluster.slurm.start().unwrap();
            // systemctl returns when slurmctld runs; the plugin acts some moments later.
            ec2fleet_rig::wait::until("the plugin to be active", || {
                let status = Command::new(build.join("ec2fleet"))
                    .args(["status", "--json"])
                    .env("SLURM_CONF", &cluster.slurm.conf)
                    .output()
                    .map_err(|e| e.to_string())?;
                let report: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
                Ok((report["mode"]["state"] == "active").then_some(()))
            })
            .unwrap();
        }
        if line.contains("sbatch") {
            let printed = std::fs::read_to_string(work.join("slurm-1.out")).unwrap();
            assert_eq!(printed.lines().count(), 1, "{printed}");
        }
        if line.contains("ec2fleet explain") {
            assert!(seen.contains("create-fleet-sent") && seen.contains("nodes-ready"), "{seen}");
        }
    }
    assert!(cluster.emulator.instances().unwrap().len() == 1);
    cluster.slurm.check().unwrap();
}

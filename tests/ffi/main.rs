// SPDX-License-Identifier: GPL-3.0-or-later
//! The C boundary, from both sides: C programs in the place of slurmctld and of the shim, run under valgrind.
//!
//! `fake_slurmctld.c` exports slurmctld's symbols to the shim; `host.c` gives the library tables, good and bad. The
//! shim is built and run for every set of Slurm headers that is here: those of the system, and those that
//! `slurm-headers/get-headers SUITE` has fetched.
//!
//! Needs: cc, make, valgrind, libslurm-dev.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A hang guard: no test depends on it.
const LIMIT: Duration = Duration::from_secs(600);
/// valgrind's exit status when it has found an error.
const VALGRIND_ERROR: i32 = 99;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// libslurm_ec2_fleet.so as cargo built it for this test.
fn library() -> PathBuf {
    let deps = std::env::current_exe().expect("path of this test").parent().expect("its folder").to_owned();
    let library = deps.join("libslurm_ec2_fleet.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

/// Run a command to its end; its status and everything it wrote.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = tempfile::NamedTempFile::new().expect("output file");
    // One open file: what is written to both keeps its order.
    let write = || Stdio::from(output.as_file().try_clone().expect("output file again"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(write())
        .stderr(write())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().expect("status") {
            Some(status) => break status.code(),
            None if Instant::now() > until => {
                child.kill().expect("kill");
                child.wait().expect("wait");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    (status, String::from_utf8_lossy(&fs::read(output.path()).expect("output")).into_owned())
}

fn succeed(command: &mut Command) -> String {
    let (status, output) = run(command);
    assert_eq!(status, Some(0), "{command:?} failed:\n{output}");
    output
}

/// The programs built for one set of Slurm headers.
struct Built {
    name: String,
    folder: PathBuf,
}

impl Built {
    fn shim(&self) -> PathBuf {
        self.folder.join("job_submit_ec2_fleet.so")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `fake_slurmctld` (or a variant of it) with the shim, in a scenario, with a library for the shim to load.
    fn scenario(&self, program: &str, library: &Path, scenario: &[&str]) -> Command {
        let mut command = Command::new(self.file(program));
        command.arg(self.shim()).args(scenario).env("EC2FLEET_LIBRARY", library);
        command
    }
}

fn compile(source: &str, output: &Path, arguments: &[&str], include: &Path) {
    let mut command = Command::new("cc");
    command
        .args(["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"])
        .arg("-isystem")
        .arg(include)
        .args(arguments)
        .arg("-o")
        .arg(output)
        .arg(root().join("tests/ffi").join(source))
        .args(["-ldl", "-lpthread"]);
    succeed(&mut command);
}

/// Every set of headers, the system's first, with all programs built.
fn built() -> &'static [Built] {
    static BUILT: OnceLock<(TempDir, Vec<Built>)> = OnceLock::new();
    let (_, built) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let mut includes = vec![("system".to_owned(), PathBuf::from("/usr/include"))];
        for entry in fs::read_dir(root().join("slurm-headers")).expect("slurm-headers") {
            let entry = entry.expect("entry");
            if entry.path().join("slurm/slurm.h").exists() {
                includes.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        let built = includes
            .into_iter()
            .map(|(name, include)| {
                let built = Built { folder: folder.path().join(&name), name };
                fs::create_dir(&built.folder).expect("folder");
                succeed(
                    Command::new("make")
                        .arg("-C")
                        .arg(root().join("c_shim"))
                        .arg(format!("SLURM_INCLUDE={}", include.display()))
                        .arg(format!("OUT={}", built.folder.display()))
                        .env_remove("MAKEFLAGS")
                        .env_remove("MAKELEVEL"),
                );
                let program = ["-rdynamic"];
                let shared = ["-shared", "-fPIC"];
                compile("fake_slurmctld.c", &built.file("fake"), &program, &include);
                for missing in ["SCHEDULE_NODE_SAVE", "NODE_DID_RESP"] {
                    let without = format!("-DWITHOUT_{missing}");
                    let output = built.file(&format!("fake-without-{missing}"));
                    compile("fake_slurmctld.c", &output, &["-rdynamic", &without], &include);
                }
                compile("probe.c", &built.file("probe.so"), &shared, &include);
                let other = ["-shared", "-fPIC", "-DPROBE_ABI_VERSION=999"];
                compile("probe.c", &built.file("other-abi.so"), &other, &include);
                compile("host.c", &built.file("host"), &[], &include);
                built
            })
            .collect();
        (folder, built)
    });
    built
}

/// The same command under valgrind, which makes any error and any lost block a failure. Also what valgrind said.
fn valgrind(command: &Command) -> String {
    let log = tempfile::NamedTempFile::new().expect("valgrind's log");
    let mut under = Command::new("valgrind");
    under
        .arg(format!("--error-exitcode={VALGRIND_ERROR}"))
        .args(["--leak-check=full", "--errors-for-leak-kinds=definite,indirect"])
        .arg(format!("--log-file={}", log.path().display()))
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => under.env(key, value),
            None => under.env_remove(key),
        };
    }
    let (status, output) = run(&mut under);
    let said = fs::read_to_string(log.path()).expect("valgrind's log");
    assert_eq!(status, Some(0), "{command:?} failed under valgrind:\n{output}\n{said}");
    said
}

/// Bytes that were still allocated when the program ended.
fn in_use_at_exit(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("in use at exit:")).expect("valgrind's heap summary");
    let number =
        line.split("in use at exit:").nth(1).expect("a number").trim().split(' ').next().expect("bytes");
    number.replace(',', "").parse().expect("bytes")
}

/// A site whose only node group takes no part in the tests' events, and whose EC2 does not answer.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path();
        fs::create_dir(path.join("state")).expect("state folder");
        fs::write(
            path.join("slurm.conf"),
            format!("ClusterName=fake\nStateSaveLocation={}\n", path.join("state").display()),
        )
        .expect("slurm.conf");
        fs::write(
            path.join("config.json"),
            format!(
                r#"{{"LogLevel":"INFO","LogFileName":"{}","SlurmBinPath":"/usr/bin","SlurmConf":{{}}}}"#,
                path.join("ec2fleet.log").display()
            ),
        )
        .expect("config.json");
        fs::write(
            path.join("partitions.json"),
            r#"{"Partitions":[{"PartitionName":"cpu","NodeGroups":[{"NodeGroupName":"a","MaxNodes":16,
"Region":"us-east-1","SlurmSpecifications":{"CPUs":"2"},"PurchasingOption":"on-demand",
"OnDemandOptions":{"AllocationStrategy":"lowest-price"},"LaunchTemplateSpecification":{"LaunchTemplateName":"nodes","Version":"$Latest"},
"LaunchTemplateOverrides":[{"InstanceType":"c5.large"}],"SubnetIds":["subnet-0123456789abcdef0"]}]}]}"#,
        )
        .expect("partitions.json");
        Self { folder }
    }

    fn for_command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = self.folder.path();
        command
            .env("EC2FLEET_CONFIG_DIR", path)
            .env("FAKE_SLURM_CONF", path.join("slurm.conf"))
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", path)
    }
}

/// `host SCENARIO` with the real library.
fn host(site: &Site, scenario: &[&str]) -> Command {
    let mut command = Command::new(built()[0].file("host"));
    command.arg(library()).args(scenario);
    site.for_command(&mut command);
    command
}

#[test]
fn the_shim_offers_slurmctld_as_the_contract_says() {
    for built in built() {
        for scenario in ["calls", "start-refused", "no-power-saving", "stop-with-locks-held", "end-by-exit"] {
            let mut command = built.scenario("fake", &built.file("probe.so"), &[scenario]);
            let (status, output) = run(command.env_remove("EC2FLEET_CONFIG_DIR"));
            assert_eq!(status, Some(0), "{} with the headers of {}:\n{output}", scenario, built.name);
        }
        let without = "fake-without-NODE_DID_RESP";
        succeed(
            built.scenario(without, &built.file("probe.so"), &["calls"]).env("EC2FLEET_CONFIG_DIR", "/etc/x"),
        );
    }
}

#[test]
fn the_shim_stays_passive_and_says_why() {
    for built in built() {
        let missing = built.file("missing.so");
        for (program, library, cause) in [
            ("fake", missing.clone(), "missing.so could not be loaded"),
            ("fake", built.shim(), "is not a library of slurm-ec2-fleet"),
            ("fake", built.file("other-abi.so"), "has plugin interface 999 and this plugin has 5"),
            (
                "fake-without-SCHEDULE_NODE_SAVE",
                built.file("probe.so"),
                "does not offer: schedule_node_save.",
            ),
        ] {
            let output = succeed(&mut built.scenario(program, &library, &["passive"]));
            assert!(output.contains(cause), "no {cause:?} in:\n{output}");
        }
    }
}

#[test]
fn the_library_is_found_beside_the_shim() {
    let built = &built()[0];
    let folder = tempfile::tempdir().expect("folder");
    let shim = folder.path().join("job_submit_ec2_fleet.so");
    fs::copy(built.shim(), &shim).expect("copy of the shim");

    let mut command = Command::new(built.file("fake"));
    // cargo sets LD_LIBRARY_PATH, so that the loader would find the library by itself.
    command.arg(&shim).arg("passive").env_remove("EC2FLEET_LIBRARY").env_remove("LD_LIBRARY_PATH");
    let output = succeed(&mut command);
    let beside = folder.path().join("libslurm_ec2_fleet.so");
    assert!(output.contains(&format!("{} could not be loaded", beside.display())), "{output}");

    fs::copy(built.file("probe.so"), &beside).expect("copy of the probe");
    let mut command = Command::new(built.file("fake"));
    succeed(command.arg(&shim).arg("calls").env_remove("EC2FLEET_LIBRARY"));
}

#[test]
fn the_shim_neither_errs_nor_leaks_by_event() {
    let built = &built()[0];
    let probe = built.file("probe.so");
    let in_use = ["100", "1100"]
        .map(|count| in_use_at_exit(&valgrind(&built.scenario("fake", &probe, &["calls", count]))));
    assert_eq!(in_use[0], in_use[1], "bytes in use at exit after 100 and after 1,100 events");
    valgrind(&built.scenario("fake", &probe, &["stop-with-locks-held"]));
}

#[test]
fn the_library_refuses_every_bad_table() {
    let site = Site::new();
    valgrind(&host(&site, &["bad-tables"]));
}

#[test]
fn the_library_starts_and_stops_on_one_thread_with_signals_blocked() {
    let site = Site::new();
    valgrind(&host(&site, &["life", "6"]));
}

#[test]
fn the_library_survives_whatever_slurmctld_answers() {
    let site = Site::new();
    valgrind(&host(&site, &["errors"]));
}

#[test]
fn the_library_does_not_leak_by_event() {
    const FEW: u64 = 120;
    const MANY: u64 = 420;
    // Each event names eight nodes of eight bytes and more: one lost name an event is above this.
    const LIMIT: u64 = (MANY - FEW) * 8;
    let used = |count: u64| {
        let site = Site::new();
        in_use_at_exit(&valgrind(&host(&site, &["events", &count.to_string()])))
    };
    // A request to EC2 that the stop cuts short adds to what is in use, and nothing takes away from it: a leak by event
    // would show in the smallest of several runs as well.
    let (mut few, mut many) = (used(FEW), used(MANY));
    for _ in 0..5 {
        if many.saturating_sub(few) < LIMIT {
            return;
        }
        few = few.min(used(FEW));
        many = many.min(used(MANY));
    }
    panic!("{few} bytes in use at exit after {FEW} events, {many} after {MANY}");
}

#[test]
fn shim_and_library_work_together() {
    for built in built() {
        let site = Site::new();
        let mut command = built.scenario("fake", &library(), &["library", "3"]);
        succeed(site.for_command(&mut command));
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The node-side script against a small metadata service: which node name does an instance find?

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// Answers as EC2's instance metadata does: a session token is required, and what is not there is 404.
struct Metadata {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    values: HashMap<String, String>,
    /// Values that appear after this many requests for their path.
    late: HashMap<String, (u32, String)>,
    token: u32,
}

impl Metadata {
    fn start(values: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let mut all: HashMap<String, String> =
            values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.insert("instance-id".into(), "i-0123456789abcdef0".into());
        state.lock().unwrap().values = all;
        let shared = Arc::clone(&state);
        // The thread ends with the process: it only ever waits in accept.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared);
            }
        });
        Self { url, state }
    }

    fn late(self, path: &str, after_requests: u32, value: &str) -> Self {
        self.state.lock().unwrap().late.insert(path.into(), (after_requests, value.into()));
        self
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut token = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("x-aws-ec2-metadata-token")
        {
            token = value.trim().to_owned();
        }
    }
    let mut state = state.lock().unwrap();
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (status, body) = if method == "PUT" && path == "/latest/api/token" {
        state.token += 1;
        (200, format!("token-{}", state.token))
    } else if token != format!("token-{}", state.token) {
        (401, "Unauthorized".to_owned())
    } else if let Some(key) = path.strip_prefix("/latest/meta-data/") {
        let key = key.to_owned();
        if let Some((left, value)) = state.late.get_mut(&key) {
            if *left == 0 {
                let value = value.clone();
                state.values.insert(key.clone(), value);
            } else {
                *left -= 1;
            }
        }
        state.values.get(&key).map_or((404, "Not Found".to_owned()), |v| (200, v.clone()))
    } else {
        (404, "Not Found".to_owned())
    };
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/node/ec2fleet-node")
}

/// `ec2fleet-node ARGS` with programs of `bin` first in PATH.
fn run(metadata: &Metadata, bin: Option<&Path>, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut path = std::env::var("PATH").unwrap();
    if let Some(bin) = bin {
        path = format!("{}:{path}", bin.display());
    }
    Command::new(script())
        .args(args)
        .env("PATH", path)
        .env("EC2_METADATA_URL", &metadata.url)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn name(metadata: &Metadata) -> String {
    let output = run(metadata, None, &["name"], &[("EC2FLEET_NODE_WAIT_SEC", "60")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn program(folder: &Path, file: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(file);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn takes_its_place_in_the_list_of_its_reservation() {
    let table = [
        ("cloud-spot-[0-3]", "0", "cloud-spot-0"),
        ("cloud-spot-[0-3]", "3", "cloud-spot-3"),
        // The list's own order counts, not the numbers'.
        ("cloud-spot-[9,3-4,0]", "0", "cloud-spot-9"),
        ("cloud-spot-[9,3-4,0]", "2", "cloud-spot-4"),
        ("cloud-spot-[9,3-4,0]", "3", "cloud-spot-0"),
        ("cloud-spot-7", "0", "cloud-spot-7"),
        ("a-x-1,b-y-[2-3],c-z-4", "2", "b-y-3"),
        ("a-x-1,b-y-[2-3],c-z-4", "3", "c-z-4"),
        ("n[008-011]", "2", "n010"),
        ("n[098-101]s", "3", "n101s"),
        ("cloud-spot-[0-499]", "499", "cloud-spot-499"),
    ];
    for (list, index, expected) in table {
        let metadata =
            Metadata::start(&[("tags/instance/ec2fleet:nodes", list), ("ami-launch-index", index)]);
        assert_eq!(name(&metadata), expected, "{list} at {index}");
    }
}

#[test]
fn an_instance_alone_reads_its_own_tag() {
    let metadata = Metadata::start(&[("tags/instance/ec2fleet:node", "cloud-spot-5")]);
    assert_eq!(name(&metadata), "cloud-spot-5");
}

#[test]
fn tags_written_after_boot_are_waited_for() {
    let metadata = Metadata::start(&[("ami-launch-index", "1")]).late(
        "tags/instance/ec2fleet:nodes",
        2,
        "cloud-spot-[4-5]",
    );
    assert_eq!(name(&metadata), "cloud-spot-5");
}

#[test]
fn name_tag_is_read_only_where_the_site_names_nodes_so() {
    let metadata = Metadata::start(&[("tags/instance/Name", "cloud-spot-2")]);
    let naming = [("EC2FLEET_NODE_NAMING", "name-tag"), ("EC2FLEET_NODE_WAIT_SEC", "60")];
    let output = run(&metadata, None, &["name"], &naming);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cloud-spot-2\n");

    let output = run(&metadata, None, &["name"], &[("EC2FLEET_NODE_WAIT_SEC", "0")]);
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn without_tags_the_address_in_slurms_node_list_decides() {
    let folder = tempfile::tempdir().unwrap();
    program(
        folder.path(),
        "scontrol",
        "#!/bin/sh\n\
         [ \"$*\" = '-o show nodes' ] || exit 1\n\
         echo 'NodeName=cloud-spot-0 NodeAddr=10.0.0.7 NodeHostName=a State=IDLE+CLOUD+POWERED_DOWN ThreadsPerCore=1'\n\
         echo 'NodeName=cloud-spot-1 NodeAddr=10.0.0.70 NodeHostName=b State=MIXED+CLOUD ThreadsPerCore=1'\n\
         echo 'NodeName=cloud-spot-2 NodeAddr=10.0.0.7 NodeHostName=c State=ALLOCATED+CLOUD+NOT_RESPONDING+POWERING_UP ThreadsPerCore=1'\n",
    );
    let metadata = Metadata::start(&[("local-ipv4", "10.0.0.7")]);
    let output = run(&metadata, Some(folder.path()), &["name"], &[("EC2FLEET_NODE_WAIT_SEC", "60")]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cloud-spot-2\n");
}

#[test]
fn an_address_that_two_nodes_claim_names_none() {
    let folder = tempfile::tempdir().unwrap();
    program(
        folder.path(),
        "scontrol",
        "#!/bin/sh\n\
         echo 'NodeName=cloud-spot-1 NodeAddr=10.0.0.7 State=IDLE+CLOUD'\n\
         echo 'NodeName=cloud-spot-2 NodeAddr=10.0.0.7 State=ALLOCATED+CLOUD+POWERING_UP'\n",
    );
    let metadata = Metadata::start(&[("local-ipv4", "10.0.0.7")]);
    // Longer than the time for which only tags are asked.
    let output = run(&metadata, Some(folder.path()), &["name"], &[("EC2FLEET_NODE_WAIT_SEC", "5")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no node name after") && said.contains("InstanceMetadataTags"), "{said}");
}

#[test]
fn becomes_slurmd_in_the_foreground_under_the_name() {
    let folder = tempfile::tempdir().unwrap();
    program(folder.path(), "slurmd", "#!/bin/sh\nfor a; do echo \"<$a>\"; done\n");
    let metadata =
        Metadata::start(&[("tags/instance/ec2fleet:nodes", "cloud-spot-[0-3]"), ("ami-launch-index", "2")]);
    let options = [("SLURMD_OPTIONS", "-b --conf-server ctl:6817"), ("EC2FLEET_NODE_WAIT_SEC", "60")];
    let output = run(&metadata, Some(folder.path()), &["slurmd", "-v"], &options);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "<-N>\n<cloud-spot-2>\n<-D>\n<-v>\n<-b>\n<--conf-server>\n<ctl:6817>\n"
    );

    let mut options = options.to_vec();
    options.push(("NOTIFY_SOCKET", "/run/none"));
    let output = run(&metadata, Some(folder.path()), &["slurmd"], &options);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("<-N>\n<cloud-spot-2>\n<--systemd>\n"));
}

#[test]
fn tells_a_slurmd_that_asks_for_it_which_instance_it_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    program(
        folder.path(),
        "slurmd",
        "#!/bin/sh\n[ \"$1\" = -h ] && echo '   --instance-id    Cloud instance ID of node.' >&2 && exit\n\
         for a; do echo \"<$a>\"; done\n",
    );
    let mut values = vec![("tags/instance/ec2fleet:node", "cloud-spot-2")];
    // Half the truth is not told.
    let output = run(&Metadata::start(&values), Some(folder.path()), &["slurmd"], &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "<-N>\n<cloud-spot-2>\n<-D>\n");

    values.push(("instance-type", "c5.large"));
    let output = run(&Metadata::start(&values), Some(folder.path()), &["slurmd"], &[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "<-N>\n<cloud-spot-2>\n<-D>\n<--instance-id=i-0123456789abcdef0>\n<--instance-type=c5.large>\n"
    );
}

#[test]
fn wrong_use_is_explained() {
    let metadata = Metadata::start(&[]);
    let output = run(&metadata, None, &[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: ec2fleet-node name"));
}

/// Slurm's commands, which write down what they are called with.
fn recording_commands(folder: &Path) {
    for command in ["scontrol", "scancel", "squeue"] {
        let answer = if command == "squeue" { "echo 17" } else { ":" };
        let log = folder.join("calls").display().to_string();
        program(folder, command, &format!("#!/bin/sh\necho \"{command} $*\" >>'{log}'\n{answer}\n"));
    }
}

#[test]
fn an_interruption_notice_closes_the_node_warns_the_jobs_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    recording_commands(folder.path());
    let metadata = Metadata::start(&[("tags/instance/ec2fleet:node", "cloud-spot-5")]).late(
        "spot/instance-action",
        2,
        r#"{"action": "terminate", "time": "2026-01-01T00:00:00Z"}"#,
    );
    let options = [
        ("EC2FLEET_NODE_WAIT_SEC", "60"),
        ("EC2FLEET_WATCH_SEC", "0"),
        ("EC2FLEET_INTERRUPTION_GRACE_SEC", "0"),
        ("EC2FLEET_INTERRUPTION_SIGNAL", "USR1"),
    ];
    let output = run(&metadata, Some(folder.path()), &["watch"], &options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    let reason = "Reason=ec2fleet: Spot interruption, action: terminate, time: 2026-01-01T00:00:00Z";
    assert_eq!(
        calls.lines().collect::<Vec<_>>(),
        [
            format!("scontrol update NodeName=cloud-spot-5 State=DRAIN {reason}").as_str(),
            "squeue -h -w cloud-spot-5 -t RUNNING -o %A",
            "scancel --full --signal=USR1 17",
            format!("scontrol update NodeName=cloud-spot-5 State=POWER_DOWN_FORCE {reason}").as_str(),
        ]
    );
}

#[test]
fn a_hibernation_is_no_reason_to_clear_the_node_and_a_rebalance_only_where_wanted() {
    let folder = tempfile::tempdir().unwrap();
    recording_commands(folder.path());
    let metadata = Metadata::start(&[
        ("tags/instance/ec2fleet:node", "cloud-spot-5"),
        ("spot/instance-action", r#"{"action": "hibernate", "time": "2026-01-01T00:00:00Z"}"#),
        ("events/recommendations/rebalance", r#"{"noticeTime": "2026-01-01T00:00:00Z"}"#),
    ]);
    // The next notice ends the wait.
    let metadata =
        metadata.late("spot/instance-action", 3, r#"{"action": "stop", "time": "2026-01-01T00:10:00Z"}"#);
    let options = [
        ("EC2FLEET_NODE_WAIT_SEC", "60"),
        ("EC2FLEET_WATCH_SEC", "0"),
        ("EC2FLEET_INTERRUPTION_GRACE_SEC", "0"),
        ("EC2FLEET_REBALANCE", "drain"),
    ];
    run(&metadata, Some(folder.path()), &["watch"], &options);
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(!calls.contains("hibernate"), "{calls}");
    assert_eq!(calls.matches("rebalance recommendation").count(), 1, "{calls}");
    assert!(calls.contains("action: stop"), "{calls}");
}

/// A machine's /proc as far as it is looked at.
fn machine(folder: &Path, cmdline: &str, swap_kib: u32, mounts: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("cmdline"), format!("{cmdline}\n")).unwrap();
    let memory = format!("MemTotal:       4000000 kB\nMemFree: 1 kB\nSwapTotal:      {swap_kib} kB\n");
    std::fs::write(folder.join("meminfo"), memory).unwrap();
    std::fs::write(folder.join("mounts"), mounts).unwrap();
}

#[test]
fn an_image_that_can_hibernate_is_told_from_one_that_cannot() {
    let metadata = Metadata::start(&[]);
    let table = [
        ("ro quiet nokaslr", "hibinit-agent", 4_000_000, ""),
        ("ro nokaslr", "hibagent", 5_000_000, ""),
        ("ro quiet", "hibinit-agent", 4_000_000, "KASLR is on"),
        // A word that only holds it is another option.
        ("ro notnokaslr", "hibinit-agent", 4_000_000, "KASLR is on"),
        ("ro nokaslr", "nothing", 4_000_000, "no hibernation agent"),
        ("ro nokaslr", "hibinit-agent", 3_999_999, "has no room for 3906 MiB"),
    ];
    for (cmdline, enabled, swap, complaint) in table {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path().join("proc");
        machine(&proc, cmdline, swap, "");
        let systemctl = format!("#!/bin/sh\n[ \"$*\" = 'is-enabled --quiet {enabled}' ]\n");
        program(folder.path(), "systemctl", &systemctl);
        let proc = proc.display().to_string();
        let output = run(&metadata, Some(folder.path()), &["check"], &[("EC2FLEET_PROC", &proc)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), complaint.is_empty(), "{cmdline}, {enabled}, {swap}: {said}");
        assert!(said.contains(complaint), "{said}");
    }
}

/// `T` is stopped (proc(5)).
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn wait_for_state(pid: u32, stopped: bool) {
    let start = std::time::Instant::now();
    while (state_of(pid) == 'T') != stopped {
        assert!(start.elapsed().as_secs() < 60, "{pid} is {}", state_of(pid));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn slurmd_is_held_while_the_machine_sleeps_until_clock_and_file_systems_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls").display().to_string();
    let mut slurmd = Command::new("sleep").arg("1000").spawn().unwrap();
    program(
        folder.path(),
        "pgrep",
        &format!("#!/bin/sh\n[ \"$*\" = '-x slurmd|slurmstepd' ] && echo {}\n", slurmd.id()),
    );
    // Each says whether slurmd is still held, and file systems answer at the third try.
    let held = format!("$(sed 's/.*) //; s/ .*//' /proc/{}/stat)", slurmd.id());
    for command in ["hwclock", "chronyc"] {
        program(folder.path(), command, &format!("#!/bin/sh\necho \"{command} $* {held}\" >>'{log}'\n"));
    }
    program(
        folder.path(),
        "stat",
        &format!(
            "#!/bin/sh\necho \"stat $* {held}\" >>'{log}'\n[ $(grep -c '^stat.*/home' '{log}') -ge 3 ]\n"
        ),
    );
    let proc = folder.path().join("proc");
    let mounts = "/dev/nvme0n1p1 / ext4 rw 0 0\nfs-1:/ /home nfs4 rw 0 0\nproc /proc proc rw 0 0\n\
                  10.0.0.1@tcp:/x /scratch\\040space lustre rw 0 0\n";
    machine(&proc, "", 0, mounts);
    let proc = proc.display().to_string();
    let script = script().display().to_string();
    let environment = [("EC2FLEET_PROC", proc.as_str()), ("EC2FLEET_NODE", script.as_str())];
    let metadata = Metadata::start(&[]);
    // As systemd calls it.
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/node/ec2fleet-sleep");
    let sleep = |when: &str| {
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(&hook);
        command.args([when, "hibernate"]).env("PATH", path).envs(environment);
        assert!(command.output().unwrap().status.success());
    };
    sleep("pre");
    wait_for_state(slurmd.id(), true);
    sleep("post");
    wait_for_state(slurmd.id(), false);
    slurmd.kill().unwrap();
    slurmd.wait().unwrap();
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(
        calls,
        [
            "hwclock --hctosys T",
            "chronyc -a burst 4/4 T",
            "chronyc waitsync 15 1.0 0.0 2 T",
            "chronyc -a makestep T",
            "stat -f -- /home T",
            "stat -f -- /home T",
            "stat -f -- /home T",
            "stat -f -- /scratch space T",
        ]
    );

    // One that never answers does not keep the node for ever.
    program(folder.path(), "stat", "#!/bin/sh\nexit 1\n");
    program(folder.path(), "pgrep", "#!/bin/sh\nexit 1\n");
    let mut environment = environment.to_vec();
    environment.push(("EC2FLEET_MOUNT_WAIT_SEC", "0"));
    let output = run(&metadata, Some(folder.path()), &["after-sleep"], &environment);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("/scratch space does not answer"), "{said}");
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Hook programs: what the user runs when an emulated instance boots, ends, hibernates or resumes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::model::region::{Moment, Signal};

/// A hook may run this long before the next hook of the same instance is started all the same.
const PATIENCE: Duration = Duration::from_secs(10);
/// Hooks under way at once.
const AT_ONCE: usize = 32;

/// The programs, without arguments; they get what they need in the environment.
#[derive(Debug, Clone, Default)]
pub struct HookPrograms {
    pub on_boot: Option<PathBuf>,
    pub on_end: Option<PathBuf>,
    pub on_hibernate: Option<PathBuf>,
    pub on_resume: Option<PathBuf>,
}

impl HookPrograms {
    fn of(&self, moment: Moment) -> Option<&PathBuf> {
        match moment {
            Moment::Boot => self.on_boot.as_ref(),
            Moment::End => self.on_end.as_ref(),
            Moment::Hibernate => self.on_hibernate.as_ref(),
            Moment::Resume => self.on_resume.as_ref(),
        }
    }
}

/// Runs hooks: in order for what happens to one memory, side by side for different ones.
#[derive(Debug)]
pub(crate) struct Hooks {
    programs: HookPrograms,
    base_url: String,
    last: HashMap<String, JoinHandle<()>>,
    places: Arc<Semaphore>,
}

impl Hooks {
    pub fn new(programs: HookPrograms, base_url: String) -> Self {
        Self { programs, base_url, last: HashMap::new(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Must be called inside a tokio runtime.
    pub fn run(&mut self, signal: &Signal) {
        let Some(program) = self.programs.of(signal.moment) else {
            return;
        };
        let mut command = Command::new(program);
        command
            .env(
                "EC2_EVENT",
                match signal.moment {
                    Moment::Boot => "boot",
                    Moment::End => "end",
                    Moment::Hibernate => "hibernate",
                    Moment::Resume => "resume",
                },
            )
            .env("EC2_INSTANCE_ID", &signal.instance_id)
            .env("EC2_PRIVATE_IP", &signal.private_ip)
            .env("EC2_INSTANCE_TYPE", &signal.instance_type)
            .env("EC2_AVAILABILITY_ZONE", &signal.zone)
            .env("EC2_SUBNET_ID", &signal.subnet_id)
            .env("EC2_LIFECYCLE", signal.lifecycle)
            .env("EC2_IMAGE_ID", &signal.image_id)
            .env("EC2_REGION", &signal.region)
            .env("EC2_METADATA_URL", format!("{}/imds/{}", self.base_url, signal.instance_id))
            .env("EC2_MEMORY_OF", &signal.memory_of)
            .env("EC2_ENDPOINT_URL", &self.base_url);
        let previous = self.last.remove(&signal.memory_of);
        let places = Arc::clone(&self.places);
        let what = format!("{} for {}", program.display(), signal.instance_id);
        let task = tokio::spawn(async move {
            if let Some(previous) = previous {
                // A panic of the earlier hook's task must not keep this one from running.
                let _ended = previous.await;
            }
            let _place = places.acquire_owned().await;
            let (tell, told) = oneshot::channel();
            let thread =
                std::thread::Builder::new().name("hook".to_owned()).stack_size(128 * 1024).spawn(move || {
                    execute(command, &what);
                    let _receiver_gone = tell.send(());
                });
            if let Err(error) = thread {
                eprintln!("ec2-emulator: cannot start a thread for a hook: {error}");
                return;
            }
            let _finished_or_late = tokio::time::timeout(PATIENCE, told).await;
        });
        self.last.insert(signal.memory_of.clone(), task);
        if self.last.len() > 1024 {
            self.last.retain(|_, task| !task.is_finished());
        }
    }

    /// The hooks that are under way.
    pub fn take_tasks(&mut self) -> Vec<JoinHandle<()>> {
        self.last.drain().map(|(_, task)| task).collect()
    }
}

fn execute(mut command: Command, what: &str) {
    use std::os::unix::process::CommandExt as _;
    // Its own process group: a Ctrl-C for the emulator is not one for the instances.
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    match command.spawn().and_then(|mut child| child.wait()) {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("ec2-emulator: hook {what} ended with {status}"),
        Err(error) => eprintln!("ec2-emulator: hook {what} cannot be run: {error}"),
    }
}

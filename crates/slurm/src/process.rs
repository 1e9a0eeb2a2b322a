// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs one of Slurm's commands within a given time.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// More than this is cut off: the nodes of the largest clusters take some tens of MiB.
const MAX_OUTPUT: u64 = 256 << 20;

#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Run `command`, give it `input`, and collect what it prints. It is killed when `timeout` has passed.
///
/// # Errors
/// When it cannot be started, or with [`io::ErrorKind::TimedOut`].
pub fn run(command: &mut Command, input: &str, timeout: Duration) -> io::Result<Finished> {
    let deadline = Instant::now() + timeout;
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut running = Running(child);
    let stdout = collect(running.0.stdout.take())?;
    let stderr = collect(running.0.stderr.take())?;
    if let Some(mut stdin) = running.0.stdin.take() {
        let input = input.to_owned();
        // A program that ends without reading everything closes the pipe; its exit status tells more.
        thread::Builder::new().spawn(move || stdin.write_all(input.as_bytes()))?;
    }
    let text = |lines: mpsc::Receiver<Vec<u8>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it did not end within {} s", timeout.as_secs_f32()),
            )),
        }
    };
    // Both pipes are closed when the program ends (or is killed because `running` is dropped).
    let stdout = text(stdout)?;
    let stderr = text(stderr)?;
    let status = running.0.wait()?;
    Ok(Finished { status, stdout, stderr })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    let pipe = pipe.ok_or_else(|| io::Error::other("the pipe is missing"))?;
    thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    })?;
    Ok(receiver)
}

/// Leaves no process behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended and been waited for, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The programs' side of the plugin's socket. Blocking, and done within a given time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ec2fleet_control::protocol::{Answer, MAX_LINE, Operation, PROTOCOL, Refusal, Reply, Request, Response};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody listens on it.
    #[error("the plugin does not run: {error} ({path})")]
    NotRunning { path: PathBuf, error: io::Error },
    /// The system does not let this user connect.
    #[error("you may not talk to the plugin: {error} ({path})")]
    Denied { path: PathBuf, error: io::Error },
    #[error("the plugin did not answer within {} ms ({path})", timeout.as_millis())]
    Timeout { path: PathBuf, timeout: Duration },
    /// Connected, and then something went wrong; whether the request was done is not known.
    #[error("the connection to the plugin broke: {error} ({path})")]
    Broken { path: PathBuf, error: io::Error },
    #[error("the plugin's answer is not understood: {message} ({path})")]
    NotUnderstood { path: PathBuf, message: String },
    /// The plugin answered and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Where the plugin listens, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { path: path.into(), timeout }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ask for one operation.
    ///
    /// # Errors
    /// When nobody answers in time, or the plugin refuses.
    pub fn ask(&self, op: Operation) -> Result<Reply, ClientError> {
        self.send(&Request::new(op))
    }

    /// Send one request and wait for its answer, both within the client's time.
    ///
    /// # Errors
    /// When nobody answers in time, or the plugin refuses.
    pub fn send(&self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| ClientError::NotUnderstood {
            path: self.path.clone(),
            message: error.to_string(),
        })?;
        line.push(b'\n');
        let deadline = Instant::now() + self.timeout;
        let stream = self.connect()?;
        let answer = exchange(stream, &line, deadline).map_err(|error| self.broken(error))?;
        let response: Response = serde_json::from_slice(&answer).map_err(|error| {
            // An answer of another protocol version may have any shape.
            ClientError::NotUnderstood {
                path: self.path.clone(),
                message: format!("{error}; this program speaks protocol {PROTOCOL}"),
            }
        })?;
        match response.answer {
            Answer::Ok(reply) => Ok(reply),
            Answer::Error(refusal) => Err(ClientError::Refused(refusal)),
        }
    }

    /// A unix connect blocks while the listener's backlog is full, and has no timeout of its own; so it is made
    /// in a thread that is left behind if it takes too long.
    fn connect(&self) -> Result<UnixStream, ClientError> {
        let (sender, connected) = mpsc::channel();
        let path = self.path.clone();
        std::thread::Builder::new()
            .name("ec2fleet-connect".into())
            .spawn(move || {
                let _ = sender.send(UnixStream::connect(path));
            })
            .map_err(|error| self.broken(error))?;
        match connected.recv_timeout(self.timeout) {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let path = self.path.clone();
                Err(match error.kind() {
                    io::ErrorKind::PermissionDenied => ClientError::Denied { path, error },
                    _ => ClientError::NotRunning { path, error },
                })
            }
            Err(_) => Err(ClientError::Timeout { path: self.path.clone(), timeout: self.timeout }),
        }
    }

    fn broken(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            // A read that runs into its timeout gives WouldBlock on Linux.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Timeout { path, timeout: self.timeout }
            }
            _ => ClientError::Broken { path, error },
        }
    }
}

fn exchange(mut stream: UnixStream, line: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    stream.set_write_timeout(Some(left()?))?;
    match stream.write_all(line) {
        // The server may refuse before it has read everything; its reason is then still to be read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let count = match stream.read(&mut chunk) {
            // A read with a timeout is interrupted when the process is stopped and continued (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed without an answer"));
        }
        answer.extend_from_slice(&chunk[..count]);
        // An answer is one line, and nothing follows it.
        if answer.last() == Some(&b'\n') {
            answer.pop();
            return Ok(answer);
        }
        if answer.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The unix socket on which the programs and the administrator's tool reach the engine.
//!
//! The server only reads lines, checks who sent them and passes them on; what they mean is the driver's business.
//! Everything has a bound: connections, length of a line, time to send one, time to answer one.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::protocol::{MAX_LINE, PROTOCOL, RefusalKind, Request, Response};

/// Name of the socket in the state directory.
pub const SOCKET_NAME: &str = "ec2fleet.sock";

/// A request, who sent it, and where the answer goes. Dropping `reply` tells the sender that nothing was done.
#[derive(Debug)]
pub struct Command {
    pub request: Request,
    pub peer: Peer,
    pub reply: oneshot::Sender<Response>,
}

/// The process at the other end, as the kernel saw it at connect (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
}

/// Bounds of the server.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Connections served at once; the next ones are told to come back.
    pub max_connections: usize,
    /// Longest request line, bytes.
    pub max_line: usize,
    /// A connection that sends no complete line for this long is closed.
    pub idle_timeout: Duration,
    /// The engine must answer within this time.
    pub reply_timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            max_connections: 64,
            // A request is a few hostlists; what is longer is a mistake.
            max_line: MAX_LINE / 4,
            idle_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(20),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there, or is about to.
    #[error("{path} is in use by another process; is a second slurmctld running with this state directory?")]
    InUse { path: PathBuf },
    #[error("{path} exists and is not a socket; remove it or configure another state directory")]
    NotASocket { path: PathBuf },
    #[error("{path} is too long for a unix socket (107 bytes); configure a shorter state directory")]
    TooLong { path: PathBuf },
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
}

/// A bound socket. Dropping it removes the socket file, if it is still ours.
#[derive(Debug)]
pub struct Socket {
    listener: StdListener,
    path: PathBuf,
    inode: u64,
    owner: u32,
    options: SocketOptions,
    /// Held as long as the socket lives: only its holder may replace the socket file.
    _lock: File,
}

impl Socket {
    /// Listen on `path`. A socket file that a killed process left behind is replaced; one that somebody answers
    /// on is not. Two servers that start at once are kept apart by a lock on `<path>.lock`.
    ///
    /// # Errors
    /// When the path is in use, is no socket, is too long, or the system refuses it.
    pub fn bind(path: &Path, options: SocketOptions) -> Result<Self, SocketError> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| SocketError::Io { what, path, error }
        };
        let with_suffix = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let fresh = with_suffix(".new");
        // sun_path has 108 bytes with the final NUL.
        if fresh.as_os_str().len() > 107 {
            return Err(SocketError::TooLong { path: path.to_owned() });
        }
        let lock_path = with_suffix(".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SocketError::InUse { path: path.to_owned() });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(SocketError::Io { what: "lock", path: lock_path, error });
            }
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            // Answered although the lock is free: a server that does not know the lock. Leave it alone.
            Ok(_) if StdStream::connect(path).is_ok() => {
                return Err(SocketError::InUse { path: path.to_owned() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path)(error)),
        }
        // Bound under another name and then renamed: the path never shows a socket with the wrong mode, and
        // never none where one was.
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &fresh)(error));
            }
            _ => {}
        }
        let listener = StdListener::bind(&fresh).map_err(failed("bind", &fresh))?;
        std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600))
            .map_err(failed("set the mode of", &fresh))?;
        let found = std::fs::symlink_metadata(&fresh).map_err(failed("look at", &fresh))?;
        std::fs::rename(&fresh, path).map_err(failed("rename a new socket to", path))?;
        listener.set_nonblocking(true).map_err(failed("make non-blocking", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode: found.ino(),
            // The owner of a new socket is the effective user of its process.
            owner: found.uid(),
            options,
            _lock: lock,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serve until `shutdown` becomes true or its sender is dropped. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the listening socket itself fails; connections fail alone.
    pub async fn serve(
        self,
        commands: mpsc::Sender<Command>,
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let room = Arc::new(Semaphore::new(self.options.max_connections));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection {
                        owner: self.owner,
                        options: self.options.clone(),
                        commands: commands.clone(),
                    };
                    let permit = Arc::clone(&room).try_acquire_owned().ok();
                    let refuse = permit.is_none();
                    // Refusals take a task for an instant; beyond twice the bound the connection is just closed.
                    if connections.len() < 2 * self.options.max_connections {
                        connections.spawn(async move {
                            let _permit = permit;
                            // A broken connection concerns only its client.
                            let _ = connection.run(stream, refuse).await;
                        });
                    }
                }
                // Out of file descriptors, or the client has gone: neither ends the server.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        connections.shutdown().await;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

struct Connection {
    owner: u32,
    options: SocketOptions,
    commands: mpsc::Sender<Command>,
}

impl Connection {
    async fn run(&self, stream: UnixStream, refuse: bool) -> io::Result<()> {
        let credentials = stream.peer_cred()?;
        let peer = Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        if refuse {
            let busy = Response::refused(
                RefusalKind::Busy,
                "too many connections to the plugin at once",
                "Try again in a moment.",
            );
            return self.send(&mut write, &busy).await;
        }
        loop {
            let line =
                match timeout(self.options.idle_timeout, read_line(&mut read, self.options.max_line)).await {
                    Err(_elapsed) => return Ok(()),
                    Ok(line) => line?,
                };
            match line {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let refusal = Response::refused(
                        RefusalKind::BadRequest,
                        format!("the request is longer than {} bytes", self.options.max_line),
                        "Name nodes by hostlists.",
                    );
                    // What follows is the rest of the line, so nothing more can be understood.
                    return self.send(&mut write, &refusal).await;
                }
                Line::Text(text) => {
                    let response = self.answer(&text, peer).await;
                    self.send(&mut write, &response).await?;
                }
            }
        }
    }

    async fn answer(&self, text: &[u8], peer: Peer) -> Response {
        let request = match parse(text) {
            Ok(request) => request,
            Err(response) => return *response,
        };
        if let Err(response) = self.authorise(&request, peer) {
            return *response;
        }
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.commands.try_send(Command { request, peer, reply }) {
            return match error {
                mpsc::error::TrySendError::Full(_) => Response::refused(
                    RefusalKind::Busy,
                    "the plugin has too many requests waiting",
                    "Try again in a moment.",
                ),
                mpsc::error::TrySendError::Closed(_) => stopping(),
            };
        }
        match timeout(self.options.reply_timeout, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(_dropped)) => stopping(),
            Err(_elapsed) => Response::refused(
                RefusalKind::Timeout,
                format!("the plugin did not answer within {} s", self.options.reply_timeout.as_secs_f32()),
                "Its log says what it is doing.",
            ),
        }
    }

    fn authorise(&self, request: &Request, peer: Peer) -> Result<(), Box<Response>> {
        if peer.uid == 0 || peer.uid == self.owner {
            return Ok(());
        }
        Err(Box::new(Response::refused(
            RefusalKind::NotPermitted,
            format!("user {} may not ask for {}", peer.uid, request.op.name()),
            format!("Run the command as root or as SlurmUser (user {}).", self.owner),
        )))
    }

    async fn send(
        &self,
        write: &mut tokio::net::unix::OwnedWriteHalf,
        response: &Response,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(response).map_err(io::Error::other)?;
        line.push(b'\n');
        timeout(self.options.idle_timeout, write.write_all(&line))
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

fn stopping() -> Response {
    Response::refused(RefusalKind::Passive, "the plugin is stopping", "Try again when slurmctld has started.")
}

fn parse(text: &[u8]) -> Result<Request, Box<Response>> {
    /// The version is read first: an operation that this release does not know is no malformed request.
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let bad = |error: serde_json::Error| {
        Box::new(Response::refused(
            RefusalKind::BadRequest,
            format!("the request is not understood: {error}"),
            "Are the program and the plugin of the same release?",
        ))
    };
    let Version { v } = serde_json::from_slice(text).map_err(bad)?;
    if v != PROTOCOL {
        return Err(Box::new(Response::refused(
            RefusalKind::Version,
            format!("the request is of protocol {v}, the plugin speaks {PROTOCOL}"),
            "Install programs and plugin of the same release and restart slurmctld.",
        )));
    }
    serde_json::from_slice(text).map_err(bad)
}

enum Line {
    Text(Vec<u8>),
    TooLong,
    /// The connection was closed; what stood on an unfinished line is not a request.
    End,
}

async fn read_line(read: &mut (impl AsyncBufRead + Unpin), max: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let taken = newline.unwrap_or(available.len());
        if line.len() + taken > max {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&available[..taken]);
        read.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(Line::Text(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Answer, Operation};

    fn refused(uid: u32, op: Operation) -> bool {
        let connection =
            Connection { owner: 64030, options: SocketOptions::default(), commands: mpsc::channel(1).0 };
        match connection.authorise(&Request::new(op), Peer { uid, gid: uid, pid: None }) {
            Ok(()) => false,
            Err(response) => {
                let Answer::Error(refusal) = response.answer else { panic!("a refusal") };
                assert_eq!(refusal.kind, RefusalKind::NotPermitted);
                assert!(refusal.hint.contains("64030"), "{}", refusal.hint);
                true
            }
        }
    }

    #[test]
    fn who_may_ask_for_what() {
        let suspend = || Operation::Suspend { nodes: "n1".into() };
        for uid in [0, 64030] {
            assert!(!refused(uid, suspend()));
            assert!(!refused(uid, Operation::Status));
        }
        for op in [suspend(), Operation::Reload, Operation::Status] {
            assert!(refused(1000, op));
        }
    }
}

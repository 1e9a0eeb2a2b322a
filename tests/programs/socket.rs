// SPDX-License-Identifier: GPL-3.0-or-later
//! The plugin's socket: server and client over real unix sockets.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ec2fleet_cli::client::{Client, ClientError};
use ec2fleet_control::protocol::{MAX_LINE, Operation, RefusalKind, Reply, Request, Response};
use ec2fleet_control::socket::{Command, Socket, SocketError, SocketOptions};
use ec2fleet_core::resume_file::ResumeFile;
use tokio::sync::{mpsc, watch};

/// Only to end a test that hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// A server in a thread of its own; `answer` is what the driver would do.
pub struct Server {
    pub path: PathBuf,
    _dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start<F>(options: SocketOptions, queue: usize, answer: F) -> Self
    where
        F: FnMut(Command) + Send + 'static,
    {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("ec2fleet.sock");
        let socket = Socket::bind(&path, options).expect("the socket is bound");
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || serve(socket, stopped, queue, answer));
        Self { path, _dir: dir, stop, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::new(&self.path, LONG)
    }

    /// Send raw lines, and read as many lines as come before the server closes.
    fn raw(&self, text: &[u8]) -> Vec<String> {
        let mut stream = UnixStream::connect(&self.path).expect("connected");
        stream.set_read_timeout(Some(LONG)).expect("a timeout is set");
        // The server may close before it has read a line that is too long.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        BufReader::new(stream).lines().map_while(Result::ok).collect()
    }

    fn end(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends cleanly");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve<F>(socket: Socket, stopped: watch::Receiver<bool>, queue: usize, mut answer: F)
where
    F: FnMut(Command) + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (commands, mut received) = mpsc::channel(queue);
        let driver = tokio::spawn(async move {
            while let Some(command) = received.recv().await {
                answer(command);
            }
        });
        socket.serve(commands, stopped).await.expect("the server serves");
        driver.await.expect("the driver ends when the server does");
    });
}

fn pong(command: Command) {
    let _ = command.reply.send(Response::ok(Reply::Pong { version: "1".into() }));
}

fn refusal(error: ClientError) -> RefusalKind {
    match error {
        ClientError::Refused(refusal) => refusal.kind,
        other => panic!("a refusal is expected: {other}"),
    }
}

#[test]
fn a_request_reaches_the_driver_whole_and_is_answered() {
    let (seen, received) = std::sync::mpsc::channel();
    let server = Server::start(SocketOptions::default(), 8, move |command| {
        seen.send((command.request, command.peer)).expect("the test listens");
        let _ = command.reply.send(Response::ok(Reply::Accepted { nodes: "aws-a-[0-3]".into(), count: 4 }));
    });
    let jobs = ResumeFile::parse(
        r#"{"all_nodes_resume":"aws-a-[0-3]","jobs":[{"job_id":7,"nodes_resume":"aws-a-[0-3]"}]}"#,
    )
    .expect("a resume file");
    let request = Request {
        dry_run: true,
        ..Request::new(Operation::Resume { nodes: "aws-a-[0-3]".into(), jobs: Some(jobs) })
    };
    let reply = server.client().send(&request).expect("an answer");
    assert_eq!(reply, Reply::Accepted { nodes: "aws-a-[0-3]".into(), count: 4 });
    let (seen, peer) = received.recv_timeout(LONG).expect("the driver saw it");
    assert_eq!(seen, request);
    assert_eq!(peer.pid, Some(std::process::id().cast_signed()));
    assert_eq!(peer.uid, std::fs::metadata(&server.path).expect("the socket is there").uid());
}

#[test]
fn every_operation_survives_the_wire() {
    let nodes = || "n[1-2]".to_owned();
    let reason = || "maintenance \"tonight\"\n".to_owned();
    let operations = [
        Operation::Ping,
        Operation::Resume { nodes: nodes(), jobs: None },
        Operation::Suspend { nodes: nodes() },
        Operation::ResumeFail { nodes: nodes() },
        Operation::Status,
        Operation::Nodes { nodes: None },
        Operation::Nodes { nodes: Some(nodes()) },
        Operation::Events { filter: Default::default() },
        Operation::Explain { subject: ec2fleet_control::protocol::Subject::Node("n1".into()) },
        Operation::Reload,
        Operation::LogLevel { level: "DEBUG".into() },
        Operation::Gc,
        Operation::Lock { nodes: nodes(), reason: reason() },
        Operation::Unlock { nodes: nodes() },
        Operation::Reset { nodes: nodes() },
        Operation::Replace { nodes: nodes() },
        Operation::PauseOperations { reason: reason() },
        Operation::ResumeOperations,
        Operation::Panic,
    ];
    for op in operations {
        let request = Request::new(op);
        let line = serde_json::to_string(&request).expect("JSON");
        assert!(!line.contains('\n'), "one line: {line}");
        assert!(line.contains(&format!("\"op\":\"{}\"", request.op.name())), "{line}");
        assert_eq!(serde_json::from_str::<Request>(&line).expect("the same back"), request, "{line}");
    }
}

#[test]
fn several_requests_use_one_connection() {
    let server = Server::start(SocketOptions::default(), 8, pong);
    let lines = server
        .raw(b"{\"v\":1,\"op\":\"ping\"}\n{\"v\":1,\"op\":\"ping\",\"newer\":[1]}\n{\"v\":1,\"op\":\"pi");
    assert_eq!(lines, [r#"{"v":1,"ok":{"pong":{"version":"1"}}}"#; 2], "an unfinished line is no request");
}

#[test]
fn what_is_not_understood_is_answered_and_never_passed_on() {
    let server = Server::start(SocketOptions::default(), 8, |command| panic!("{command:?}"));
    for (sent, kind) in [
        ("\n", "bad-request"),
        ("hello\n", "bad-request"),
        ("[]\n", "bad-request"),
        ("{\"op\":\"ping\"}\n", "bad-request"),
        ("{\"v\":1}\n", "bad-request"),
        ("{\"v\":1,\"op\":\"launch-rockets\"}\n", "bad-request"),
        ("{\"v\":1,\"op\":\"resume\"}\n", "bad-request"),
        ("{\"v\":1,\"op\":\"resume\",\"nodes\":[\"a\"]}\n", "bad-request"),
        ("{\"v\":2,\"op\":\"something-new\"}\n", "version"),
        ("\u{0}\u{1}\n", "bad-request"),
    ] {
        let lines = server.raw(sent.as_bytes());
        assert_eq!(lines.len(), 1, "{sent:?}: {lines:?}");
        assert!(lines[0].contains(&format!("\"kind\":\"{kind}\"")), "{sent:?}: {}", lines[0]);
    }
    assert_eq!(server.raw(b"\xff\xfe\n").len(), 1);
}

#[test]
fn a_line_that_is_too_long_ends_the_connection() {
    let options = SocketOptions { max_line: 1_000, ..SocketOptions::default() };
    let server = Server::start(options, 8, pong);
    let within = format!("{{\"v\":1,\"op\":\"ping\"{}}}\n", " ".repeat(900));
    assert!(server.raw(within.as_bytes())[0].contains("pong"));
    let error = server
        .client()
        .ask(Operation::Suspend { nodes: "n".repeat(2_000) })
        .expect_err("2,000 bytes are too many");
    assert_eq!(refusal(error), RefusalKind::BadRequest);
    assert!(server.client().ask(Operation::Ping).is_ok(), "the server goes on");
}

#[test]
fn a_driver_that_drops_or_delays_a_request_is_reported() {
    let options = SocketOptions { reply_timeout: Duration::from_secs(1), ..SocketOptions::default() };
    let mut kept = Vec::new();
    let server = Server::start(options, 8, move |command| {
        if matches!(command.request.op, Operation::Status) {
            kept.push(command);
        }
    });
    assert_eq!(refusal(server.client().ask(Operation::Ping).expect_err("dropped")), RefusalKind::Passive);
    assert_eq!(refusal(server.client().ask(Operation::Status).expect_err("kept")), RefusalKind::Timeout);
}

#[test]
fn a_full_queue_refuses_instead_of_waiting() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel();
    let options = SocketOptions { reply_timeout: LONG, ..SocketOptions::default() };
    // The driver is busy with the first request and one fits into the queue. It blocks in a thread of its own,
    // so that the server can go on accepting.
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("s");
    let socket = Socket::bind(&path, options).expect("bound");
    let (stop, stopped) = watch::channel(false);
    let (commands, mut received) = mpsc::channel::<Command>(1);
    let driver = std::thread::spawn(move || {
        while let Some(command) = received.blocking_recv() {
            entered.send(()).expect("the test listens");
            let _ = wait.recv();
            pong(command);
        }
    });
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(socket.serve(commands, stopped)).expect("served");
    });
    let ask = |path: &Path| {
        let client = Client::new(path, LONG);
        std::thread::spawn(move || client.ask(Operation::Ping))
    };
    let first = ask(&path);
    inside.recv_timeout(LONG).expect("the driver has the first request");
    // Of two more, one waits in the queue and the other is refused, whichever comes first.
    let others = [ask(&path), ask(&path)];
    let until = std::time::Instant::now() + LONG;
    while !others.iter().any(std::thread::JoinHandle::is_finished) {
        assert!(std::time::Instant::now() < until, "one of the two is refused at once");
        std::thread::yield_now();
    }
    drop(release);
    assert!(first.join().expect("no panic").is_ok());
    let mut results: Vec<_> = others.into_iter().map(|t| t.join().expect("no panic")).collect();
    results.sort_by_key(Result::is_err);
    assert!(results[0].is_ok());
    assert_eq!(refusal(results.remove(1).expect_err("refused")), RefusalKind::Busy);
    stop.send(true).expect("the server listens");
    server.join().expect("no panic");
    driver.join().expect("no panic");
}

#[test]
fn connections_are_bounded_and_come_free_again() {
    let options = SocketOptions { max_connections: 2, ..SocketOptions::default() };
    let server = Server::start(options, 8, pong);
    let open = || {
        let mut stream = UnixStream::connect(&server.path).expect("connected");
        stream.set_read_timeout(Some(LONG)).expect("a timeout is set");
        // One too many is refused unheard, and perhaps before this is written.
        let _ = stream.write_all(b"{\"v\":1,\"op\":\"ping\"}\n");
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line).expect("answered");
        (reader, line)
    };
    let (one, first) = open();
    let (_two, second) = open();
    assert!(first.contains("pong") && second.contains("pong"));
    assert!(open().1.contains("\"busy\""), "the third is told to come back");
    drop(one);
    let until = std::time::Instant::now() + LONG;
    while !open().1.contains("pong") {
        assert!(std::time::Instant::now() < until, "a closed connection makes room");
    }
}

#[test]
fn a_silent_connection_is_closed() {
    let options = SocketOptions { idle_timeout: Duration::from_secs(1), ..SocketOptions::default() };
    let server = Server::start(options, 8, pong);
    let mut stream = UnixStream::connect(&server.path).expect("connected");
    stream.set_read_timeout(Some(LONG)).expect("a timeout is set");
    stream.write_all(b"{\"v\":1,").expect("sent");
    let mut line = String::new();
    assert_eq!(BufReader::new(stream).read_line(&mut line).expect("closed, not an error"), 0);
}

#[test]
fn the_socket_file_is_private_and_goes_with_the_server() {
    let mut server = Server::start(SocketOptions::default(), 8, pong);
    let mode = std::fs::metadata(&server.path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.end();
    assert!(!server.path.exists());
    let error = server.client().ask(Operation::Ping).expect_err("nobody is there");
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}

#[test]
fn a_left_over_socket_file_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("s");
    // What a killed server leaves behind: a file that nobody answers on.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let error = Client::new(&path, LONG).ask(Operation::Ping).expect_err("nobody answers");
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    let first = Socket::bind(&path, SocketOptions::default()).expect("the left-over file is replaced");

    let error = Socket::bind(&path, SocketOptions::default()).expect_err("the first one lives");
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    assert!(UnixStream::connect(first.path()).is_ok(), "the first one still listens there");
    drop(first);
    assert!(Socket::bind(&path, SocketOptions::default()).is_ok());
}

#[test]
fn a_server_without_our_lock_is_left_alone_too() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("s");
    let foreign = UnixListener::bind(&path).expect("bound");
    let error = Socket::bind(&path, SocketOptions::default()).expect_err("somebody answers there");
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    drop(foreign);
    // A file that is not a socket is not ours to remove.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "notes").expect("written");
    let error = Socket::bind(&path, SocketOptions::default()).expect_err("no socket");
    assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "notes");
}

#[test]
fn a_path_that_does_not_fit_is_explained() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("x".repeat(120));
    let error = Socket::bind(&path, SocketOptions::default()).expect_err("107 bytes are the limit");
    assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
}

#[test]
fn a_server_that_never_answers_costs_the_client_its_timeout_only() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("s");
    let _silent = UnixListener::bind(&path).expect("bound");
    let error = Client::new(&path, Duration::from_millis(30)).ask(Operation::Ping).expect_err("no answer");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[test]
fn an_answer_of_the_largest_size_arrives() {
    let server = Server::start(SocketOptions::default(), 8, |command| {
        let message = "x".repeat(MAX_LINE - 1_000);
        let _ = command.reply.send(Response::ok(Reply::Done { message }));
    });
    let Reply::Done { message } = server.client().ask(Operation::Ping).expect("an answer") else {
        panic!("another reply")
    };
    assert_eq!(message.len(), MAX_LINE - 1_000);
}

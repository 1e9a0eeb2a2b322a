// SPDX-License-Identifier: GPL-3.0-or-later
//! Where metrics go: a port on loopback, or a file.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::http;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use ec2fleet_control::protocol::{self, Answer, Operation, Reply};
use ec2fleet_control::socket::{Command, Peer};
use ec2fleet_observe::metrics;

/// How often the file is written.
const FILE_INTERVAL: Duration = Duration::from_secs(15);

/// A reader asks once and goes.
const MAX_CONNECTIONS: usize = 16;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Commands = mpsc::Sender<Command>;

/// Serve `http://127.0.0.1:PORT/metrics` until the task is dropped.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(port: u16, commands: Commands) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let commands = commands.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, commands.clone()));
                    // What goes wrong on a connection is its reader's affair.
                    let _ = http1::Builder::new()
                        .keep_alive(false)
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            // For example no file descriptor is left.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    commands: Commands,
) -> Result<Response<Full<Bytes>>, http::Error> {
    let response = Response::builder();
    if request.uri().path() != "/metrics" {
        return response.status(StatusCode::NOT_FOUND).body(Full::default());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return response
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .header(header::ALLOW, "GET,HEAD")
            .body(Full::default());
    }
    match current(&commands).await {
        Some(text) => response.header(header::CONTENT_TYPE, CONTENT_TYPE).body(text.into()),
        None => response
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .header(header::CONTENT_TYPE, "text/plain")
            .body("the plugin does not answer\n".into()),
    }
}

/// Write the file again and again; a failed write is tried at the next round.
pub async fn write_file(path: &Path, commands: Commands) {
    let mut interval = tokio::time::interval(FILE_INTERVAL);
    loop {
        interval.tick().await;
        if let Some(text) = current(&commands).await {
            let mut new = path.as_os_str().to_owned();
            new.push(".new");
            if std::fs::write(&new, text).is_ok() {
                let _ = std::fs::rename(&new, path);
            }
        }
    }
}

async fn current(commands: &Commands) -> Option<String> {
    let (reply, answer) = oneshot::channel();
    let peer = Peer { uid: 0, gid: 0, pid: None };
    let command = Command { request: protocol::Request::new(Operation::Status), peer, reply };
    commands.try_send(command).ok()?;
    match answer.await.ok()?.answer {
        Answer::Ok(Reply::Status(status)) => Some(metrics::render(&status)),
        _ => None,
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Where metrics go: a port on loopback, or a file.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{Answer, Operation, Reply, Request};
use super::socket::{Command, Peer};
use crate::observe::metrics;

/// How often the file is written.
const FILE_INTERVAL: Duration = Duration::from_secs(15);

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Commands = mpsc::Sender<Command>;

/// Serve `http://127.0.0.1:PORT/metrics` until the task is dropped.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(port: u16, commands: Commands) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, Router::new().route("/metrics", get(answer)).with_state(commands)).await
}

async fn answer(State(commands): State<Commands>) -> impl IntoResponse {
    match current(&commands).await {
        Some(text) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::CONTENT_TYPE, "text/plain")],
            "the plugin does not answer\n".into(),
        ),
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
    let command = Command { request: Request::new(Operation::Status), peer, reply };
    commands.try_send(command).ok()?;
    match answer.await.ok()?.answer {
        Answer::Ok(Reply::Status(status)) => Some(metrics::render(&status)),
        _ => None,
    }
}

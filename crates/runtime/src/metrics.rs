// SPDX-License-Identifier: GPL-3.0-or-later
//! Where metrics go: a port on loopback, or a file.
//!
//! Every local user can connect to the port, and the descriptors are slurmctld's. So the server holds few connections, each for a
//! short time, and a reader never reaches the engine: it gets a text that the acting loop renders at most once in a heartbeat.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::http;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use ec2fleet_core::report::StatusReport;
use ec2fleet_observe::metrics;

/// How often the file is written.
const FILE_INTERVAL: Duration = Duration::from_secs(15);

/// A text of this age is served again.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The acting loop renders within a heartbeat; who waits longer is told that nobody acts.
const RENDERING_TIMEOUT: Duration = Duration::from_secs(3);

/// After a failed accept, for example when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The head of a request, bytes.
const MAX_HEAD: usize = 8_192;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections held at once; the next ones wait in the kernel.
    connections: usize,
    /// From the accept to the end of the answer.
    request: Duration,
}

const LIMITS: Limits = Limits { connections: 16, request: Duration::from_secs(5) };

/// The metrics as they were rendered last, between who acts and who reads.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    text: watch::Sender<Option<Rendered>>,
    asked: AtomicBool,
}

#[derive(Clone)]
struct Rendered {
    at: Instant,
    text: Bytes,
}

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Shared { text: watch::Sender::new(None), asked: AtomicBool::new(false) }))
    }
}

impl Board {
    /// Render the status if a reader waits for it. Who acts calls this once in a heartbeat.
    pub fn render_if_asked(&self, status: impl FnOnce() -> StatusReport) {
        if self.0.asked.swap(false, Ordering::SeqCst) {
            let text = metrics::render(&status()).into();
            self.0.text.send_replace(Some(Rendered { at: Instant::now(), text }));
        }
    }

    /// The metrics of at most a second ago; `None` if nobody renders them.
    async fn read(&self) -> Option<Bytes> {
        let mut rendered = self.0.text.subscribe();
        if let Some(last) = &*rendered.borrow_and_update()
            && last.at.elapsed() < MAX_AGE
        {
            return Some(last.text.clone());
        }
        self.0.asked.store(true, Ordering::SeqCst);
        timeout(RENDERING_TIMEOUT, rendered.changed()).await.ok()?.ok()?;
        let last = rendered.borrow().clone();
        last.map(|last| last.text)
    }
}

/// Serve `http://127.0.0.1:PORT/metrics` until the task is dropped.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(port: u16, board: Board) -> io::Result<()> {
    serve_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?, board, LIMITS).await;
    Ok(())
}

async fn serve_on(listener: TcpListener, board: Board, limits: Limits) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= limits.connections {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let board = board.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, board.clone()));
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // What goes wrong on a connection is its reader's affair.
            let _ = timeout(limits.request, connection).await;
        });
    }
}

async fn answer(request: Request<Incoming>, board: Board) -> Result<Response<Full<Bytes>>, http::Error> {
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
    match board.read().await {
        Some(text) => response.header(header::CONTENT_TYPE, CONTENT_TYPE).body(text.into()),
        None => response
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .header(header::CONTENT_TYPE, "text/plain")
            .body("the plugin does not answer\n".into()),
    }
}

/// Write the file again and again; a failed write is tried at the next round.
pub async fn write_file(path: &Path, board: Board) {
    let mut interval = tokio::time::interval(FILE_INTERVAL);
    loop {
        interval.tick().await;
        if let Some(text) = board.read().await {
            let mut new = path.as_os_str().to_owned();
            new.push(".new");
            if std::fs::write(&new, text).is_ok() {
                let _ = std::fs::rename(&new, path);
            }
        }
    }
}

#[cfg(test)]
mod tests;

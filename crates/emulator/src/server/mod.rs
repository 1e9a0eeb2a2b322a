// SPDX-License-Identifier: GPL-3.0-or-later
//! Serves a world over HTTP on loopback, and lets its virtual time pass.

pub(crate) mod hooks;
pub mod metadata;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::serve::{IncomingStream, Listener};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::control::command::Command;
use crate::control::scenario::Scenario;
use crate::model::region::{Moment, Signal};
use crate::model::time::Millis;
use crate::model::world::{LogEntry, Request, World};
use crate::server::hooks::{HookPrograms, Hooks};
use crate::server::metadata::Sessions;

/// Largest request body. EC2's own limit is far below.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// Shutting down waits this long for requests and end hooks.
const FAREWELL: Duration = Duration::from_secs(15);

/// How to start an emulator.
#[derive(Debug, Clone)]
pub struct Options {
    pub scenario: Scenario,
    /// Port 0 means any free port.
    pub listen: SocketAddr,
    pub hooks: HookPrograms,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenario: Scenario::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            hooks: HookPrograms::default(),
        }
    }
}

/// Real time to virtual time.
#[derive(Debug)]
struct Clock {
    virtual_base: Millis,
    real_base: Instant,
    /// Virtual seconds per real second; 0 means that time moves by command only.
    speed: f64,
}

impl Clock {
    #[allow(clippy::cast_possible_truncation)]
    fn now(&self) -> Millis {
        self.virtual_base + (self.real_base.elapsed().as_secs_f64() * 1000.0 * self.speed) as Millis
    }

    /// Real time until a virtual time; none if it never comes by itself.
    #[allow(clippy::cast_precision_loss)]
    fn until(&self, at: Millis) -> Option<Duration> {
        if self.speed <= 0.0 {
            return None;
        }
        let millis = (at - self.now()).max(0) as f64 / self.speed;
        // Rounded up to the timer's millisecond: to wake early would only mean to look twice.
        Some(Duration::from_secs_f64(millis / 1000.0) + Duration::from_micros(500))
    }

    fn rebase(&mut self, now: Millis, speed: f64) {
        self.virtual_base = now;
        self.real_base = Instant::now();
        self.speed = speed;
    }
}

#[derive(Debug)]
struct Inner {
    world: World,
    sessions: Sessions,
    clock: Clock,
    hooks: Hooks,
    /// What happened, kept for `GET /_control/signals`.
    signals: Vec<Signal>,
}

impl Inner {
    fn settle(&mut self) {
        let now = self.clock.now();
        self.world.advance(now);
        for signal in self.world.take_signals() {
            self.hooks.run(&signal);
            self.signals.push(signal);
        }
        let excess = self.signals.len().saturating_sub(100_000);
        self.signals.drain(..excess);
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the world at the present virtual time.
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut inner = self.lock();
        inner.settle();
        let result = act(&mut inner.world);
        inner.settle();
        drop(inner);
        self.changed.notify_one();
        result
    }

    pub fn set_speed(&self, speed: f64) {
        let mut inner = self.lock();
        let now = inner.clock.now();
        inner.clock.rebase(now, speed);
        drop(inner);
        self.changed.notify_one();
    }

    pub fn advance(&self, millis: Millis) -> Millis {
        let mut inner = self.lock();
        let now = inner.clock.now() + millis.max(0);
        let speed = inner.clock.speed;
        inner.clock.rebase(now, speed);
        inner.settle();
        drop(inner);
        self.changed.notify_one();
        now
    }

    pub fn clock(&self) -> (Millis, f64) {
        let inner = self.lock();
        (inner.clock.now(), inner.clock.speed)
    }

    pub fn signals(&self) -> Vec<Signal> {
        let mut inner = self.lock();
        inner.settle();
        inner.signals.clone()
    }
}

/// A running emulator. Dropping it stops serving; [`Emulator::shutdown`] also runs the end hooks of
/// the instances that still live.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Emulator {
    /// Binds and starts to serve on the present tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let speed = options.scenario.speed;
        let real_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let world = World::new(options.scenario, Millis::try_from(real_now.as_millis()).unwrap_or_default());
        let clock = Clock { virtual_base: world.now(), real_base: Instant::now(), speed };
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                world,
                sessions: Sessions::default(),
                clock,
                hooks: Hooks::new(options.hooks, format!("http://{address}")),
                signals: Vec::new(),
            }),
            changed: Notify::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let service = Router::new()
            .fallback(serve_request)
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Line>();
        let serve = {
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let server = axum::serve(Cutting { listener }, service);
                let served = server
                    .with_graceful_shutdown(async move {
                        // A closed channel means that the emulator was dropped: stop as well.
                        let _dropped = stopped.wait_for(|stop| *stop).await;
                    })
                    .await;
                if let Err(error) = served {
                    eprintln!("ec2-emulator: serving ended: {error}");
                }
            })
        };
        let clockwork = tokio::spawn(run_clock(Arc::clone(&shared), stopped));
        Ok(Self { address, shared, stop, tasks: vec![serve, clockwork] })
    }

    /// Such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The metadata service of an instance.
    pub fn metadata_url(&self, instance_id: &str) -> String {
        format!("{}/imds/{instance_id}", self.url())
    }

    /// Does something with the world at the present virtual time.
    pub fn with_world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        self.shared.with(act)
    }

    /// # Errors
    /// What was wrong with the command.
    pub fn command(&self, command: Command) -> Result<Value, String> {
        self.shared.with(|world| world.command(command))
    }

    /// A mark for [`Emulator::calls`] and [`Emulator::log`].
    pub fn mark(&self) -> u64 {
        self.shared.with(|world| world.mark())
    }

    pub fn calls(&self, since: u64) -> BTreeMap<String, u64> {
        self.shared.with(|world| world.calls(since))
    }

    pub fn log(&self, since: u64) -> Vec<LogEntry> {
        self.shared.with(|world| world.log(since).cloned().collect())
    }

    pub fn instances(&self) -> Vec<Value> {
        self.shared.with(|world| world.instances())
    }

    /// Moves virtual time forward; gives the new time.
    pub fn advance(&self, millis: Millis) -> Millis {
        self.shared.advance(millis)
    }

    /// Virtual seconds per real second; 0 stops the clock.
    pub fn set_speed(&self, speed: f64) {
        self.shared.set_speed(speed);
    }

    pub fn signals(&self) -> Vec<Signal> {
        self.shared.signals()
    }

    /// Runs the end hooks of living instances, waits for hooks and requests under way, and stops.
    pub async fn shutdown(mut self) {
        let hooks = {
            let mut inner = self.shared.lock();
            inner.settle();
            for signal in inner.world.farewell() {
                inner.hooks.run(&Signal { moment: Moment::End, ..signal });
            }
            inner.hooks.take_tasks()
        };
        // The receivers live in the tasks below; if these are gone there is nothing to stop.
        let _nobody = self.stop.send(true);
        let wait = async {
            for task in hooks.into_iter().chain(std::mem::take(&mut self.tasks)) {
                let _ended = task.await;
            }
        };
        let _in_time = tokio::time::timeout(FAREWELL, wait).await;
    }
}

async fn run_clock(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    loop {
        let wait = {
            let mut inner = shared.lock();
            inner.settle();
            let next = inner.world.next_event_at();
            next.and_then(|at| inner.clock.until(at))
        };
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = shared.changed.notified() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

/// Listens, and keeps for each connection a switch that cuts it.
struct Cutting {
    listener: TcpListener,
}

impl Listener for Cutting {
    type Io = CutStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Without it answers can wait 40 ms for an acknowledgement; failing to set it is no fault.
                    let _default = stream.set_nodelay(true);
                    let line = Line(Arc::new(AtomicBool::new(false)));
                    return (CutStream { stream, line }, address);
                }
                // Out of file descriptors, or the client is gone already: try again.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The switch of one connection: set, and nothing more is written to it.
#[derive(Debug, Clone)]
struct Line(Arc<AtomicBool>);

impl axum::extract::connect_info::Connected<IncomingStream<'_, Cutting>> for Line {
    fn connect_info(stream: IncomingStream<'_, Cutting>) -> Self {
        stream.io().line.clone()
    }
}

struct CutStream {
    stream: TcpStream,
    line: Line,
}

impl CutStream {
    fn cut(&self) -> Option<io::Error> {
        self.line
            .0
            .load(Ordering::Acquire)
            .then(|| io::Error::new(io::ErrorKind::ConnectionReset, "cut by a lost-reply fault"))
    }
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.cut() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write(context, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.cut() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

pub(crate) fn respond(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

async fn serve_request(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let arrival_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return respond(413, "text/plain", "the request is too large\n".to_owned());
    };
    let path = uri.path();
    if let Some(rest) = path.strip_prefix("/imds/") {
        return serve_metadata(&shared, &method, rest, &headers);
    }
    if let Some(rest) = path.strip_prefix("/_control/") {
        return crate::control::endpoint::serve(
            &shared,
            &method,
            rest,
            uri.query().unwrap_or_default(),
            &body,
        );
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    for part in [uri.query().unwrap_or_default().as_bytes(), &body] {
        parameters.extend(
            form_urlencoded::parse(part)
                .filter(|(name, _)| !name.starts_with("X-Amz-"))
                .map(|(name, value)| (name.into_owned(), value.into_owned())),
        );
    }
    let (access_key, region) = credential(&uri, &headers).unwrap_or_default();
    let request = Request { region, access_key, parameters, arrival_ns };
    let (reply, speed) = {
        let mut inner = shared.lock();
        let now = inner.clock.now();
        let reply = inner.world.handle(&request, now);
        inner.settle();
        (reply, inner.clock.speed)
    };
    shared.changed.notify_one();
    if reply.latency > 0 {
        #[allow(clippy::cast_precision_loss)]
        let millis = reply.latency as f64 / if speed > 0.0 { speed } else { 1.0 };
        tokio::time::sleep(Duration::from_secs_f64(millis / 1000.0)).await;
    }
    if reply.lost {
        line.0.store(true, Ordering::Release);
    }
    respond(reply.status, "text/xml;charset=UTF-8", reply.body)
}

/// Access key and region of a Signature Version 4 request. The signature itself is not checked.
fn credential(uri: &Uri, headers: &HeaderMap) -> Option<(String, String)> {
    let scope = match headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        Some(text) => text.split_once("Credential=")?.1.split(',').next()?.trim().to_owned(),
        None => form_urlencoded::parse(uri.query()?.as_bytes())
            .find(|(name, _)| name == "X-Amz-Credential")?
            .1
            .into_owned(),
    };
    let mut parts = scope.split('/');
    let access_key = parts.next()?.to_owned();
    let region = parts.nth(1)?.to_owned();
    Some((access_key, region))
}

fn serve_metadata(shared: &Shared, method: &Method, rest: &str, headers: &HeaderMap) -> Response<Body> {
    let (instance_id, path) = rest.split_once('/').unwrap_or((rest, ""));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut inner = shared.lock();
    inner.settle();
    let Inner { world, sessions, .. } = &mut *inner;
    let reply = if path.trim_matches('/') == "latest/api/token" {
        if *method == Method::PUT {
            sessions.open(world, instance_id, header("x-aws-ec2-metadata-token-ttl-seconds"))
        } else {
            return respond(405, "text/plain", String::new());
        }
    } else if *method == Method::GET || *method == Method::HEAD {
        let path = percent_decode(path);
        sessions.get(world, instance_id, &path, header("x-aws-ec2-metadata-token"))
    } else {
        return respond(405, "text/plain", String::new());
    };
    drop(inner);
    let mut response = respond(reply.status, "text/plain", reply.body);
    if let Some(ttl) = reply.token_ttl {
        response.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", header::HeaderValue::from(ttl));
    }
    response
}

fn percent_decode(path: &str) -> String {
    // Form decoding also turns `+` into a space; a path keeps its `+`.
    form_urlencoded::parse(format!("path={}", path.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Log lines: to the file that config.json names, and what matters to slurmctld's own log as well.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use once_cell::sync::OnceCell;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use ec2fleet_core::report::{EventReport, Severity};

/// Our own lines; those of the libraries below us are shown with DEBUG only.
pub const TARGET: &str = "ec2fleet";

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// A second receiver of the lines that an administrator must not miss.
pub type Host = Box<dyn Fn(Severity, &str) + Send>;

#[derive(Default)]
struct Sink {
    file: Option<File>,
    format: Format,
    host: Option<Host>,
    stderr: bool,
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);
static LEVEL: AtomicU8 = AtomicU8::new(1);
static INSTALLED: OnceCell<()> = OnceCell::new();

/// Send log lines somewhere; calling it again replaces the former destinations.
///
/// # Errors
/// When the file cannot be opened; the other destinations are set nevertheless.
pub fn start(file: Option<&Path>, format: Format, stderr: bool, host: Option<Host>) -> io::Result<()> {
    let opened =
        file.map(|path| OpenOptions::new().append(true).create(true).mode(0o640).open(path)).transpose();
    let (file, result) = match opened {
        Ok(file) => (file, Ok(())),
        Err(error) => (None, Err(error)),
    };
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(Sink { file, format, host, stderr });
    INSTALLED.get_or_init(|| {
        // Fails only where the embedding process has a subscriber of its own; then that one gets our lines.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Lines));
    });
    result
}

/// Stop writing: nothing of ours may be called once the shim is gone.
pub fn stop() {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Lines below this severity are not written.
pub fn set_level(severity: Severity) {
    LEVEL.store(severity as u8, Ordering::Relaxed);
}

/// A severity by the LogLevel names of config.json; CRITICAL counts as ERROR.
#[must_use]
pub fn level_named(name: &str) -> Option<Severity> {
    match name.to_ascii_uppercase().as_str() {
        "DEBUG" => Some(Severity::Debug),
        "INFO" => Some(Severity::Info),
        "WARNING" => Some(Severity::Warning),
        "ERROR" | "CRITICAL" => Some(Severity::Error),
        _ => None,
    }
}

/// One event as a log line.
pub fn event(event: &EventReport) {
    let line = Line(event);
    match event.severity {
        Severity::Debug => tracing::debug!(target: TARGET, "{line}"),
        Severity::Info => tracing::info!(target: TARGET, "{line}"),
        Severity::Warning => tracing::warn!(target: TARGET, "{line}"),
        Severity::Error => tracing::error!(target: TARGET, "{line}"),
    }
}

/// `kind nodes=… code=…: text`
struct Line<'a>(&'a EventReport);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.0;
        f.write_str(&event.kind)?;
        if !event.nodes.is_empty() {
            write!(f, " nodes={}", event.nodes)?;
        }
        if let Some(group) = &event.group {
            write!(f, " group={group}")?;
        }
        match event.instances.as_slice() {
            [] => {}
            [first] => write!(f, " instance={first}")?,
            [first, rest @ ..] => write!(f, " instances={first}+{}", rest.len())?,
        }
        if let Some(code) = &event.code {
            write!(f, " code={code}")?;
        }
        if let Some(ms) = event.after_ms {
            write!(f, " after={ms}ms")?;
        }
        write!(f, ": {}", event.text)
    }
}

/// One line with its time and line break.
#[must_use]
pub fn line(format: Format, severity: Severity, text: &str) -> String {
    let now = jiff::Timestamp::now();
    match format {
        Format::Text => {
            let time = now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
            format!("{time} {:7} {text}\n", severity.as_str())
        }
        Format::Json => {
            let time = now.as_millisecond();
            format!("{}\n", serde_json::json!({"unix_ms": time, "severity": severity, "message": text}))
        }
    }
}

struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        severity(*metadata.level()) as u8 >= LEVEL.load(Ordering::Relaxed)
            && (metadata.target() == TARGET || *metadata.level() <= Level::WARN)
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let severity = severity(*event.metadata().level());
        let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = sink.as_mut() else { return };
        let line = line(sink.format, severity, &text.0);
        // A full disk must not stop the plugin: the line is lost, the event is still in the history.
        if let Some(file) = &mut sink.file {
            let _ = file.write_all(line.as_bytes());
        }
        if sink.stderr {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(host) = &sink.host {
            host(severity, &text.0);
        }
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warning,
        Level::INFO => Severity::Info,
        _ => Severity::Debug,
    }
}

/// The message, then other fields as `key=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

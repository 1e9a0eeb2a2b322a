// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2-emulator`: serves an emulated EC2 on loopback, or steers one that runs (`ec2-emulator ctl`).

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ec2fleet_emulator::control::ctl::Ctl;
use ec2fleet_emulator::{Emulator, HookPrograms, Options, Scenario};

/// An Amazon EC2 for tests and rehearsals: fleets, Spot, hibernation and faults, on loopback.
#[derive(Debug, Parser)]
#[command(version, name = "ec2-emulator", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Ctl(Ctl),
    /// Print the JSON Schema of scenario files.
    Schema,
    /// Print the emulated EC2 actions, one a line.
    Actions,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Address to listen on; port 0 means any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the URL to this file once it serves, instead of to standard output.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// What the world holds and what happens in it (docs/emulator.md).
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Seed of every random choice.
    #[arg(long)]
    seed: Option<u64>,
    /// Virtual seconds per real second; 0: time moves by `ctl time --advance` only.
    #[arg(long)]
    speed: Option<f64>,
    /// Enforce EC2's published token buckets.
    #[arg(long)]
    throttle: bool,
    /// Program to run when an instance reaches running.
    #[arg(long, value_name = "PROGRAM")]
    on_boot: Option<PathBuf>,
    /// Program to run when an instance stops running for good or for a stop.
    #[arg(long, value_name = "PROGRAM")]
    on_end: Option<PathBuf>,
    /// Program to run when an instance hibernates.
    #[arg(long, value_name = "PROGRAM")]
    on_hibernate: Option<PathBuf>,
    /// Program to run when a hibernated instance is back.
    #[arg(long, value_name = "PROGRAM")]
    on_resume: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Sub::Ctl(ctl)) => ctl.run().map(|text| print(&text)),
        Some(Sub::Schema) => {
            let schema = schemars::schema_for!(Scenario);
            serde_json::to_string_pretty(&schema)
                .map(|text| print(&format!("{text}\n")))
                .map_err(|error| error.to_string())
        }
        Some(Sub::Actions) => {
            print(&format!("{}\n", ec2fleet_emulator::api::query::actions().join("\n")));
            Ok(())
        }
        None => serve(cli.serve),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ec2-emulator: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Prints; a closed pipe is the reader's choice and no error.
fn print(text: &str) {
    let _closed = std::io::stdout().lock().write_all(text.as_bytes());
}

fn serve(serve: Serve) -> Result<(), String> {
    let mut scenario = match &serve.scenario {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read the scenario {}: {error}", path.display()))?;
            Scenario::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => Scenario::default(),
    };
    if let Some(seed) = serve.seed {
        scenario.seed = seed;
    }
    if let Some(speed) = serve.speed {
        if !(speed.is_finite() && speed >= 0.0) {
            return Err(format!("--speed {speed} is not 0 or more"));
        }
        scenario.speed = speed;
    }
    scenario.throttle |= serve.throttle;
    // Before any thread: the signals end this program in order, hooks included.
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ])
    .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let emulator = runtime
        .block_on(Emulator::start(Options {
            scenario,
            listen: serve.listen,
            hooks: HookPrograms {
                on_boot: serve.on_boot,
                on_end: serve.on_end,
                on_hibernate: serve.on_hibernate,
                on_resume: serve.on_resume,
            },
        }))
        .map_err(|error| format!("cannot listen on {}: {error}", serve.listen))?;
    match &serve.port_file {
        Some(path) => write_whole(path, &format!("{}\n", emulator.url()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?,
        None => print(&format!("listening on {}\n", emulator.url())),
    }
    signals.forever().next();
    runtime.block_on(emulator.shutdown());
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(())
}

/// Writes under another name first: whoever waits for the file never sees half of it.
fn write_whole(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    std::fs::write(&name, text)?;
    std::fs::rename(&name, path)
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Waiting for what the outside shows. The limits are guards against hanging: they decide nothing else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Outcome;

pub const STEP: Duration = Duration::from_millis(50);
/// Longer than anything takes on a slow, busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);

static INTERRUPTED: OnceLock<std::sync::Arc<AtomicBool>> = OnceLock::new();

/// End every wait of this process as soon as the flag is set (Ctrl-C).
pub fn interrupt_by(flag: std::sync::Arc<AtomicBool>) {
    let _ = INTERRUPTED.set(flag);
}

pub fn check_interrupted() -> Outcome<()> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err("interrupted".to_owned()),
        _ => Ok(()),
    }
}

/// Ask until there is an answer. `what` completes "waited 300 s for".
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        check_interrupted()?;
        if start.elapsed() > LIMIT {
            return Err(format!("waited {} s for {what}", LIMIT.as_secs()));
        }
        std::thread::sleep(STEP);
    }
}

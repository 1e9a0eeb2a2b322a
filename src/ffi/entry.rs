// SPDX-License-Identifier: GPL-3.0-or-later
//! The functions that the shim calls.

use std::ffi::{CStr, c_char};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::abi;
use super::boundary::boundary;
use super::host::{Host, Table};
use ec2fleet_runtime::plugin::Plugin;
use ec2fleet_slurm::controller::HostLogLevel;

static RUNNING: Mutex<Option<Plugin>> = Mutex::new(None);

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => unreachable!(),
};

/// The version of the contract that this library was built with.
#[unsafe(no_mangle)]
pub extern "C" fn ec2fleet_plugin_abi_version() -> u32 {
    abi::EC2FLEET_ABI_VERSION
}

/// The version of this library.
#[unsafe(no_mangle)]
pub extern "C" fn ec2fleet_plugin_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Start the plugin's threads. See `c_shim/plugin_abi.h`.
///
/// # Safety
/// `host` is null, or starts with `abi_version` and `size`, and is a whole table if these are this library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ec2fleet_plugin_start(host: *const abi::ec2fleet_host) -> i32 {
    boundary!(|_| abi::EC2FLEET_PANIC, {
        // SAFETY: the caller's word.
        let (table, options) = match unsafe { Table::of(host) } {
            Ok(checked) => checked,
            Err(status) => return status,
        };
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return abi::EC2FLEET_ALREADY_STARTED;
        }
        let started = with_signals_blocked(|| {
            Plugin::start(
                move || {
                    // The whole table moves, not its members one by one: only the table may change threads.
                    let table = table;
                    Box::new(Host::new(table))
                },
                options,
            )
        });
        match started {
            Ok(plugin) => {
                *running = Some(plugin);
                abi::EC2FLEET_OK
            }
            Err(error) => {
                table.log(
                    HostLogLevel::Error,
                    &format!("the operating system refused a thread: {error}. Raise the limits of slurmctld (TasksMax)."),
                );
                abi::EC2FLEET_NO_THREAD
            }
        }
    })
}

/// End the plugin's threads. See `c_shim/plugin_abi.h`.
#[unsafe(no_mangle)]
pub extern "C" fn ec2fleet_plugin_stop(timeout_ms: u32) -> i32 {
    boundary!(|_| abi::EC2FLEET_PANIC, {
        let plugin = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
        match plugin.is_none_or(|plugin| plugin.stop(Duration::from_millis(timeout_ms.into()))) {
            true => abi::EC2FLEET_OK,
            false => abi::EC2FLEET_TIMED_OUT,
        }
    })
}

/// Threads inherit the mask of the one that makes them: slurmctld's signals must reach its own threads.
fn with_signals_blocked<T>(make_threads: impl FnOnce() -> T) -> T {
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a mask that pthread_sigmask wrote.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
        }
    }
    // SAFETY: both sets are initialised by sigfillset and pthread_sigmask before they are read.
    let _restore = unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        Restore(before)
    };
    make_threads()
}

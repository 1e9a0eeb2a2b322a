// SPDX-License-Identifier: GPL-3.0-or-later
//! The fence: whoever holds it acts, everybody else watches.
//!
//! A lock on a file in the state directory keeps two processes apart, and an epoch in the file shows a process
//! that lost its lock (a file server that restarted) that another one has acted since.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A held fence; dropping it gives it up.
#[derive(Debug)]
pub struct Fence {
    file: File,
    path: PathBuf,
    /// Every holder's number is larger than that of all holders before it.
    pub epoch: u64,
    content: String,
}

/// What trying found.
#[derive(Debug)]
pub enum Attempt {
    Held(Fence),
    /// Another process holds it: what it wrote about itself.
    Taken(String),
}

impl Fence {
    /// Try to take the fence of a state directory, without waiting.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or written.
    pub fn try_take(dir: &Path, who: &str) -> io::Result<Attempt> {
        let path = dir.join("fence");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Ok(Attempt::Taken(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Someone may have removed the file between open and lock: then this lock guards nothing.
        if std::fs::metadata(&path).map(|found| found.ino()).ok() != Some(file.metadata()?.ino()) {
            return Ok(Attempt::Taken("the fence file was just replaced".into()));
        }
        let mut before = String::new();
        file.read_to_string(&mut before)?;
        let epoch =
            before.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) + 1;
        let content = format!("{epoch} {who} pid {}\n", std::process::id());
        file.seek(SeekFrom::Start(0))?;
        file.set_len(0)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        Ok(Attempt::Held(Self { file, path, epoch, content }))
    }

    /// Whether nobody else has taken the fence since: asked before every change to EC2.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.witness().holds()
    }

    /// Something that knows whether this fence still holds, for whoever writes in its name.
    #[must_use]
    pub fn witness(&self) -> Witness {
        Witness { path: self.path.clone(), content: self.content.clone() }
    }
}

/// Tells whether a [`Fence`] still holds; it does not keep it.
#[derive(Clone, Debug)]
pub struct Witness {
    path: PathBuf,
    content: String,
}

impl Witness {
    #[must_use]
    pub fn holds(&self) -> bool {
        std::fs::read_to_string(&self.path).is_ok_and(|content| content == self.content)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // Closing would do; an explicit unlock also ends it where a forked child still has the file open.
        let _ = self.file.unlock();
    }
}

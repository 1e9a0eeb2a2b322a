// SPDX-License-Identifier: GPL-3.0-or-later
//! Where the journal's bytes live.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::fence::Witness;

/// The file operations of a journal, so that a simulation can crash between any two of them.
pub trait Storage {
    /// For messages.
    fn place(&self) -> String;

    /// The whole content; `None` if there is none yet.
    ///
    /// # Errors
    /// What the file system said.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Add bytes at the end; they may be lost in a crash before [`Storage::sync`].
    ///
    /// # Errors
    /// What the file system said; part of the bytes may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Bring everything to the disk.
    ///
    /// # Errors
    /// What the file system said; nothing is known of unsynced bytes then.
    fn sync(&mut self) -> io::Result<()>;

    /// Replace the content in one step that a crash cannot split, and sync it.
    ///
    /// # Errors
    /// What the file system said; the old content is still there then.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Keep a copy of damaged content; returns where.
    ///
    /// # Errors
    /// What the file system said.
    fn set_aside(&mut self, bytes: &[u8]) -> io::Result<String>;
}

/// A journal file in a state directory.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    file: Option<File>,
    witness: Option<Witness>,
}

/// Readable by SlurmUser and root alone: the journal names instances and templates.
const MODE: u32 = 0o600;

impl FileStorage {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), file: None, witness: None }
    }

    /// Write only while this fence holds: a process that stood still while another took over must not put its own
    /// journal in the place of the other's.
    #[must_use]
    pub fn fenced(mut self, witness: Witness) -> Self {
        self.witness = Some(witness);
        self
    }

    fn check_fence(&self) -> io::Result<()> {
        match &self.witness {
            Some(witness) if !witness.holds() => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another controller has taken over"))
            }
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("journal")
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Storage for FileStorage {
    fn place(&self) -> String {
        self.path().display().to_string()
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A missing directory is an error, a missing file is a beginning.
                fs::metadata(&self.dir).map(|_| None)
            }
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check_fence()?;
        if self.file.is_none() {
            self.file = Some(OpenOptions::new().append(true).open(self.path())?);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = self.dir.join("journal.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.check_fence()?;
        fs::rename(&new, self.path())?;
        self.file = None;
        self.sync_dir()
    }

    fn set_aside(&mut self, bytes: &[u8]) -> io::Result<String> {
        for number in 0..10_000 {
            let path = self.dir.join(format!("journal.damaged-{number}"));
            match OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path) {
                Ok(mut file) => {
                    file.write_all(bytes)?;
                    file.sync_all()?;
                    return Ok(path.display().to_string());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("there are already 10,000 damaged journals"))
    }
}

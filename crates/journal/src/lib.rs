// SPDX-License-Identifier: GPL-3.0-or-later
//! Write-ahead intents, snapshot and fence.
//!
//! One file holds everything: a first frame with a snapshot, then one frame per record. Compaction writes a new
//! file with a snapshot alone and renames it over the old one, so there is never a moment without a whole journal.

pub mod driver;
pub mod fence;
pub mod frame;
pub mod peek;
pub mod storage;

use std::io;

use serde::{Deserialize, Serialize};

use ec2fleet_core::record::{Persisted, Record};
use frame::{Damage, Scan};
use storage::Storage;

/// Bytes after which the journal is compacted.
const COMPACT_BYTES: u64 = 1 << 20;

/// What a frame holds.
#[derive(Serialize, Deserialize)]
enum Entry {
    Snapshot { cluster: String, state: Persisted },
    Record(Record),
}

/// Why the journal cannot be used. The plugin stays passive until the administrator has acted.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal in {place} cannot be {action}: {source}. {}", remedy(.source))]
    Io { place: String, action: &'static str, source: io::Error },
    #[error(
        "{place} is not a journal that this release understands: {what}. If it comes from a newer release, install that; \
         otherwise move the file away, and running instances are found again by their tags"
    )]
    Foreign { place: String, what: String },
    #[error(
        "the journal in {place} belongs to cluster {found}, and this is cluster {expected}. Give each cluster its own \
         StateDir in config.json"
    )]
    OtherCluster { place: String, found: String, expected: String },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Free space on that file system; nothing is launched or terminated until then"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "The directory must be writable by SlurmUser; or set StateDir in config.json to one that is"
        }
        io::ErrorKind::ResourceBusy => "Nothing has to be done: the other controller acts now",
        io::ErrorKind::NotFound => "Create the directory, owned by SlurmUser, or set StateDir in config.json",
        _ => "Check the file system that holds it",
    }
}

/// What opening found.
#[derive(Debug)]
pub struct Opened<S> {
    pub journal: Journal<S>,
    pub state: Persisted,
    /// For the administrator: what was damaged, and where the damaged file is kept.
    pub damage: Option<String>,
}

/// An open journal. Records are buffered by [`Journal::append`] and on disk after [`Journal::commit`].
#[derive(Debug)]
pub struct Journal<S> {
    storage: S,
    cluster: String,
    buffer: Vec<u8>,
    bytes: u64,
    /// The file may end in half a frame: only a rewrite makes it trustworthy again.
    dirty: bool,
    unsynced: bool,
}

impl<S: Storage> Journal<S> {
    /// Open or create.
    ///
    /// A torn last frame (a crash while writing) is dropped silently. Any other damage keeps the records before
    /// it, sets the damaged file aside and says so: what is missing is found again in EC2 by tags.
    ///
    /// # Errors
    /// When the file cannot be read or written, is of an unknown format, or belongs to another cluster.
    pub fn open(mut storage: S, cluster: &str) -> Result<Opened<S>, JournalError> {
        let place = storage.place();
        let io = |action| {
            let place = place.clone();
            move |source| JournalError::Io { place, action, source }
        };
        let bytes = storage.read().map_err(io("read"))?.unwrap_or_default();
        let Scan { frames, damage, .. } =
            frame::scan(&bytes).map_err(|what| JournalError::Foreign { place: place.clone(), what })?;
        let mut state = Persisted::default();
        let mut unreadable = None;
        for (number, payload) in frames.iter().enumerate() {
            match serde_json::from_slice(payload) {
                Ok(Entry::Snapshot { cluster: found, state: snapshot }) => {
                    if found != cluster {
                        return Err(JournalError::OtherCluster {
                            place,
                            found,
                            expected: cluster.to_owned(),
                        });
                    }
                    state = snapshot;
                }
                Ok(Entry::Record(record)) => state.apply(&record),
                // Its checksum is right, so another release wrote it: never guess, never drop it.
                Err(error) => {
                    unreadable = Some(format!("record {number} is unknown ({error})"));
                    break;
                }
            }
        }
        if let Some(what) = unreadable {
            return Err(JournalError::Foreign { place, what });
        }
        let mut kept = None;
        if let Some(Damage::Corrupt { at }) = damage {
            let aside = storage.set_aside(&bytes).map_err(io("copied"))?;
            kept = Some(format!(
                "the journal was damaged at byte {at} of {}; {} records before it are used, the damaged file is kept as {aside}",
                bytes.len(),
                frames.len().saturating_sub(1)
            ));
        }
        let mut journal = Self {
            storage,
            cluster: cluster.to_owned(),
            buffer: Vec::new(),
            bytes: 0,
            dirty: true,
            unsynced: false,
        };
        journal.compact(&state)?;
        Ok(Opened { journal, state, damage: kept })
    }

    /// Buffer records; they are not on disk before [`Journal::commit`].
    pub fn append(&mut self, records: &[Record]) {
        for record in records {
            frame::write(&mut self.buffer, &encode(&Entry::Record(record.clone())));
        }
    }

    /// Bring what was appended to the file, and with `sync` to the disk. `state` is the fold of all records: if an
    /// earlier write failed half-way, the whole journal is written anew from it.
    ///
    /// # Errors
    /// When the disk refuses; nothing that depends on the records may be done then. Calling again tries again.
    pub fn commit(&mut self, state: &Persisted, sync: bool) -> Result<(), JournalError> {
        if self.dirty {
            return self.compact(state);
        }
        if !self.buffer.is_empty() {
            self.dirty = true;
            self.storage.append(&self.buffer).map_err(|source| self.error("written", source))?;
            self.bytes += self.buffer.len() as u64;
            self.buffer.clear();
            self.dirty = false;
            self.unsynced = true;
        }
        if sync && self.unsynced {
            // After a failed sync the kernel may have dropped the pages: only a rewrite is safe.
            self.dirty = true;
            self.storage.sync().map_err(|source| self.error("synced", source))?;
            self.dirty = false;
            self.unsynced = false;
        }
        if self.bytes > COMPACT_BYTES {
            self.compact(state)?;
        }
        Ok(())
    }

    fn compact(&mut self, state: &Persisted) -> Result<(), JournalError> {
        let mut bytes = frame::MAGIC.to_vec();
        let snapshot = Entry::Snapshot { cluster: self.cluster.clone(), state: state.clone() };
        frame::write(&mut bytes, &encode(&snapshot));
        self.dirty = true;
        self.storage.replace(&bytes).map_err(|source| self.error("rewritten", source))?;
        // Half of the next compaction's room must be left, or a large state would be rewritten at every record.
        self.bytes = 0;
        self.buffer.clear();
        self.dirty = false;
        self.unsynced = false;
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { place: self.storage.place(), action, source }
    }

    /// Give the storage back, for a test that looks at it.
    pub fn into_storage(self) -> S {
        self.storage
    }

    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    // Plain data with string keys: there is nothing in it that JSON cannot hold.
    serde_json::to_vec(entry).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;

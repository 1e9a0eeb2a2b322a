// SPDX-License-Identifier: GPL-3.0-or-later
//! Reads a journal that another process may be writing, and changes nothing.

use std::io;
use std::path::Path;

use super::frame;
use super::storage::{FileStorage, Storage};
use super::{Entry, JournalError};
use ec2fleet_core::record::Persisted;

/// What a journal holds now.
#[derive(Clone, Debug)]
pub struct Peeked {
    pub cluster: String,
    pub state: Persisted,
    pub bytes: u64,
    /// The file is damaged, or has records of a newer release; `state` is what stands before that.
    pub damaged: bool,
}

/// The journal of a state directory; `None` if there is none (yet).
///
/// # Errors
/// When it cannot be read, or is no journal.
pub fn peek(dir: &Path) -> Result<Option<Peeked>, JournalError> {
    let mut storage = FileStorage::new(dir);
    let place = storage.place();
    let bytes = match storage.read() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JournalError::Io { place, action: "read", source }),
    };
    let scan = frame::scan(&bytes).map_err(|what| JournalError::Foreign { place, what })?;
    let mut peeked = Peeked {
        cluster: String::new(),
        state: Persisted::default(),
        bytes: bytes.len() as u64,
        damaged: matches!(scan.damage, Some(frame::Damage::Corrupt { .. })),
    };
    for payload in scan.frames {
        match serde_json::from_slice(payload) {
            Ok(Entry::Snapshot { cluster, state }) => {
                peeked.cluster = cluster;
                peeked.state = state;
            }
            Ok(Entry::Record(record)) => peeked.state.apply(&record),
            Err(_) => {
                peeked.damaged = true;
                break;
            }
        }
    }
    Ok(Some(peeked))
}

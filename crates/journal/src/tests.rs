// SPDX-License-Identifier: GPL-3.0-or-later

mod golden;

use super::fence::{Attempt, Fence};
use super::storage::FileStorage;
use super::*;

fn lock(node: &str) -> Record {
    Record::Lock { nodes: vec![node.to_owned()], locked: true }
}

/// A journal file with 50 records, and the state after each of them.
fn fifty() -> (tempfile::TempDir, Vec<u8>, Vec<Persisted>) {
    let dir = tempfile::tempdir().unwrap();
    let Opened { mut journal, mut state, damage } = Journal::open(FileStorage::new(dir.path()), "c").unwrap();
    assert!(damage.is_none());
    let mut states = vec![state.clone()];
    for number in 0..50 {
        let record = lock(&format!("p-g-{number}"));
        state.apply(&record);
        journal.append(&[record]);
        journal.commit(&state, true).unwrap();
        states.push(state.clone());
    }
    let bytes = std::fs::read(dir.path().join("journal")).unwrap();
    (dir, bytes, states)
}

/// A file that needs no disk, so that tens of thousands of damaged ones can be opened.
struct Memory(Vec<u8>);

impl Storage for Memory {
    fn place(&self) -> String {
        "memory".into()
    }
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(self.0.clone()))
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
    fn set_aside(&mut self, _: &[u8]) -> io::Result<String> {
        Ok("aside".into())
    }
}

fn open_bytes(bytes: &[u8]) -> Result<(Persisted, Option<String>), JournalError> {
    Journal::open(Memory(bytes.to_vec()), "c").map(|opened| (opened.state, opened.damage))
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let (dir, _, states) = fifty();
    let opened = Journal::open(FileStorage::new(dir.path()), "c").unwrap();
    assert_eq!(Some(&opened.state), states.last());
}

#[test]
fn every_truncation_opens_to_a_prefix() {
    let (_dir, bytes, states) = fifty();
    let mut seen = 0;
    for length in 0..bytes.len() {
        let (state, damage) = open_bytes(&bytes[..length]).unwrap();
        let index = states.iter().position(|known| *known == state).expect("a state that never was");
        assert!(index >= seen, "a longer file lost records");
        seen = index;
        assert!(damage.is_none(), "a torn tail is no damage: {damage:?}");
    }
    assert_eq!(seen, 49);
}

#[test]
fn every_bit_flip_opens_to_a_prefix_or_refuses_with_a_remedy() {
    let (_dir, bytes, states) = fifty();
    let mut flipped = bytes.clone();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            flipped[index] ^= 1 << bit;
            match open_bytes(&flipped) {
                Ok((state, _)) => {
                    assert!(states.contains(&state), "byte {index} bit {bit}: a state that never was")
                }
                Err(error) => assert!(error.to_string().contains("move the file away"), "{error}"),
            }
            flipped[index] ^= 1 << bit;
        }
    }
}

#[test]
fn a_damaged_middle_is_set_aside_and_said() {
    let (dir, mut bytes, _) = fifty();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(dir.path().join("journal"), &bytes).unwrap();
    let opened = Journal::open(FileStorage::new(dir.path()), "c").unwrap();
    let message = opened.damage.expect("damage is reported");
    assert!(message.contains("journal.damaged-0"), "{message}");
    assert_eq!(std::fs::read(dir.path().join("journal.damaged-0")).unwrap(), bytes);
    assert!(!opened.state.locked.is_empty());
}

#[test]
fn another_clusters_journal_is_refused_and_untouched() {
    let (dir, bytes, _) = fifty();
    let error = Journal::open(FileStorage::new(dir.path()), "other").unwrap_err();
    assert!(error.to_string().contains("StateDir"), "{error}");
    assert_eq!(std::fs::read(dir.path().join("journal")).unwrap(), bytes);
}

#[test]
fn a_record_of_another_release_is_refused_and_untouched() {
    let (dir, mut bytes, _) = fifty();
    frame::write(&mut bytes, br#"{"Record":{"record":"from-the-future"}}"#);
    std::fs::write(dir.path().join("journal"), &bytes).unwrap();
    let error = Journal::open(FileStorage::new(dir.path()), "c").unwrap_err();
    assert!(error.to_string().contains("newer release"), "{error}");
    assert_eq!(std::fs::read(dir.path().join("journal")).unwrap(), bytes);
}

#[test]
fn a_missing_directory_is_an_error_with_a_remedy() {
    let error =
        Journal::open(FileStorage::new(std::path::Path::new("/nonexistent/ec2fleet")), "c").unwrap_err();
    assert!(error.to_string().contains("Create the directory"), "{error}");
}

#[test]
fn compaction_keeps_the_state_and_shrinks_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { mut journal, mut state, .. } = Journal::open(FileStorage::new(dir.path()), "c").unwrap();
    for number in 0..40_000 {
        let record = Record::Lock { nodes: vec!["p-g-1".into()], locked: number % 2 == 0 };
        state.apply(&record);
        journal.append(&[record]);
        journal.commit(&state, false).unwrap();
    }
    let size = std::fs::metadata(dir.path().join("journal")).unwrap().len();
    assert!(size < 2 * COMPACT_BYTES, "{size}");
    assert_eq!(Journal::open(FileStorage::new(dir.path()), "c").unwrap().state, state);
}

/// A disk that is full after some bytes.
pub(crate) struct Full {
    pub(crate) inner: FileStorage,
    pub(crate) room: usize,
}

impl Storage for Full {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.inner.read()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = bytes.len().min(self.room);
        self.room -= fits;
        self.inner.append(&bytes[..fits])?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.inner.replace(bytes)
        }
    }
    fn set_aside(&mut self, bytes: &[u8]) -> io::Result<String> {
        self.inner.set_aside(bytes)
    }
}

#[test]
fn a_full_disk_is_refused_and_nothing_is_lost_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Full { inner: FileStorage::new(dir.path()), room: 400 };
    let Opened { mut journal, mut state, .. } = Journal::open(storage, "c").unwrap();
    let mut refused = 0;
    for number in 0..20 {
        let record = lock(&format!("p-g-{number}"));
        state.apply(&record);
        journal.append(&[record]);
        if let Err(error) = journal.commit(&state, true) {
            assert!(error.to_string().contains("Free space"), "{error}");
            refused += 1;
        }
        // A crash now opens to some earlier state, never to a wrong one.
        let bytes = std::fs::read(dir.path().join("journal")).unwrap();
        assert!(open_bytes(&bytes).unwrap().0.locked.is_subset(&state.locked));
    }
    assert!(refused > 0);
    journal.storage_mut().room = 1 << 20;
    journal.commit(&state, true).unwrap();
    assert_eq!(Journal::open(FileStorage::new(dir.path()), "c").unwrap().state, state);
}

#[test]
fn the_fence_has_one_holder_and_a_growing_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let Attempt::Held(first) = Fence::try_take(dir.path(), "first").unwrap() else {
        panic!("free fence refused")
    };
    let Attempt::Taken(holder) = Fence::try_take(dir.path(), "second").unwrap() else {
        panic!("two holders")
    };
    assert!(holder.contains("first"), "{holder}");
    assert!(first.holds());
    let epoch = first.epoch;
    drop(first);
    let Attempt::Held(second) = Fence::try_take(dir.path(), "second").unwrap() else {
        panic!("not given up")
    };
    assert_eq!(second.epoch, epoch + 1);
}

#[test]
fn a_holder_sees_that_another_one_has_acted() {
    let dir = tempfile::tempdir().unwrap();
    let Attempt::Held(fence) = Fence::try_take(dir.path(), "first").unwrap() else {
        panic!("free fence refused")
    };
    std::fs::write(dir.path().join("fence"), "99 second pid 1\n").unwrap();
    assert!(!fence.holds());
}

#[test]
fn a_controller_that_lost_the_fence_writes_nothing_into_the_others_journal() {
    let dir = tempfile::tempdir().unwrap();
    let Attempt::Held(first) = Fence::try_take(dir.path(), "first").unwrap() else {
        panic!("free fence refused")
    };
    let storage = FileStorage::new(dir.path()).fenced(first.witness());
    let Opened { mut journal, mut state, .. } = Journal::open(storage, "c").unwrap();
    // The file server gave the lock to another while the first stood still.
    std::fs::write(dir.path().join("fence"), "99 second pid 1\n").unwrap();
    let other = Journal::open(FileStorage::new(dir.path()), "c").unwrap();
    drop(other);
    let before = std::fs::read(dir.path().join("journal")).unwrap();
    for _ in 0..3 {
        let record = lock("p-g-1");
        state.apply(&record);
        journal.append(&[record]);
        let error = journal.commit(&state, true).unwrap_err();
        assert!(error.to_string().contains("the other controller acts"), "{error}");
    }
    assert_eq!(std::fs::read(dir.path().join("journal")).unwrap(), before);
}

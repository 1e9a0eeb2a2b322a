// SPDX-License-Identifier: GPL-3.0-or-later
//! The state directory: files that a crash can cut, a disk that can refuse, and the fence.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use ec2fleet_core::ec2_api::CloudRequest;
use ec2fleet_journal::frame;
use ec2fleet_journal::storage::Storage;

/// One file's content, and how much of it is surely on the disk.
#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: usize,
    /// Intents in `bytes`, as the JSON of their request, with the offset at which they end.
    intents: Vec<(usize, String)>,
}

#[derive(Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    /// What the name of the journal stands for.
    current: Option<usize>,
    /// Every operation fails.
    pub refuses: bool,
    /// The writer dies after this many more bytes.
    pub dies_after: Option<usize>,
    /// The writer died in the last operation.
    pub died: bool,
    /// What is said to be synced is not (a planted bug).
    pub lies: bool,
    /// The holder's number; `None` when nobody holds the fence.
    pub holder: Option<u64>,
    /// What is written in the fence file.
    pub epoch: u64,
}

/// One process's view of the directory.
#[derive(Clone, Debug)]
pub struct Handle {
    disk: Rc<RefCell<Disk>>,
    open: Option<usize>,
    /// Its owner's number: as the production storage does, it writes only while that is in the fence file.
    epoch: Option<u64>,
}

impl Handle {
    pub fn new(disk: &Rc<RefCell<Disk>>, epoch: Option<u64>) -> Self {
        Self { disk: Rc::clone(disk), open: None, epoch }
    }
}

impl Disk {
    /// Whether an intent with this very request would survive a crash now.
    pub fn has_durable_intent(&self, request: &CloudRequest) -> bool {
        let Some(inode) = self.current.map(|current| &self.inodes[current]) else { return false };
        let json = serde_json::to_string(request).unwrap_or_default();
        inode.intents.iter().any(|(end, intent)| *end <= inode.durable && *intent == json)
    }

    /// The machine or the process dies. `tear` decides what becomes of bytes that were not synced.
    pub fn crash(&mut self, tear: Option<&mut fastrand::Rng>) {
        self.died = false;
        self.dies_after = None;
        let Some(rng) = tear else { return };
        for inode in &mut self.inodes {
            if inode.bytes.len() > inode.durable {
                let keep = rng.usize(inode.durable..=inode.bytes.len());
                match rng.u8(0..3) {
                    0 => inode.bytes.truncate(keep),
                    // A file system may extend the file before it writes the data.
                    1 => inode.bytes[keep..].fill(0),
                    _ => {}
                }
            }
            inode.durable = inode.bytes.len();
            let durable = inode.durable;
            inode.intents.retain(|(end, _)| *end <= durable);
        }
    }

    /// Which file the journal is, and how long: another one after every record.
    pub fn journal(&self) -> (Option<usize>, usize) {
        (self.current, self.current.map_or(0, |current| self.inodes[current].bytes.len()))
    }

    pub fn lose_journal(&mut self) {
        self.current = None;
    }

    fn check(&self, epoch: Option<u64>) -> io::Result<()> {
        if epoch.is_some_and(|epoch| epoch != self.epoch) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if self.died || self.refuses { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// How much of a write of `length` bytes happens before the writer dies.
    fn room(&mut self, length: usize) -> Option<usize> {
        let left = self.dies_after?;
        if length < left {
            self.dies_after = Some(left - length);
            return None;
        }
        self.died = true;
        Some(left)
    }
}

impl Inode {
    fn append(&mut self, bytes: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        collect_intents(bytes, begin, &mut self.intents);
    }
}

/// Find the intents in whole frames. The journal's own reader is what is under test, so this one is separate.
fn collect_intents(frames: &[u8], begin: usize, out: &mut Vec<(usize, String)>) {
    let mut at = 0;
    while let Some(length) = frames.get(at..at + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(payload) = frames.get(at + 8..at + 8 + length) else { return };
        at += 8 + length;
        if payload.starts_with(br#"{"Record":{"record":"intent""#)
            && let Ok(value) = serde_json::from_slice::<serde_json::Value>(payload)
        {
            out.push((begin + at, value["Record"]["intent"]["request"].to_string()));
        } else if payload.starts_with(br#"{"Snapshot""#)
            && let Ok(value) = serde_json::from_slice::<serde_json::Value>(payload)
            && let Some(open) = value["Snapshot"]["state"]["open"].as_object()
        {
            out.extend(open.values().map(|intent| (begin + at, intent["request"].to_string())));
        }
    }
}

impl Storage for Handle {
    fn place(&self) -> String {
        "the simulated disk".into()
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk.borrow();
        disk.check(self.epoch)?;
        Ok(disk.current.map(|current| disk.inodes[current].bytes.clone()))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.check(self.epoch)?;
        if self.open.is_none() {
            self.open = disk.current;
        }
        let Some(open) = self.open else { return Err(io::ErrorKind::NotFound.into()) };
        if let Some(room) = disk.room(bytes.len()) {
            disk.inodes[open].append(&bytes[..room]);
            return Err(io::ErrorKind::Interrupted.into());
        }
        disk.inodes[open].append(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.check(self.epoch)?;
        if let Some(open) = self.open
            && !disk.lies
        {
            let inode = &mut disk.inodes[open];
            inode.durable = inode.bytes.len();
        }
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.check(self.epoch)?;
        if disk.room(bytes.len()).is_some() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut inode = Inode::default();
        inode.bytes.extend_from_slice(frame::MAGIC);
        inode.append(&bytes[frame::MAGIC.len()..]);
        inode.durable = inode.bytes.len();
        // Nobody reads what the name no longer stands for, though a process may still write to it.
        if let Some(old) = disk.current {
            disk.inodes[old] = Inode::default();
        }
        disk.inodes.push(inode);
        disk.current = Some(disk.inodes.len() - 1);
        self.open = None;
        Ok(())
    }

    fn set_aside(&mut self, _: &[u8]) -> io::Result<String> {
        self.disk.borrow().check(self.epoch)?;
        Ok("a copy".into())
    }
}

/// Tries to take the fence; the number of the new holder.
pub fn take_fence(disk: &Rc<RefCell<Disk>>) -> Option<u64> {
    let mut disk = disk.borrow_mut();
    if disk.holder.is_some() || disk.refuses {
        return None;
    }
    disk.epoch += 1;
    disk.holder = Some(disk.epoch);
    disk.holder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_durable_only_after_a_sync() {
        let disk = Rc::new(RefCell::new(Disk::default()));
        let mut handle = Handle::new(&disk, None);
        handle.replace(frame::MAGIC).unwrap();
        let request = CloudRequest::TerminateInstances { ids: vec!["i-1".into()] };
        let record =
            serde_json::json!({"Record": {"record": "intent", "id": 1, "intent": {"request": request}}});
        let mut bytes = Vec::new();
        frame::write(&mut bytes, record.to_string().as_bytes());
        handle.append(&bytes).unwrap();
        assert!(!disk.borrow().has_durable_intent(&request));
        handle.sync().unwrap();
        assert!(disk.borrow().has_durable_intent(&request));
    }
}

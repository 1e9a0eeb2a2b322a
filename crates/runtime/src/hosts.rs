// SPDX-License-Identifier: GPL-3.0-or-later
//! The nodes' addresses in `/etc/hosts`, where a site wants them there (HostsFile in config.json).
//!
//! Only the lines between our own marks are ours. The file is replaced as a whole by a new one, so that nobody
//! reads half of it; one that is mounted by itself cannot be replaced and is written in place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ec2fleet_core::hostlist;
use ec2fleet_core::record::Binding;

/// Writes the block of one cluster.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    cluster: String,
    /// A failure is told once.
    failed: bool,
}

/// How a write ended, where there is something to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Failed(String),
    Mended,
}

impl HostsFile {
    #[must_use]
    pub fn new(path: PathBuf, cluster: &str) -> Self {
        Self { path, cluster: cluster.to_owned(), failed: false }
    }

    /// Make the block say where these nodes are.
    pub fn follow<'a>(&mut self, bindings: impl Iterator<Item = &'a Binding>) -> Option<Told> {
        let result = self.write(&lines(bindings));
        let failed = std::mem::replace(&mut self.failed, result.is_err());
        match result {
            Err(error) if !failed => Some(Told::Failed(format!(
                "{} does not say where the nodes are: {error}. slurmctld knows their addresses all the same",
                self.path.display()
            ))),
            Ok(()) if failed => Some(Told::Mended),
            _ => None,
        }
    }

    fn write(&self, lines: &[String]) -> io::Result<()> {
        // A link stays a link.
        let path = fs::canonicalize(&self.path)?;
        let before = fs::read_to_string(&path)?;
        let after = with_block(&before, &self.cluster, lines).map_err(io::Error::other)?;
        if after == before {
            return Ok(());
        }
        match replace(&path, &after) {
            // Mounted by itself (EBUSY, EXDEV), or in a folder that is not ours to write.
            Err(error) if stands_alone(&error) => overwrite(&path, &after),
            result => result,
        }
    }
}

fn stands_alone(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), ResourceBusy | CrossesDevices | PermissionDenied | ReadOnlyFilesystem)
}

/// A new file with owner and mode of the old one takes its place.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".ec2fleet");
    let fresh = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            chown(&fresh, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    let result = write();
    if result.is_err() {
        // Nothing is left behind; if it cannot be removed it was not made either.
        let _ = fs::remove_file(&fresh);
    }
    result
}

fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    // What is longer goes only after the new text is there.
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// `<address> <node> <host name>`, in the order of the node names.
fn lines<'a>(bindings: impl Iterator<Item = &'a Binding>) -> Vec<String> {
    let mut bindings: Vec<&Binding> = bindings.filter(|binding| !binding.addr.is_empty()).collect();
    let mut names: Vec<String> = bindings.iter().map(|binding| binding.node.clone()).collect();
    hostlist::sort(&mut names);
    let order: std::collections::HashMap<String, usize> =
        names.into_iter().enumerate().map(|(index, name)| (name, index)).collect();
    bindings.sort_by_key(|binding| order.get(&binding.node).copied());
    bindings.iter().map(|binding| format!("{} {} {}", binding.addr, binding.node, binding.hostname)).collect()
}

/// The text with the cluster's block, where it was before or at the end, and without one if there is no line for it.
fn with_block(text: &str, cluster: &str, lines: &[String]) -> Result<String, String> {
    let begin = format!("# BEGIN slurm-ec2-fleet {cluster}");
    let end = format!("# END slurm-ec2-fleet {cluster}");
    let mut block = String::new();
    if !lines.is_empty() {
        for line in [&begin].into_iter().chain(lines).chain([&end]) {
            block.push_str(line);
            block.push('\n');
        }
    }
    let mut others = String::new();
    let mut inside = false;
    let mut at = None;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        if bare == begin && !inside {
            inside = true;
            at.get_or_insert(others.len());
        } else if bare == end && inside {
            inside = false;
        } else if !inside {
            others.push_str(line);
        }
    }
    if inside {
        return Err(format!(
            "the line \"{begin}\" has no line \"{end}\" after it: remove what is left of the block"
        ));
    }
    match at {
        Some(at) => others.insert_str(at, &block),
        None => {
            if !block.is_empty() && !others.is_empty() && !others.ends_with('\n') {
                others.push('\n');
            }
            others.push_str(&block);
        }
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ec2fleet_core::record::TagLevel;
    use ec2fleet_core::site::{Account, Lifecycle};

    fn binding(node: &str, addr: &str) -> Binding {
        Binding {
            node: node.into(),
            instance_id: "i-1".into(),
            account: Account { region: "r".into(), profile: None },
            launch: None,
            addr: addr.into(),
            hostname: format!("ip-{}", addr.replace('.', "-")),
            instance_type: String::new(),
            zone: String::new(),
            lifecycle: Lifecycle::Spot,
            reservation_id: String::new(),
            ami_launch_index: 0,
            bound_unix_ms: 0,
            tags: TagLevel::Birth,
            told: false,
            fleet: None,
        }
    }

    const OTHERS: &str =
        "127.0.0.1 localhost\n# BEGIN slurm-ec2-fleet other\n10.9.9.9 x\n# END slurm-ec2-fleet other\n";

    #[test]
    fn the_block_follows_the_nodes_and_every_other_line_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, OTHERS).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(&path).unwrap();
        let mut hosts = HostsFile::new(path.clone(), "demo");
        let text = || fs::read_to_string(&path).unwrap();
        let nodes = [binding("p-g-10", "10.0.0.10"), binding("p-g-2", "10.0.0.2"), binding("p-g-3", "")];
        assert_eq!(hosts.follow(nodes.iter()), None);
        let block = "# BEGIN slurm-ec2-fleet demo\n10.0.0.2 p-g-2 ip-10-0-0-2\n10.0.0.10 p-g-10 ip-10-0-0-10\n\
                     # END slurm-ec2-fleet demo\n";
        assert_eq!(text(), format!("{OTHERS}{block}"));
        let after = fs::metadata(&path).unwrap();
        assert_ne!(before.ino(), after.ino(), "replaced, not written over");
        assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));

        // Somebody adds a line behind it: the block stays where it is.
        fs::write(&path, format!("{OTHERS}{block}10.1.1.1 mine")).unwrap();
        let moved = [binding("p-g-2", "10.0.7.7")];
        assert_eq!(hosts.follow(moved.iter()), None);
        assert_eq!(
            text(),
            format!(
                "{OTHERS}# BEGIN slurm-ec2-fleet demo\n10.0.7.7 p-g-2 ip-10-0-7-7\n\
                 # END slurm-ec2-fleet demo\n10.1.1.1 mine"
            )
        );
        assert_eq!(hosts.follow([].iter()), None);
        assert_eq!(text(), format!("{OTHERS}10.1.1.1 mine"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_stays_a_link_and_a_file_that_cannot_be_replaced_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("real");
        fs::write(&path, OTHERS).unwrap();
        let link = folder.path().join("hosts");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let nodes = [binding("p-g-2", "10.0.0.2")];
        HostsFile::new(link.clone(), "demo").follow(nodes.iter());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&path).unwrap().contains("10.0.0.2 p-g-2"));

        // As for a file that is mounted by itself: the same inode, and the tail of a longer text is gone.
        let inode = fs::metadata(&path).unwrap().ino();
        overwrite(&path, "127.0.0.1 localhost\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1 localhost\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        for (errno, alone) in [(16, true), (18, true), (13, true), (30, true), (28, false), (2, false)] {
            assert_eq!(stands_alone(&io::Error::from_raw_os_error(errno)), alone, "errno {errno}");
        }
    }

    #[test]
    fn a_damaged_block_or_a_missing_file_is_told_once_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let nodes = [binding("p-g-2", "10.0.0.2")];
        let mut hosts = HostsFile::new(path.clone(), "demo");
        assert!(matches!(hosts.follow(nodes.iter()), Some(Told::Failed(_))));
        let damaged = "# BEGIN slurm-ec2-fleet demo\n10.0.0.1 a\n127.0.0.1 localhost\n";
        fs::write(&path, damaged).unwrap();
        assert_eq!(hosts.follow(nodes.iter()), None, "told already");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        fs::write(&path, OTHERS).unwrap();
        assert_eq!(hosts.follow(nodes.iter()), Some(Told::Mended));
    }

    proptest! {
        #[test]
        fn lines_of_others_are_never_touched(
            before in "([a-z0-9. #]{0,12}\n){0,6}",
            behind in "([a-z0-9. #]{0,12}\n){0,6}[a-z]{0,5}",
            first in prop::collection::vec("[0-9]{1,3}", 0..4),
            second in prop::collection::vec("[0-9]{1,3}", 0..4),
        ) {
            let made = with_block(&before, "c", &first).unwrap();
            let text = format!("{made}{behind}");
            let again = with_block(&text, "c", &second).unwrap();
            // A last line without an end gets one when the block comes behind it.
            let others = with_block(&again, "c", &[]).unwrap();
            let text = format!("{before}{behind}");
            let ended = format!("{text}\n");
            prop_assert!(others == text || others == ended);
            prop_assert_eq!(with_block(&again, "c", &second).unwrap(), again);
        }
    }
}

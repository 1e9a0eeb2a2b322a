// SPDX-License-Identifier: GPL-3.0-or-later
//! Which instance stood behind which node, and for how long: `usage.jsonl` in the state directory, for `ec2fleet cost`.
//!
//! The lines follow the journal's records of bindings. A line of all bindings, written at each start, closes what ended
//! while nobody wrote.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::hostlist;
use ec2fleet_core::record::{Binding, Record};
use ec2fleet_core::site::{Account, Lifecycle};

pub const FILE_NAME: &str = "usage.jsonl";

/// Bytes after which `usage.jsonl` becomes `usage.jsonl.1`: some 100,000 instances.
const ROTATE_BYTES: u64 = 32 << 20;

/// An instance behind a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub node: String,
    pub instance_id: String,
    pub account: Account,
    pub instance_type: String,
    pub zone: String,
    pub lifecycle: Lifecycle,
    /// When the node got the instance.
    pub since_unix_ms: u64,
}

impl From<&Binding> for Use {
    fn from(binding: &Binding) -> Self {
        Self {
            node: binding.node.clone(),
            instance_id: binding.instance_id.clone(),
            account: binding.account.clone(),
            instance_type: binding.instance_type.clone(),
            zone: binding.zone.clone(),
            lifecycle: binding.lifecycle,
            since_unix_ms: binding.bound_unix_ms,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    unix_ms: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Begin(Vec<Use>),
    /// Hostlists, here and below.
    End(String),
    /// EC2 takes nothing for a hibernated instance (its volumes are not counted here at all).
    Asleep(String),
    Awake(String),
    /// Everything that is in use; what is not named has ended.
    All(Vec<Use>),
}

/// The writing side. A file that cannot be written is no reason to stop: only the sums of `ec2fleet cost` suffer.
#[derive(Debug)]
pub struct UsageLog {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl UsageLog {
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let mut log = Self { path: dir.join(FILE_NAME), file: None, bytes: 0 };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path).ok();
        self.bytes = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
    }

    /// Say what is in use now.
    pub fn begin<'a>(&mut self, bindings: impl Iterator<Item = &'a Binding>, unix_ms: u64) {
        self.write(&[Line { unix_ms, what: What::All(bindings.map(Use::from).collect()) }]);
    }

    /// Take records of bindings and facts of sleep in; `bindings` are those after the records.
    pub fn follow<'a>(
        &mut self,
        records: &[Record],
        facts: &[Fact],
        bindings: impl Iterator<Item = &'a Binding>,
        unix_ms: u64,
    ) {
        let mut lines = Vec::new();
        for record in records {
            match record {
                Record::Bound { bindings } => {
                    let what = What::Begin(bindings.iter().map(Use::from).collect());
                    lines.push(Line { unix_ms, what });
                }
                Record::Unbound { nodes, .. } => {
                    lines.push(Line { unix_ms, what: What::End(hostlist::fold(nodes)) });
                }
                _ => {}
            }
        }
        for fact in facts.iter().filter(|fact| !fact.nodes.is_empty()) {
            let what = match fact.kind {
                FactKind::NodeAsleep => What::Asleep(fact.nodes.clone()),
                FactKind::NodeAwake => What::Awake(fact.nodes.clone()),
                _ => continue,
            };
            lines.push(Line { unix_ms, what });
        }
        if lines.is_empty() {
            return;
        }
        self.write(&lines);
        if self.bytes > ROTATE_BYTES {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            // If it cannot be renamed, the file goes on growing: nothing is lost.
            if fs::rename(&self.path, old).is_ok() {
                self.reopen();
                self.begin(bindings, unix_ms);
            }
        }
    }

    fn write(&mut self, lines: &[Line]) {
        let Some(file) = &mut self.file else { return };
        let mut text = Vec::new();
        for line in lines {
            if serde_json::to_writer(&mut text, line).is_ok() {
                text.push(b'\n');
            }
        }
        if file.write_all(&text).is_ok() {
            self.bytes += text.len() as u64;
        }
    }
}

/// A time in which an instance was paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub of: Use,
    pub from_unix_ms: u64,
    /// `None`: it still runs.
    pub to_unix_ms: Option<u64>,
}

/// What the files of a state directory say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The first line; nothing is known of the time before it.
    pub recorded_unix_ms: Option<u64>,
    pub spans: Vec<Span>,
}

/// Read the older file and the present one.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read(dir: &Path) -> io::Result<Usage> {
    let mut reader = Reader::default();
    for name in [format!("{FILE_NAME}.1"), FILE_NAME.to_owned()] {
        let file = match File::open(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for line in BufReader::new(file).split(b'\n') {
            // A torn line, or one of a later release.
            if let Ok(line) = serde_json::from_slice::<Line>(&line?) {
                reader.take(line);
            }
        }
    }
    Ok(reader.finish())
}

#[derive(Default)]
struct Reader {
    usage: Usage,
    /// By node: the use, and since when it is paid for; `None` while it sleeps.
    open: BTreeMap<String, (Use, Option<u64>)>,
}

impl Reader {
    fn take(&mut self, line: Line) {
        let at = line.unix_ms;
        self.usage.recorded_unix_ms.get_or_insert(at);
        match line.what {
            What::Begin(uses) => {
                for one in uses {
                    self.begin(one, at);
                }
            }
            What::End(nodes) => self.each(&nodes, |reader, node| reader.end(node, at)),
            What::Asleep(nodes) => self.each(&nodes, |reader, node| {
                if let Some((of, _)) = reader.open.get(node).cloned() {
                    reader.end(node, at);
                    reader.open.insert(node.to_owned(), (of, None));
                }
            }),
            What::Awake(nodes) => self.each(&nodes, |reader, node| {
                if let Some((_, since @ None)) = reader.open.get_mut(node) {
                    *since = Some(at);
                }
            }),
            What::All(uses) => {
                let gone: Vec<String> = self
                    .open
                    .iter()
                    .filter(|(_, (of, _))| !uses.iter().any(|one| one.instance_id == of.instance_id))
                    .map(|(node, _)| node.clone())
                    .collect();
                // Somewhere between the last line and this one: the later time is the dearer one.
                for node in gone {
                    self.end(&node, at);
                }
                for one in uses {
                    self.begin(one, at);
                }
            }
        }
    }

    fn each(&mut self, nodes: &str, mut act: impl FnMut(&mut Self, &str)) {
        for node in hostlist::expand(nodes).unwrap_or_default() {
            act(self, &node);
        }
    }

    fn begin(&mut self, one: Use, at: u64) {
        match self.open.get(&one.node) {
            Some((of, _)) if of.instance_id == one.instance_id => return,
            Some(_) => self.end(&one.node.clone(), at),
            None => {}
        }
        let since = one.since_unix_ms;
        self.open.insert(one.node.clone(), (one, Some(since)));
    }

    fn end(&mut self, node: &str, at: u64) {
        if let Some((of, Some(from))) = self.open.remove(node) {
            self.usage.spans.push(Span { of, from_unix_ms: from, to_unix_ms: Some(at.max(from)) });
        }
    }

    fn finish(mut self) -> Usage {
        for (of, since) in std::mem::take(&mut self.open).into_values() {
            if let Some(from) = since {
                self.usage.spans.push(Span { of, from_unix_ms: from, to_unix_ms: None });
            }
        }
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ec2fleet_core::record::TagLevel;

    fn binding(node: &str, id: &str, since: u64) -> Binding {
        Binding {
            node: node.into(),
            instance_id: id.into(),
            account: Account { region: "eu-central-1".into(), profile: None },
            launch: None,
            addr: "10.0.0.1".into(),
            hostname: "ip-10-0-0-1".into(),
            instance_type: "c5.large".into(),
            zone: "eu-central-1a".into(),
            lifecycle: Lifecycle::Spot,
            reservation_id: "r-1".into(),
            ami_launch_index: 0,
            bound_unix_ms: since,
            tags: TagLevel::Birth,
            told: false,
            fleet: None,
        }
    }

    fn bound(bindings: &[Binding]) -> Record {
        Record::Bound { bindings: bindings.to_vec() }
    }

    fn unbound(nodes: &[&str]) -> Record {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Record::Unbound { nodes, why: "test".into(), ending: true }
    }

    fn spans(usage: &Usage) -> Vec<(String, u64, Option<u64>)> {
        let mut found: Vec<_> = usage
            .spans
            .iter()
            .map(|span| (span.of.instance_id.clone(), span.from_unix_ms, span.to_unix_ms))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn uses_begin_and_end_with_their_bindings() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = UsageLog::open(dir.path());
        log.begin(std::iter::empty(), 50);
        let both = [binding("a-b-0", "i-0", 100), binding("a-b-1", "i-1", 110)];
        let follow = |log: &mut UsageLog, records: &[Record], at| {
            log.follow(records, &[], std::iter::empty(), at);
        };
        follow(&mut log, &[bound(&both)], 120);
        // The same binding again is the same use.
        follow(&mut log, &[bound(&both[..1])], 130);
        follow(&mut log, &[unbound(&["a-b-0"])], 400);
        follow(&mut log, &[bound(&[binding("a-b-0", "i-2", 500)])], 500);
        let usage = read(dir.path()).unwrap();
        assert_eq!(usage.recorded_unix_ms, Some(50));
        let text = |id: &str| id.to_owned();
        let all =
            [(text("i-0"), 100, Some(400)), (text("i-1"), 110, None), (text("i-2"), 500, None)].to_vec();
        assert_eq!(spans(&usage), all);
    }

    #[test]
    fn a_start_closes_what_ended_unseen_and_a_torn_line_hurts_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = UsageLog::open(dir.path());
        let (one, two) = (binding("a-b-0", "i-0", 100), binding("a-b-1", "i-1", 100));
        log.follow(&[bound(&[one, two.clone()])], &[], std::iter::empty(), 100);
        drop(log);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE_NAME)).unwrap();
        file.write_all(b"{\"unix_ms\":3,\"end\":\"a-b-1\n").unwrap();
        UsageLog::open(dir.path()).begin([two].iter(), 900);
        let usage = read(dir.path()).unwrap();
        assert_eq!(spans(&usage), [("i-0".to_owned(), 100, Some(900)), ("i-1".to_owned(), 100, None)]);
    }

    #[test]
    fn sleep_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = UsageLog::open(dir.path());
        let fact = |kind| Fact::new(0, kind, "").nodes(["a-b-0"]);
        log.follow(&[bound(&[binding("a-b-0", "i-0", 100)])], &[], std::iter::empty(), 100);
        log.follow(&[], &[fact(FactKind::NodeAsleep)], std::iter::empty(), 200);
        log.follow(&[], &[fact(FactKind::NodeAwake)], std::iter::empty(), 700);
        log.follow(&[], &[fact(FactKind::NodeAsleep)], std::iter::empty(), 800);
        log.follow(&[unbound(&["a-b-0"])], &[], std::iter::empty(), 900);
        let usage = read(dir.path()).unwrap();
        assert_eq!(spans(&usage), [("i-0".to_owned(), 100, Some(200)), ("i-0".to_owned(), 700, Some(800))]);
    }

    #[test]
    fn a_full_file_is_followed_by_one_that_begins_with_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = UsageLog::open(dir.path());
        let one = binding("a-b-0", "i-0", 100);
        log.follow(&[bound(std::slice::from_ref(&one))], &[], std::iter::empty(), 100);
        log.bytes = ROTATE_BYTES;
        let two = binding("a-b-1", "i-1", 200);
        log.follow(&[bound(std::slice::from_ref(&two))], &[], [one, two].iter(), 200);
        assert!(dir.path().join("usage.jsonl.1").exists());
        fs::remove_file(dir.path().join("usage.jsonl.1")).unwrap();
        let usage = read(dir.path()).unwrap();
        assert_eq!(spans(&usage), [("i-0".to_owned(), 100, None), ("i-1".to_owned(), 200, None)]);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_endured() {
        let mut log = UsageLog::open(Path::new("/nonexistent/ec2fleet"));
        log.follow(&[unbound(&["a-b-0"])], &[], std::iter::empty(), 1);
        assert_eq!(read(Path::new("/nonexistent/ec2fleet")).unwrap(), Usage::default());
    }
}

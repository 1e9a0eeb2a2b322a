// SPDX-License-Identifier: GPL-3.0-or-later
//! The events of the recent past: in memory for the tool, in `events.jsonl` for everybody.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ec2fleet_core::ec2_api::CloudError;
use ec2fleet_core::fact::Fact;
use ec2fleet_core::hostlist;
use ec2fleet_core::report::EventReport;

/// Events kept in memory.
const KEEP: usize = 20_000;

/// Bytes after which `events.jsonl` becomes `events.jsonl.1`.
const ROTATE_BYTES: u64 = 32 << 20;

/// Bytes of the file's end that are read back at start.
const READ_BACK: u64 = 4 << 20;

pub const FILE_NAME: &str = "events.jsonl";

/// What facts follow from, as far as it is to be told with them.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Who asked, if an administrator did.
    pub uid: Option<u32>,
    /// A call that EC2 has just refused: its error code and its request id.
    refused: Option<(String, String)>,
}

impl Origin {
    /// An administrator's request.
    #[must_use]
    pub fn user(uid: u32) -> Self {
        Self { uid: Some(uid), refused: None }
    }

    /// EC2's answer to a call that it did not do.
    #[must_use]
    pub fn refusal(error: &CloudError) -> Self {
        let refused = error.request_id.clone().map(|id| (error.code.clone(), id));
        Self { uid: None, refused }
    }

    /// What else is decided at the same moment is not of that call: it does not have its error code.
    fn request_id_for(&self, fact: &Fact) -> Option<String> {
        let (code, id) = self.refused.as_ref()?;
        (fact.code.as_ref() == Some(code)).then(|| id.clone())
    }
}

/// The events, newest last.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    recent: VecDeque<EventReport>,
    next_seq: u64,
}

impl History {
    /// Continue the history of a state directory. A file that cannot be used leaves the history in memory alone.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE_NAME);
        let recent: VecDeque<EventReport> = read_back(&path).unwrap_or_default();
        let next_seq = recent.back().map_or(1, |event| event.seq + 1);
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path).ok();
        let bytes = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        Self { path, file, bytes, recent, next_seq }
    }

    /// Take facts in, in order.
    pub fn extend(&mut self, facts: Vec<Fact>, origin: &Origin) -> Vec<EventReport> {
        let mut events = Vec::with_capacity(facts.len());
        let mut lines = Vec::new();
        for fact in facts {
            let mut event = EventReport::of(self.next_seq, &fact);
            event.uid = origin.uid;
            event.request_id = origin.request_id_for(&fact);
            self.next_seq += 1;
            if serde_json::to_writer(&mut lines, &event).is_ok() {
                lines.push(b'\n');
            }
            self.recent.push_back(event.clone());
            events.push(event);
        }
        while self.recent.len() > KEEP {
            self.recent.pop_front();
        }
        self.write(&lines);
        events
    }

    /// A history that cannot be written is no reason to stop: the journal is what must not be lost.
    fn write(&mut self, lines: &[u8]) {
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.bytes += lines.len() as u64;
        }
        if self.bytes > ROTATE_BYTES {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            let _ = fs::rename(&self.path, old);
            self.file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path).ok();
            self.bytes = 0;
        }
    }

    /// Events after `after`, since a time, of any of these nodes; the newest `limit` of them, oldest first.
    #[must_use]
    pub fn query(
        &self,
        after: Option<u64>,
        since_unix_ms: Option<u64>,
        nodes: Option<&[String]>,
        limit: usize,
    ) -> Vec<EventReport> {
        let mut found: Vec<EventReport> = self
            .recent
            .iter()
            .rev()
            .take_while(|event| after.is_none_or(|seq| event.seq > seq))
            .filter(|event| since_unix_ms.is_none_or(|since| event.unix_ms >= since))
            .filter(|event| nodes.is_none_or(|nodes| concerns(event, nodes)))
            .take(limit)
            .cloned()
            .collect();
        found.reverse();
        found
    }

    /// The number that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The oldest event still in memory.
    #[must_use]
    pub fn oldest_seq(&self) -> u64 {
        self.recent.front().map_or(self.next_seq, |event| event.seq)
    }
}

fn concerns(event: &EventReport, nodes: &[String]) -> bool {
    !event.nodes.is_empty()
        && hostlist::expand(&event.nodes).is_ok_and(|names| names.iter().any(|name| nodes.contains(name)))
}

fn read_back(path: &Path) -> io::Result<VecDeque<EventReport>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(READ_BACK);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(READ_BACK).read_to_end(&mut text)?;
    // The first line may be cut, and the last one torn: what does not parse is skipped.
    Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ec2fleet_core::ec2_api::ErrorClass;
    use ec2fleet_core::fact::FactKind;

    fn fact(text: &str, node: &str) -> Fact {
        Fact::new(1, FactKind::NodesReady, text).nodes([node])
    }

    #[test]
    fn numbers_continue_after_reopening_even_behind_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path());
        history.extend(vec![fact("one", "a-b-0"), fact("two", "a-b-1")], &Origin::default());
        drop(history);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE_NAME)).unwrap();
        file.write_all(b"{\"seq\":3,\"unix").unwrap();
        let mut history = History::open(dir.path());
        let events = history.extend(vec![fact("three", "a-b-0")], &Origin::user(7));
        assert_eq!((events[0].seq, events[0].uid), (3, Some(7)));
    }

    #[test]
    fn what_follows_from_a_refusal_of_ec2_has_the_id_of_its_request() {
        let mut history = History::open(Path::new("/nonexistent/ec2fleet"));
        let error = CloudError {
            class: ErrorClass::Capacity,
            code: "InsufficientInstanceCapacity".into(),
            message: "none left".into(),
            request_id: Some("req-1".into()),
        };
        let facts = vec![fact("short", "a-b-0").code(error.code.clone()), fact("up", "a-b-1")];
        let events = history.extend(facts.clone(), &Origin::refusal(&error));
        assert_eq!(events[0].request_id.as_deref(), Some("req-1"));
        assert_eq!(events[1].request_id, None);
        // Before EC2 answers there is no request id.
        let events = history.extend(facts, &Origin::refusal(&CloudError { request_id: None, ..error }));
        assert_eq!(events[0].request_id, None);
    }

    #[test]
    fn a_query_finds_the_newest_of_the_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path());
        for number in 0..10 {
            history.extend(
                vec![fact(&format!("{number}"), if number % 2 == 0 { "a-b-0" } else { "a-b-1" })],
                &Origin::default(),
            );
        }
        let found = history.query(Some(3), None, Some(&["a-b-1".to_owned()]), 2);
        let texts: Vec<&str> = found.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["7", "9"]);
    }

    #[test]
    fn an_unwritable_directory_leaves_the_history_in_memory() {
        let mut history = History::open(Path::new("/nonexistent/ec2fleet"));
        history.extend(vec![fact("one", "a-b-0")], &Origin::default());
        assert_eq!(history.query(None, None, None, 10).len(), 1);
    }
}

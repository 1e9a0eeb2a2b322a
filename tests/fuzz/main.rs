// SPDX-License-Identifier: GPL-3.0-or-later
//! Whatever bytes arrive, nothing panics and what is accepted is sound: each target runs its committed corpus
//! (tests/fuzz/corpus) and inputs made of it by cutting, flipping and joining.
//!
//! `FUZZ` sets how many inputs are made of each target's corpus; a failing one is printed whole.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ec2fleet_config::SlurmFacts;
use ec2fleet_control::protocol::Request;
use ec2fleet_core::hostlist;
use ec2fleet_core::resume_file::ResumeFile;
use ec2fleet_ec2::errors;
use ec2fleet_journal::storage::Storage;
use ec2fleet_journal::{Journal, frame};

const INPUTS: u64 = 4_000;
/// A configuration is checked against its whole schema, which takes milliseconds.
const CONFIGURATIONS: u64 = 500;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn changed(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.usize(0..corpus.len())].clone();
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            2 => bytes.insert(at, *rng.choice(b"[]{},:-\"0919aF\\\n\0\xff").unwrap_or(&0)),
            3 if at < bytes.len() => {
                let end = rng.usize(at..=bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let other = &corpus[rng.usize(0..corpus.len())];
                let from = rng.usize(0..=other.len());
                let tail = other[from..].to_vec();
                bytes.splice(at..at, tail);
            }
            _ => {
                let end = rng.usize(at..=bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
        bytes.truncate(100_000);
    }
    bytes
}

fn fuzz(target: &str, seed: u64, inputs: u64, check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 2, "{target} has a corpus");
    let inputs = std::env::var("FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(inputs);
    let mut rng = fastrand::Rng::with_seed(seed);
    let made = (0..inputs).map(|_| changed(&corpus, &mut rng));
    for bytes in corpus.iter().cloned().chain(made) {
        let result = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        assert!(result.is_ok(), "{target} fails with {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn hostlists() {
    fuzz("hostlist", 1, INPUTS, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(mut names) = hostlist::expand_bounded(&text, 20_000) else { return };
        let folded = hostlist::fold(&names);
        let mut again = hostlist::expand_bounded(&folded, 20_000).expect("what is folded can be expanded");
        names.sort();
        names.dedup();
        again.sort();
        assert_eq!(names, again, "{folded}");
    });
}

#[test]
fn resume_files() {
    fuzz("resume", 2, INPUTS, |bytes| {
        let _ = ResumeFile::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn configurations() {
    let good_config = corpus("config")[0].clone();
    let good_partitions = corpus("partitions")[0].clone();
    let check = |config: &[u8], partitions: &[u8]| {
        let loaded = ec2fleet_config::check(
            Path::new("/etc/slurm"),
            Ok(config.to_vec()),
            Ok(partitions.to_vec()),
            &SlurmFacts::default(),
        );
        match loaded {
            Ok(loaded) => assert!(!loaded.site.cluster.is_empty()),
            Err(errors) => assert!(!errors.errors.is_empty()),
        }
    };
    fuzz("config", 3, CONFIGURATIONS, |bytes| check(bytes, &good_partitions));
    fuzz("partitions", 4, CONFIGURATIONS, |bytes| check(&good_config, bytes));
}

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

#[test]
fn journals() {
    fuzz("journal", 5, INPUTS, |bytes| {
        if let Ok(scan) = frame::scan(bytes) {
            assert!(scan.good_bytes <= bytes.len());
        }
        match Journal::open(Memory(bytes.to_vec()), "c") {
            Ok(opened) => {
                let again =
                    Journal::open(opened.journal.into_storage(), "c").expect("what was opened opens again");
                assert_eq!(again.state, opened.state);
                assert!(again.damage.is_none());
            }
            Err(error) => assert!(error.to_string().len() > 40, "{error}"),
        }
    });
}

#[test]
fn socket_requests() {
    fuzz("socket", 6, INPUTS, |bytes| {
        let Ok(request) = serde_json::from_slice::<Request>(bytes) else { return };
        let line = serde_json::to_vec(&request).expect("what was read can be written");
        let again: Request = serde_json::from_slice(&line).expect("and read again");
        assert_eq!(again.op.name(), request.op.name());
    });
}

#[test]
fn ec2_errors() {
    fuzz("error", 7, INPUTS, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (code, message) = text.split_once(':').unwrap_or((&text, ""));
        let class = errors::classify(code);
        assert!(!errors::remedy(code, class).is_empty());
        let denial = errors::denial(message);
        assert!(message.contains(&denial.text));
        for id in errors::instance_ids_in(message) {
            assert!(id.starts_with("i-") && message.contains(id));
        }
    });
}

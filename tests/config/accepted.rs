// SPDX-License-Identifier: GPL-3.0-or-later
//! Configurations that work, and the model that comes of them.

use std::path::{Path, PathBuf};

use slurm_ec2_fleet::config::{self, SlurmFacts};

pub fn slurm(text: &str) -> SlurmFacts {
    SlurmFacts::parse(Path::new("/etc/slurm/slurm.conf"), text, &mut |path| {
        Err(std::io::Error::other(format!("{} is not there", path.display())))
    })
}

pub fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/config");
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 4, "{dirs:?}");
    dirs
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    for dir in examples() {
        let loaded = config::load(&dir, &slurm("ClusterName=test"))
            .unwrap_or_else(|errors| panic!("{}: {errors}", dir.display()));
        assert_eq!(loaded.warnings, [], "{}", dir.display());
        assert!(!loaded.site.groups().is_empty());
    }
}

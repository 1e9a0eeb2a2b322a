// SPDX-License-Identifier: GPL-3.0-or-later
//! The shapes that SLURM_RESUME_FILE has in 22.05, 24.11 and 26.05 (src/slurmctld/power_save.c).

use ec2fleet_core::resume_file::{MAX_BYTES, ResumeFile, ResumeFileError, ResumeJob};
use proptest::prelude::*;

#[test]
fn release_22_05() {
    let text = r#"{"jobs":[{"job_id":41,"nodes":"aws-spot-[0-1]"},{"job_id":42,"nodes":"aws-od-3"}],
                   "all_nodes":"aws-od-3,aws-spot-[0-1]"}"#;
    let file = ResumeFile::parse(text).unwrap();
    assert_eq!(file.all_nodes.as_deref(), Some("aws-od-3,aws-spot-[0-1]"));
    let job = |job_id, nodes: &str| ResumeJob {
        job_id,
        nodes_resume: nodes.into(),
        nodes_alloc: nodes.into(),
        ..ResumeJob::default()
    };
    assert_eq!(file.jobs, [job(41, "aws-spot-[0-1]"), job(42, "aws-od-3")]);
}

#[test]
fn release_24_11() {
    let text = r#"{"all_nodes_resume":"aws-spot-[0-2]","jobs":[{"extra":null,"job_id":140814,"features":"c1,c2",
        "nodes_alloc":"aws-spot-[0-3]","nodes_resume":"aws-spot-[0-2]","oversubscribe":"OK","partition":"aws",
        "reservation":"resv_1234"}]}"#;
    let file = ResumeFile::parse(text).unwrap();
    assert_eq!(file.all_nodes.as_deref(), Some("aws-spot-[0-2]"));
    let expected = ResumeJob {
        job_id: 140_814,
        nodes_resume: "aws-spot-[0-2]".into(),
        nodes_alloc: "aws-spot-[0-3]".into(),
        partition: Some("aws".into()),
        features: Some("c1,c2".into()),
        reservation: Some("resv_1234".into()),
        oversubscribe: Some("OK".into()),
        ..ResumeJob::default()
    };
    assert_eq!(file.jobs, [expected]);
}

#[test]
fn jobs_with_their_nodes() {
    let text = r#"{"jobs":[{"job_id":7,"nodes_alloc":"n[0-2]","nodes_resume":"n[1-2]"},{"job_id":8,"nodes":"m1"},
        {"job_id":9}]}"#;
    let jobs = ResumeFile::parse(text).unwrap().jobs().unwrap();
    let shown: Vec<(u64, String, String)> =
        jobs.iter().map(|job| (job.job_id, job.nodes.join(" "), job.woken.join(" "))).collect();
    let expected = [(7, "n0 n1 n2", "n1 n2"), (8, "m1", "m1"), (9, "", "")];
    assert_eq!(shown, expected.map(|(id, nodes, woken)| (id, nodes.to_owned(), woken.to_owned())));
    // Without the nodes of one job nothing can be said of any node that is in no other one.
    let text = r#"{"jobs":[{"job_id":7,"nodes":"n1"},{"job_id":8,"nodes":"m[1"}]}"#;
    assert_eq!(ResumeFile::parse(text).unwrap().jobs(), None);
}

#[test]
fn release_26_05() {
    let text = r#"{"all_nodes_resume":"n1","jobs":[{"exclusive":"topo","extra":"","job_id":9,"priority":4294901758,
        "features":null,"nodes_alloc":"n1","nodes_resume":"n1","oversubscribe":"NO","partition":"p",
        "reservation":null,"a_later_key":{"x":[1,2]}}],"another":true}"#;
    let file = ResumeFile::parse(text).unwrap();
    let job = &file.jobs[0];
    assert_eq!(job.exclusive.as_deref(), Some("topo"));
    assert_eq!(job.priority, Some(4_294_901_758));
    assert_eq!((&job.extra, &job.features, &job.reservation), (&None, &None, &None));
}

#[test]
fn what_is_missing_or_odd_is_tolerated() {
    assert_eq!(ResumeFile::parse("{}").unwrap(), ResumeFile::default());
    let text = r#"{"jobs":[{"job_id":"7"},{"nodes":"n1"},{"job_id":-1},{"job_id":99999999999},null,5,{"job_id":8,"nodes":3}]}"#;
    let ids: Vec<u32> = ResumeFile::parse(text).unwrap().jobs.iter().map(|j| j.job_id).collect();
    assert_eq!(ids, [7, 8]);
    assert_eq!(ResumeFile::parse(r#"{"jobs":{"0":1},"all_nodes":7}"#).unwrap(), ResumeFile::default());
}

#[test]
fn what_is_no_object_is_refused() {
    for text in ["", "{", "{\"jobs\":[", "nodes", "\u{0}"] {
        assert!(matches!(ResumeFile::parse(text), Err(ResumeFileError::NotJson { .. })), "{text:?}");
    }
    for text in ["null", "true", "3", "\"x\"", "[]"] {
        assert!(matches!(ResumeFile::parse(text), Err(ResumeFileError::NotAnObject { .. })), "{text:?}");
    }
    let long = format!("{{\"all_nodes\":\"{}\"}}", "n".repeat(MAX_BYTES));
    assert_eq!(ResumeFile::parse(&long), Err(ResumeFileError::TooLong));
    let deep = "[".repeat(100_000);
    assert!(matches!(ResumeFile::parse(&deep), Err(ResumeFileError::NotJson { .. })));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = ResumeFile::parse(&text);
    }

    #[test]
    fn it_survives_our_own_protocol(ids in proptest::collection::vec(1_u32.., 0..5), nodes in "[a-z]{1,8}") {
        let jobs = ids
            .iter()
            .map(|id| ResumeJob { job_id: *id, nodes_resume: nodes.clone(), ..ResumeJob::default() })
            .collect();
        let file = ResumeFile { all_nodes: Some(nodes), jobs };
        let line = serde_json::to_string(&file).unwrap();
        prop_assert_eq!(serde_json::from_str::<ResumeFile>(&line).unwrap(), file);
    }
}

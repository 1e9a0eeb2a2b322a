// SPDX-License-Identifier: GPL-3.0-or-later
//! The least IAM policy.

use serde_json::{Value, json};
use slurm_ec2_fleet::cloud::catalog::{Action, Need};
use slurm_ec2_fleet::config;
use slurm_ec2_fleet::core::site::Site;

use crate::accepted::slurm;
use crate::broken::{Edit, apply, base_config, base_partitions, check_values};

fn loaded(edits: &[Edit]) -> config::Loaded {
    let (mut config, mut partitions) = (base_config(), base_partitions());
    for edit in edits {
        apply(&mut config, &mut partitions, edit);
    }
    check_values(&config, &partitions, &slurm("ClusterName=test")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn actions(policy: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        match &statement["Action"] {
            Value::Array(list) => out.extend(list.iter().map(|a| a.as_str().unwrap().to_owned())),
            one => out.push(one.as_str().unwrap().to_owned()),
        }
    }
    out.sort();
    out.dedup();
    out
}

fn policy(edits: &[Edit]) -> (Site, Value) {
    let site = loaded(edits).site;
    let policy = config::iam_policy(&site);
    (site, policy)
}

/// The actions that the code needs for this purpose, as IAM names them.
fn needed(needs: &[Need]) -> Vec<String> {
    let mut out: Vec<String> = Action::ALL
        .iter()
        .filter(|a| needs.contains(&a.need()))
        .map(|a| format!("ec2:{}", a.as_str()))
        .chain(
            ["iam:CreateServiceLinkedRole", "iam:PassRole", "sts:DecodeAuthorizationMessage"]
                .map(str::to_owned),
        )
        .collect();
    out.sort();
    out
}

#[test]
fn the_policy_allows_what_the_code_calls_and_no_more() {
    let (_, instant) = policy(&[]);
    assert_eq!(instant["Version"], "2012-10-17");
    assert_eq!(actions(&instant), needed(&[Need::Always, Need::Tool]));
    let text = instant.to_string();
    assert!(text.contains("arn:aws:ec2:us-east-1:*:subnet/subnet-11111111"), "{text}");
    assert!(text.contains("launch-template/lt-0abc") && text.contains("launch-template/*"), "{text}");
    // IAM takes managed policies of up to 6,144 characters.
    assert!(text.len() < 6_144, "{}", text.len());

    let (_, maintain) = policy(&[Edit::Set("/NodeGroups/1/FleetScope", json!("group"))]);
    assert_eq!(actions(&maintain), needed(&[Need::Always, Need::MaintainFleets, Need::Tool]));

    let (_, moving) = policy(&[
        Edit::Set("/NodeGroups/1/SpotOptions", json!({ "InstanceInterruptionBehavior": "hibernate" })),
        Edit::Set("/NodeGroups/1/MaxHibernationMin", json!(30)),
        Edit::Set("/NodeGroups/1/AfterMaxHibernation", json!("on-demand")),
    ]);
    let all = [Need::Always, Need::MaintainFleets, Need::MoveToOnDemand, Need::Tool];
    assert_eq!(actions(&moving), needed(&all));
    assert!(moving.to_string().len() < 6_144, "{}", moving.to_string().len());
}

#[test]
fn what_changes_or_ends_things_is_bound_to_the_clusters_tag() {
    let (_, policy) = policy(&[Edit::Set(
        "/NodeGroups/1/SpotOptions",
        json!({ "InstanceInterruptionBehavior": "hibernate" }),
    )]);
    let mut bound = Vec::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let condition = &statement["Condition"]["StringEquals"];
        if condition["aws:ResourceTag/ec2fleet:cluster"] == "test" {
            bound.extend(actions(&json!({ "Statement": [statement] })));
        } else {
            for action in ["ec2:TerminateInstances", "ec2:DeleteFleets", "ec2:ModifyFleet"] {
                assert!(!actions(&json!({ "Statement": [statement] })).contains(&action.to_owned()));
            }
        }
    }
    for action in ["TerminateInstances", "DeleteFleets", "ModifyFleet"] {
        assert!(bound.contains(&format!("ec2:{action}")), "{action}: {bound:?}");
    }
}

#[test]
fn arns_are_of_the_regions_partition() {
    for (region, arn) in [
        ("eu-west-1", "arn:aws:ec2:eu-west-1:"),
        ("cn-north-1", "arn:aws-cn:ec2:cn-north-1:"),
        ("us-gov-west-1", "arn:aws-us-gov:ec2:us-gov-west-1:"),
    ] {
        let (_, policy) = policy(&[Edit::Set("/NodeGroups/0/Region", json!(region))]);
        let text = policy.to_string();
        assert!(text.contains(arn), "{region}");
        assert!(text.contains("arn:aws:ec2:us-east-1:"), "the other node group");
    }
}

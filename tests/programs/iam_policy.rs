// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet iam-policy`: the text that it prints, judged as IAM would judge it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ec2fleet_ec2::catalog::{Action, Need};
use serde_json::{Value, json};

use crate::commands::ec2fleet;

/// IAM takes managed policies of up to 6,144 characters, not counting white space (IAM user guide, "IAM and STS quotas").
const LONGEST: usize = 6_144;

/// A node group in a region, with these keys besides.
fn group(name: &str, region: &str, more: Value) -> Value {
    let mut group = json!({
        "NodeGroupName": name, "MaxNodes": 4, "Region": region, "SlurmSpecifications": {}, "PurchasingOption": "on-demand",
        "LaunchTemplateSpecification": { "LaunchTemplateName": "compute", "Version": "1" },
        "LaunchTemplateOverrides": [{ "InstanceType": "c5.large" }],
        "SubnetIds": ["subnet-11111111", "subnet-22222222"]
    });
    for (key, value) in more.as_object().expect("an object") {
        group[key] = value.clone();
    }
    group
}

fn instant() -> Value {
    group(
        "instant",
        "us-east-1",
        json!({ "PurchasingOption": "spot", "LaunchTemplateSpecification": { "LaunchTemplateId": "lt-0abc", "Version": "3" } }),
    )
}

fn of_one_fleet() -> Value {
    group("fleet", "us-east-1", json!({ "PurchasingOption": "spot", "FleetScope": "group" }))
}

fn moving() -> Value {
    let more = json!({
        "PurchasingOption": "spot", "SpotOptions": { "InstanceInterruptionBehavior": "hibernate" },
        "MaxHibernationMin": 30, "AfterMaxHibernation": "on-demand"
    });
    group("moving", "us-east-1", more)
}

/// What the command prints for these node groups.
fn printed(groups: &[Value], arguments: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let partitions = json!({ "Partitions": [{
        "PartitionName": "p", "NodeGroups": groups, "PartitionOptions": { "Default": "YES" }
    }] });
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write("slurm.conf", "ClusterName=test\nJobSubmitPlugins=none\n");
    write("config.json", "{\"SlurmConf\":{}}");
    write("partitions.json", &partitions.to_string());
    let config = dir.path().display().to_string();
    let ran = ec2fleet(dir.path(), &[&["--config-dir", &config, "iam-policy"], arguments].concat());
    assert_eq!(ran.code, 0, "{}", ran.seen());
    serde_json::from_str(&ran.stdout).expect("JSON")
}

fn statements(policy: &Value) -> &[Value] {
    policy["Statement"].as_array().expect("statements")
}

fn list(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

/// `*` is any text, also none.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        (rest, last) = (&rest[at + part.len()..], part);
    }
    rest.is_empty() || (pattern.contains('*') && (last.is_empty() || text.ends_with(last)))
}

#[test]
fn a_star_is_any_text() {
    for (pattern, text) in [("a*", "a"), ("a*c", "abc"), ("a*c", "acxc"), ("*", ""), ("a:*:b/*", "a::b/x")] {
        assert!(like(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [("a*", "b"), ("a*c", "abd"), ("a", "ab"), ("a:*:b/*", "a::c/x")] {
        assert!(!like(pattern, text), "{pattern} {text}");
    }
}

fn holds(condition: &Value, context: &BTreeMap<&str, &str>) -> bool {
    let Some(operators) = condition.as_object() else { return true };
    operators.iter().all(|(operator, keys)| {
        keys.as_object().expect("keys").iter().all(|(key, values)| {
            let values = list(values);
            match (operator.as_str(), context.get(key.as_str())) {
                ("StringEquals" | "StringEqualsIfExists" | "Bool", Some(found)) => values.contains(found),
                ("StringLike", Some(found)) => values.iter().any(|pattern| like(pattern, found)),
                ("StringEqualsIfExists", None) => true,
                ("StringEquals" | "StringLike" | "Bool", None) => false,
                (other, _) => panic!("{other} is not known here"),
            }
        })
    })
}

/// Whether the action is allowed on this resource, which has these condition keys.
fn allows(policy: &Value, action: &str, resource: &str, context: &[(&str, &str)]) -> bool {
    let context: BTreeMap<&str, &str> =
        context.iter().copied().chain([("aws:RequestedRegion", "us-east-1")]).collect();
    statements(policy).iter().any(|statement| {
        assert_eq!(statement["Effect"], "Allow");
        list(&statement["Action"]).iter().any(|pattern| like(pattern, action))
            && list(&statement["Resource"]).iter().any(|pattern| like(pattern, resource))
            && holds(&statement["Condition"], &context)
    })
}

fn ec2(resource: &str) -> String {
    format!("arn:aws:ec2:us-east-1:123456789012:{resource}")
}

const OURS: (&str, &str) = ("aws:ResourceTag/ec2fleet:cluster", "test");
const ANOTHERS: (&str, &str) = ("aws:ResourceTag/ec2fleet:cluster", "another");
const BECOMES_OURS: (&str, &str) = ("aws:RequestTag/ec2fleet:cluster", "test");
const OF_A_FLEET: (&str, &str) = ("ec2:ResourceTag/aws:ec2:fleet-id", "fleet-0a1b");

fn actions(policy: &Value) -> Vec<&str> {
    let all: BTreeSet<&str> = statements(policy).iter().flat_map(|one| list(&one["Action"])).collect();
    all.into_iter().collect()
}

/// The actions that the code needs for this purpose, as IAM names them.
fn needed(needs: &[Need]) -> Vec<String> {
    let mut out: Vec<String> = Action::ALL
        .iter()
        .filter(|a| needs.contains(&a.need()))
        .map(|a| format!("ec2:{}", a.as_str()))
        .chain(["iam:CreateServiceLinkedRole", "iam:PassRole"].map(str::to_owned))
        .chain(needs.contains(&Need::Tool).then(|| "sts:DecodeAuthorizationMessage".to_owned()))
        .collect();
    out.sort();
    out
}

#[test]
fn the_policy_allows_what_the_code_calls_and_no_more() {
    let plain = printed(&[instant()], &[]);
    assert_eq!(plain["Version"], "2012-10-17");
    assert_eq!(actions(&plain), needed(&[Need::Always, Need::Tool]));
    let text = plain.to_string();
    assert!(text.contains("arn:aws:ec2:us-east-1:*:subnet/subnet-11111111"), "{text}");
    assert!(text.contains("launch-template/lt-0abc") && !text.contains("launch-template/*"), "{text}");

    let maintain = [Need::Always, Need::MaintainFleets];
    assert_eq!(actions(&printed(&[of_one_fleet()], &["--no-tool"])), needed(&maintain));
    let all = [Need::Always, Need::MaintainFleets, Need::MoveToOnDemand, Need::Tool];
    assert_eq!(actions(&printed(&[moving()], &[])), needed(&all));
    assert_eq!(actions(&printed(&[instant(), of_one_fleet(), moving()], &[])), needed(&all));
}

#[test]
fn what_changes_or_ends_things_is_bound_to_the_clusters_tag() {
    let policy = printed(&[instant(), of_one_fleet(), moving()], &[]);
    let (instance, fleet, volume) = (ec2("instance/i-1"), ec2("fleet/fleet-1"), ec2("volume/vol-1"));
    for (action, resource) in [
        ("ec2:TerminateInstances", &instance),
        ("ec2:StopInstances", &instance),
        ("ec2:CreateTags", &instance),
        ("ec2:ModifyFleet", &fleet),
        ("ec2:DeleteFleets", &fleet),
        ("ec2:DeleteVolume", &volume),
    ] {
        assert!(allows(&policy, action, resource, &[OURS]), "{action}");
        for context in
            [vec![], vec![ANOTHERS], vec![ANOTHERS, OF_A_FLEET], vec![ANOTHERS, BECOMES_OURS, OF_A_FLEET]]
        {
            assert!(!allows(&policy, action, resource, &context), "{action} {context:?}");
        }
    }
}

/// A maintain fleet's instances have EC2's tag alone until the plugin gives them the cluster's.
#[test]
fn an_instance_of_a_fleet_is_tagged_and_ended_before_it_has_a_tag_of_ours() {
    let instance = ec2("instance/i-1");
    let policy = printed(&[of_one_fleet()], &["--no-tool"]);
    assert!(allows(&policy, "ec2:CreateTags", &instance, &[OF_A_FLEET, BECOMES_OURS]));
    assert!(allows(&policy, "ec2:TerminateInstances", &instance, &[OF_A_FLEET]));
    assert!(allows(&policy, "ec2:TerminateInstances", &instance, &[OF_A_FLEET, OURS]));
    // Not without saying whose it is, and nothing that no fleet made.
    assert!(!allows(&policy, "ec2:CreateTags", &instance, &[OF_A_FLEET]));
    assert!(!allows(&policy, "ec2:CreateTags", &instance, &[BECOMES_OURS]));
    assert!(!allows(&policy, "ec2:TerminateInstances", &instance, &[]));
    // Instant fleets tag their instances at birth.
    let policy = printed(&[instant()], &[]);
    assert!(!allows(&policy, "ec2:TerminateInstances", &instance, &[OF_A_FLEET]));
}

/// Service Authorization Reference, ModifyFleet: fleet, and image, launch template and subnet if they are given.
#[test]
fn the_launch_template_of_a_fleet_may_be_changed() {
    let policy = printed(&[of_one_fleet()], &["--no-tool"]);
    assert!(allows(&policy, "ec2:ModifyFleet", &ec2("fleet/fleet-1"), &[OURS]));
    for resource in [
        ec2("launch-template/lt-1"),
        ec2("subnet/subnet-22222222"),
        "arn:aws:ec2:us-east-1::image/ami-1".into(),
    ] {
        assert!(allows(&policy, "ec2:ModifyFleet", &resource, &[]), "{resource}");
    }
    assert!(!allows(&policy, "ec2:ModifyFleet", &ec2("subnet/subnet-33333333"), &[]));
}

/// Service Authorization Reference, RunInstances: all that a launch template can name.
#[test]
fn a_launch_may_use_what_its_template_names() {
    let policy = printed(&[instant()], &["--no-tool"]);
    let mut resources: Vec<String> = [
        "capacity-reservation/cr-1",
        "instance/*",
        "key-pair/key",
        "launch-template/lt-0abc",
        "network-interface/*",
        "placement-group/pg",
        "security-group/sg-1",
        "spot-instances-request/*",
        "subnet/subnet-11111111",
        "volume/*",
    ]
    .map(ec2)
    .into();
    resources.push("arn:aws:ec2:us-east-1::image/ami-1".into());
    resources.push("arn:aws:ec2:us-east-1::snapshot/snap-1".into());
    resources.push("arn:aws:license-manager:us-east-1:123456789012:license-configuration:lic-1".into());
    resources.push("arn:aws:resource-groups:us-east-1:123456789012:group/reservations".into());
    for resource in &resources {
        assert!(allows(&policy, "ec2:RunInstances", resource, &[]), "{resource}");
    }
    assert!(allows(&policy, "ec2:CreateFleet", &ec2("fleet/*"), &[]));
    for created in ["fleet/*", "instance/*", "volume/*", "network-interface/*", "spot-instances-request/*"] {
        for by in ["CreateFleet", "RunInstances"] {
            assert!(
                allows(&policy, "ec2:CreateTags", &ec2(created), &[("ec2:CreateAction", by)]),
                "{created} {by}"
            );
        }
    }
    assert!(!allows(&policy, "ec2:RunInstances", &ec2("launch-template/lt-0def"), &[]));
    assert!(!allows(&policy, "ec2:RunInstances", &ec2("subnet/subnet-33333333"), &[]));
}

/// Each call of crates/core/src/relocation.rs on what it is made for, with the tags that this has by then.
#[test]
fn every_step_of_a_move_is_allowed() {
    let policy = printed(&[moving()], &["--no-tool"]);
    let untagged = ["volume/vol-1", "network-interface/eni-1", "capacity-reservation/cr-1"];
    for resource in untagged {
        assert!(allows(&policy, "ec2:CreateTags", &ec2(resource), &[BECOMES_OURS]), "{resource}");
        assert!(!allows(&policy, "ec2:CreateTags", &ec2(resource), &[]), "{resource}");
    }
    assert!(allows(
        &policy,
        "ec2:CreateCapacityReservation",
        &ec2("capacity-reservation/*"),
        &[BECOMES_OURS]
    ));
    for (action, resources) in [
        ("ModifyInstanceAttribute", &["instance/i-1", "volume/vol-1"][..]),
        ("ModifyNetworkInterfaceAttribute", &["network-interface/eni-1", "instance/i-1"]),
        ("DetachVolume", &["volume/vol-1", "instance/i-1"]),
        ("TerminateInstances", &["instance/i-1"]),
        ("StopInstances", &["instance/i-2"]),
        ("DeleteVolume", &["volume/vol-2"]),
        ("AttachVolume", &["volume/vol-1", "instance/i-2"]),
        ("StartInstances", &["instance/i-2"]),
        ("CancelCapacityReservation", &["capacity-reservation/cr-1"]),
    ] {
        for resource in resources {
            assert!(
                allows(&policy, &format!("ec2:{action}"), &ec2(resource), &[OURS]),
                "{action} {resource}"
            );
        }
    }
    for (action, resource) in [
        ("ModifyInstanceAttribute", "security-group/sg-1"),
        ("ModifyNetworkInterfaceAttribute", "security-group/sg-1"),
        ("ModifyNetworkInterfaceAttribute", "subnet/subnet-11111111"),
        ("RunInstances", "capacity-reservation/cr-1"),
        ("RunInstances", "network-interface/eni-1"),
    ] {
        assert!(allows(&policy, &format!("ec2:{action}"), &ec2(resource), &[]), "{action} {resource}");
    }
}

/// `ec2fleet fleets import` writes the cluster's tag to a fleet and its instances.
#[test]
fn a_fleet_of_another_program_may_be_taken_over() {
    let policy = printed(&[of_one_fleet()], &[]);
    let fleet = ec2("fleet/fleet-1");
    assert!(allows(&policy, "ec2:CreateTags", &fleet, &[BECOMES_OURS]));
    assert!(!allows(&policy, "ec2:CreateTags", &fleet, &[BECOMES_OURS, ANOTHERS]));
    assert!(!allows(&printed(&[of_one_fleet()], &["--no-tool"]), "ec2:CreateTags", &fleet, &[BECOMES_OURS]));
}

#[test]
fn arns_are_of_the_regions_partition() {
    for (region, partition, service) in [
        ("eu-west-1", "aws", "ec2.amazonaws.com"),
        ("cn-north-1", "aws-cn", "ec2.amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "ec2.amazonaws.com"),
        ("us-iso-east-1", "aws-iso", "ec2.c2s.ic.gov"),
        ("us-isob-east-1", "aws-iso-b", "ec2.sc2s.sgov.gov"),
        ("eu-isoe-west-1", "aws-iso-e", "ec2.cloud.adc-e.uk"),
        ("us-isof-south-1", "aws-iso-f", "ec2.csp.hci.ic.gov"),
        ("eusc-de-east-1", "aws-eusc", "ec2.amazonaws.eu"),
    ] {
        let policy = printed(&[group("here", region, json!({}))], &[]);
        let resources = statements(&policy).iter().flat_map(|one| list(&one["Resource"]));
        for arn in resources.filter(|resource| *resource != "*") {
            assert!(arn.starts_with(&format!("arn:{partition}:")), "{region}: {arn}");
        }
        let role = format!("arn:{partition}:iam::123456789012:role/compute");
        assert!(allows(&policy, "iam:PassRole", &role, &[("iam:PassedToService", service)]), "{region}");
        assert!(!allows(&policy, "iam:PassRole", &role, &[("iam:PassedToService", "lambda.amazonaws.com")]));
        let both = printed(&[group("here", region, json!({})), instant()], &[]).to_string();
        assert!(both.contains(&format!("arn:{partition}:ec2:{region}:")), "{region}");
        assert!(both.contains("arn:aws:ec2:us-east-1:"), "the other node group");
    }
}

#[test]
fn the_policy_of_a_large_site_is_one_that_iam_takes() {
    let regions = ["us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-1", "ap-southeast-2"];
    let groups: Vec<Value> = regions
        .iter()
        .enumerate()
        .map(|(number, region)| {
            let mut one = moving();
            one["NodeGroupName"] = json!(format!("g{number}"));
            one["Region"] = json!(region);
            one
        })
        .collect();
    let text = printed(&groups, &[]).to_string();
    assert!(text.len() < LONGEST, "{}", text.len());
    // Everything that it may need, in one region.
    let full =
        ["--kms-key", "arn:aws:kms:us-east-1:123456789012:key/1", "--image-parameter", "/images/compute"];
    let text = printed(&[instant(), of_one_fleet(), moving()], &full).to_string();
    assert!(text.len() < LONGEST, "{}", text.len());
}

#[test]
fn keys_and_image_parameters_are_named_when_they_are_given() {
    let key = "arn:aws:kms:us-east-1:123456789012:key/1";
    let policy = printed(&[instant()], &["--kms-key", key]);
    for action in
        ["Decrypt", "DescribeKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"]
    {
        assert!(allows(&policy, &format!("kms:{action}"), key, &[]), "{action}");
    }
    assert!(allows(&policy, "kms:CreateGrant", key, &[("kms:GrantIsForAWSResource", "true")]));
    assert!(!allows(&policy, "kms:CreateGrant", key, &[]));
    assert!(!allows(&policy, "kms:Decrypt", "arn:aws:kms:us-east-1:123456789012:key/2", &[]));

    let parameter = "arn:aws:ssm:us-east-1:123456789012:parameter/images/compute";
    for arguments in [
        ["--image-parameter", "/images/compute"],
        ["--image-parameter", "resolve:ssm:/images/compute:7"],
        ["--image-parameter", parameter],
    ] {
        let policy = printed(&[instant()], &arguments);
        assert!(allows(&policy, "ssm:GetParameters", parameter, &[]), "{arguments:?}");
        assert!(!allows(&policy, "ssm:GetParameters", &format!("{parameter}-2"), &[]), "{arguments:?}");
    }
    let overrides = json!([{ "InstanceType": "c5.large", "ImageId": "resolve:ssm:/images/compute" }]);
    let policy = printed(&[group("g", "us-east-1", json!({ "LaunchTemplateOverrides": overrides }))], &[]);
    assert!(allows(&policy, "ssm:GetParameters", parameter, &[]));

    let dir = tempfile::tempdir().expect("a scratch folder");
    for wrong in
        ["alias/key", "1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:us-east-1:123456789012:alias/key"]
    {
        let ran = ec2fleet(dir.path(), &["iam-policy", "--kms-key", wrong]);
        assert_eq!(ran.code, 2, "{}", ran.seen());
    }
}

/// The table of docs/configuration.md has every `Sid` that is printed, and no other.
#[test]
fn the_statements_are_those_of_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(page).expect("a page");
    let section = text.split("\n## ").find(|part| part.starts_with("Permissions\n")).expect("a section");
    let documented: BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| {
            row.split('|').next().unwrap_or_default().split('`').map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|word| word.chars().next().is_some_and(char::is_alphabetic))
        .collect();
    let full =
        ["--kms-key", "arn:aws:kms:us-east-1:123456789012:key/1", "--image-parameter", "/images/compute"];
    let policy = printed(&[instant(), of_one_fleet(), moving()], &full);
    let all: Vec<&str> = statements(&policy).iter().filter_map(|one| one["Sid"].as_str()).collect();
    let different: BTreeSet<String> = all.iter().map(|sid| (*sid).to_owned()).collect();
    assert_eq!((all.len(), &different), (statements(&policy).len(), &documented));
    // The paragraphs around the table name no other either.
    let prose: String = section.lines().filter(|line| !line.starts_with('|')).collect();
    for word in prose.split('`').skip(1).step_by(2) {
        let sid = word.chars().all(char::is_alphanumeric) && word.chars().any(char::is_uppercase);
        assert!(!sid || documented.contains(word), "{word}");
    }
}

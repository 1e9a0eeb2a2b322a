// SPDX-License-Identifier: GPL-3.0-or-later
//! The least that AWS must allow the controller for a configuration.
//!
//! Sources: Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2"; EC2 user
//! guide, "EC2 Fleet prerequisites".

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::core::site::{FleetScope, Lifecycle, NodeGroup, Site};
use crate::core::tag;

/// An IAM policy document for the role or user of the controller.
///
/// It names the regions, subnets and, where the configuration has their ids, launch templates; it lets
/// nothing be terminated or changed that does not carry the cluster's tag. The role of the compute nodes is in
/// the launch template and not known here, so `iam:PassRole` is limited to roles for EC2 only.
#[must_use]
pub fn iam_policy(site: &Site) -> Value {
    let groups: Vec<&NodeGroup> = site.groups().iter().map(AsRef::as_ref).collect();
    let regions: BTreeSet<&str> = groups.iter().map(|g| g.account.region.as_str()).collect();
    let partitions: BTreeSet<&str> = regions.iter().map(|r| aws_partition(r)).collect();
    let maintain = groups.iter().any(|g| g.scope != FleetScope::Launch);
    let spot = groups.iter().any(|g| g.lifecycle == Lifecycle::Spot);
    let reserved = groups.iter().any(|g| g.on_demand_options.capacity_reservation_options.is_some());
    let moves = groups.iter().any(|g| g.moves_to_on_demand());
    let ours = json!({ "StringEquals": { format!("aws:ResourceTag/{}", tag::CLUSTER): site.cluster } });
    let in_regions = |resource: &str| -> Vec<String> {
        regions.iter().map(|r| format!("arn:{}:ec2:{r}:*:{resource}", aws_partition(r))).collect()
    };

    // The first is for the plugin, the others for the commands of the administrator.
    let mut describe = vec![
        "ec2:DescribeInstances",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeSpotPriceHistory",
        "ec2:DescribeSubnets",
        "ec2:GetInstanceTypesFromInstanceRequirements",
    ];
    if maintain {
        describe.extend(["ec2:DescribeFleetHistory", "ec2:DescribeFleets"]);
    }

    if moves {
        describe.push("ec2:DescribeVolumes");
    }

    let mut launched = Vec::new();
    for kind in [
        "fleet/*",
        "image/*",
        "instance/*",
        "key-pair/*",
        "network-interface/*",
        "placement-group/*",
        "security-group/*",
        "snapshot/*",
        "volume/*",
    ] {
        launched.extend(in_regions(kind));
    }
    if reserved || moves {
        launched.extend(in_regions("capacity-reservation/*"));
    }
    // An image and its snapshots belong to no account in their ARN.
    for kind in ["image/*", "snapshot/*"] {
        launched.extend(regions.iter().map(|r| format!("arn:{}:ec2:{r}::{kind}", aws_partition(r))));
    }
    let mut named = BTreeSet::new();
    for group in &groups {
        let region = group.account.region.as_str();
        let arn = |resource: String| format!("arn:{}:ec2:{region}:*:{resource}", aws_partition(region));
        named.extend(group.subnet_ids.iter().map(|id| arn(format!("subnet/{id}"))));
        let template = group.launch_template.launch_template_id.as_deref().unwrap_or("*");
        named.insert(arn(format!("launch-template/{template}")));
    }
    launched.extend(named);
    launched.sort_unstable();
    launched.dedup();

    let mut tagged = Vec::new();
    for kind in ["fleet/*", "instance/*", "network-interface/*", "volume/*"] {
        tagged.extend(in_regions(kind));
    }
    let mut statements = vec![
        json!({
            "Sid": "Look",
            "Effect": "Allow",
            "Action": describe,
            "Resource": "*",
            "Condition": { "StringEquals": { "aws:RequestedRegion": regions } }
        }),
        json!({
            "Sid": "Launch",
            "Effect": "Allow",
            "Action": ["ec2:CreateFleet", "ec2:RunInstances"],
            "Resource": launched
        }),
        json!({
            "Sid": "TagAtLaunch",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": tagged,
            "Condition": { "StringEquals": { "ec2:CreateAction": ["CreateFleet", "RunInstances"] } }
        }),
        json!({
            "Sid": "TagOwn",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": in_regions("instance/*"),
            "Condition": ours
        }),
        json!({
            "Sid": "TerminateOwn",
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": in_regions("instance/*"),
            "Condition": ours
        }),
    ];
    if maintain {
        statements.push(json!({
            "Sid": "ChangeOwnFleets",
            "Effect": "Allow",
            "Action": ["ec2:DeleteFleets", "ec2:ModifyFleet"],
            "Resource": in_regions("fleet/*"),
            "Condition": ours
        }));
        // The requests of a fleet are created by EC2 and do not carry the instances' tags.
        statements.push(json!({
            "Sid": "CancelSpotRequests",
            "Effect": "Allow",
            "Action": "ec2:CancelSpotInstanceRequests",
            "Resource": in_regions("spot-instances-request/*")
        }));
    }
    if moves {
        statements.extend(move_statements(&site.cluster, &|kind| in_regions(&format!("{kind}/*"))));
    }
    statements.push(json!({
        "Sid": "PassComputeNodeRole",
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": partitions.iter().map(|p| format!("arn:{p}:iam::*:role/*")).collect::<Vec<_>>(),
        "Condition": { "StringLike": { "iam:PassedToService": "ec2.amazonaws.com*" } }
    }));
    let mut services = vec!["ec2fleet.amazonaws.com"];
    if spot {
        services.push("spot.amazonaws.com");
    }
    statements.push(json!({
        "Sid": "FirstUseOfFleetAndSpot",
        "Effect": "Allow",
        "Action": "iam:CreateServiceLinkedRole",
        "Resource": partitions.iter().map(|p| format!("arn:{p}:iam::*:role/aws-service-role/*")).collect::<Vec<_>>(),
        "Condition": { "StringEquals": { "iam:AWSServiceName": services } }
    }));
    statements.push(json!({
        "Sid": "ExplainDenials",
        "Effect": "Allow",
        "Action": "sts:DecodeAuthorizationMessage",
        "Resource": "*"
    }));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// What `AfterMaxHibernation` on-demand needs besides. `arns` makes the ARNs of all resources of a kind.
///
/// Volumes and interfaces of a Spot instance that a maintain fleet launched have no tag of ours until the move gives
/// them one: tagging them is limited to the cluster's tag, and all that follows to what has it.
#[must_use]
pub fn move_statements(cluster: &str, arns: &dyn Fn(&str) -> Vec<String>) -> Vec<Value> {
    let ours = json!({ "StringEquals": { format!("aws:ResourceTag/{}", tag::CLUSTER): cluster } });
    let becoming_ours = json!({ "StringEquals": { format!("aws:RequestTag/{}", tag::CLUSTER): cluster } });
    let all = |kinds: &[&str]| kinds.iter().flat_map(|kind| arns(kind)).collect::<Vec<_>>();
    vec![
        json!({
            "Sid": "MoveTag",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:CreateCapacityReservation"],
            "Resource": all(&["volume", "network-interface", "capacity-reservation"]),
            "Condition": becoming_ours
        }),
        json!({
            "Sid": "MoveOwn",
            "Effect": "Allow",
            "Action": [
                "ec2:AttachVolume",
                "ec2:CancelCapacityReservation",
                "ec2:DeleteVolume",
                "ec2:DetachVolume",
                "ec2:ModifyInstanceAttribute",
                "ec2:ModifyNetworkInterfaceAttribute",
                "ec2:StartInstances",
                "ec2:StopInstances"
            ],
            "Resource": all(&["instance", "volume", "network-interface", "capacity-reservation"]),
            "Condition": ours
        }),
    ]
}

/// The AWS partition of a region, for ARNs.
fn aws_partition(region: &str) -> &'static str {
    match region.split('-').collect::<Vec<_>>().as_slice() {
        ["cn", ..] => "aws-cn",
        ["us", "gov", ..] => "aws-us-gov",
        ["us", "iso", ..] => "aws-iso",
        ["us", "isob", ..] => "aws-iso-b",
        ["eu", "isoe", ..] => "aws-iso-e",
        ["us", "isof", ..] => "aws-iso-f",
        ["eusc", ..] => "aws-eusc",
        _ => "aws",
    }
}

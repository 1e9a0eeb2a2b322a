// SPDX-License-Identifier: GPL-3.0-or-later
//! The least that AWS must allow the controller for a configuration: what `ec2fleet iam-policy` prints.
//!
//! Sources: Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2" (which action is
//! judged by which resources, and by which tags of them); EC2 user guide, "EC2 Fleet prerequisites" and "Supported IAM
//! actions for tagging".

use std::collections::BTreeSet;

use serde_json::{Value, json};

use ec2fleet_core::site::{FleetScope, Lifecycle, NodeGroup, Site};
use ec2fleet_core::tag;

/// What the policy has to allow beyond what the configuration tells.
#[derive(Clone, Debug, Default)]
pub struct IamPolicyOptions {
    /// Also what only the administrator's commands ask: `doctor`, `generate-conf --online` and their like.
    pub tool: bool,
    /// ARNs of customer managed KMS keys that encrypt images, snapshots or volumes.
    pub kms_keys: Vec<String>,
    /// Names of the SSM parameters that launch templates take images from (`resolve:ssm:<name>`).
    pub image_parameters: Vec<String>,
}

/// An IAM policy document for the role or user of the controller.
///
/// It names the regions, subnets and, where the configuration has their ids, launch templates; it lets nothing be
/// terminated or changed that is another cluster's. The role of the compute nodes is in the launch template and not
/// known here, so `iam:PassRole` is limited to roles for EC2 only.
#[must_use]
pub fn iam_policy(site: &Site, options: &IamPolicyOptions) -> Value {
    let needs = Needs::of(site, options);
    let mut statements = vec![look(&needs), launch(&needs), tag_at_launch(&needs)];
    statements.extend(own_instances(&needs));
    if needs.maintain {
        statements.extend(own_fleets(&needs));
    }
    if needs.moves {
        statements.extend(moves(&needs));
    }
    statements.extend(roles(&needs));
    statements.extend(image_parameters(&needs));
    statements.extend(kms(options));
    if options.tool {
        statements.push(json!({
            "Sid": "ExplainDenials",
            "Effect": "Allow",
            "Action": "sts:DecodeAuthorizationMessage",
            "Resource": "*"
        }));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// What a site's node groups need together.
struct Needs<'a> {
    site: &'a Site,
    options: &'a IamPolicyOptions,
    groups: Vec<&'a NodeGroup>,
    regions: BTreeSet<&'a str>,
    partitions: BTreeSet<&'static str>,
    maintain: bool,
    /// Some group keeps one fleet for all of its nodes.
    group_fleets: bool,
    spot: bool,
    moves: bool,
}

impl<'a> Needs<'a> {
    fn of(site: &'a Site, options: &'a IamPolicyOptions) -> Self {
        let groups: Vec<&NodeGroup> = site.groups().iter().map(AsRef::as_ref).collect();
        let regions: BTreeSet<&str> = groups.iter().map(|g| g.account.region.as_str()).collect();
        Self {
            site,
            options,
            partitions: regions.iter().map(|region| aws_partition(region)).collect(),
            regions,
            maintain: groups.iter().any(|g| g.scope != FleetScope::Launch),
            group_fleets: groups.iter().any(|g| g.scope == FleetScope::Group),
            spot: groups.iter().any(|g| g.lifecycle == Lifecycle::Spot || g.spot_fallback_s.is_some()),
            moves: groups.iter().any(|g| g.moves_to_on_demand()),
            groups,
        }
    }

    /// ARNs of all resources of these kinds, such as `instance`, in every account.
    fn all(&self, kinds: &[&str]) -> Vec<String> {
        kinds.iter().flat_map(|kind| self.arns("ec2", "*", &format!("{kind}/*"))).collect()
    }

    /// ARNs of a resource in each region, or in all regions of a partition where it has several: IAM limits the length
    /// of a policy.
    fn arns(&self, service: &str, account: &str, resource: &str) -> Vec<String> {
        let arn = |partition: &&'static str| {
            let mut regions = self.regions.iter().filter(|region| aws_partition(region) == *partition);
            let first = regions.next().copied().unwrap_or("*");
            let region = if regions.next().is_some() { "*" } else { first };
            format!("arn:{partition}:{service}:{region}:{account}:{resource}")
        };
        self.partitions.iter().map(arn).collect()
    }

    fn in_regions(&self) -> Value {
        json!({ "aws:RequestedRegion": self.regions })
    }

    /// The cluster's tag on what exists.
    fn ours(&self) -> Value {
        json!({ format!("aws:ResourceTag/{}", tag::CLUSTER): self.site.cluster })
    }

    /// The cluster's tag in the request.
    fn becoming_ours(&self) -> Value {
        json!({ format!("aws:RequestTag/{}", tag::CLUSTER): self.site.cluster })
    }

    /// Launch templates and subnets of the node groups. A policy knows a template by its id alone; a name is known to
    /// EC2 only.
    fn templates_and_subnets(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut templates, mut subnets) = (BTreeSet::new(), BTreeSet::new());
        for group in &self.groups {
            let region = group.account.region.as_str();
            let arn = |resource: String| format!("arn:{}:ec2:{region}:*:{resource}", aws_partition(region));
            let template = group.launch_template.launch_template_id.as_deref().unwrap_or("*");
            templates.insert(arn(format!("launch-template/{template}")));
            subnets.extend(group.subnet_ids.iter().map(|id| arn(format!("subnet/{id}"))));
        }
        (templates, subnets)
    }
}

/// Reading is judged by no resource.
fn look(needs: &Needs) -> Value {
    let mut actions = vec!["ec2:DescribeInstances"];
    if needs.options.tool {
        actions.extend([
            "ec2:DescribeAvailabilityZones",
            "ec2:DescribeImages",
            "ec2:DescribeInstanceTypeOfferings",
            "ec2:DescribeInstanceTypes",
            "ec2:DescribeLaunchTemplateVersions",
            "ec2:DescribeSpotPriceHistory",
            "ec2:DescribeSubnets",
            "ec2:GetInstanceTypesFromInstanceRequirements",
        ]);
    }
    if needs.maintain {
        actions.extend(["ec2:DescribeFleetHistory", "ec2:DescribeFleets"]);
    }
    if needs.moves {
        actions.push("ec2:DescribeVolumes");
    }
    json!({
        "Sid": "Look",
        "Effect": "Allow",
        "Action": actions,
        "Resource": "*",
        "Condition": { "StringEquals": needs.in_regions() }
    })
}

/// Everything that a launch template can name is judged, too. A reservation, a resource group of reservations and a
/// licence are in the template, which is not read here. Spot requests are not in the reference for RunInstances, and are
/// judged all the same as soon as the template has tags for them (EC2 user guide, "Example policies to control access":
/// the example for Spot requests that are tagged on creation).
fn launch(needs: &Needs) -> Value {
    let mut resources = needs.all(&[
        "capacity-reservation",
        "fleet",
        "instance",
        "key-pair",
        "network-interface",
        "placement-group",
        "security-group",
        "spot-instances-request",
        "volume",
    ]);
    // ARNs of images and snapshots name no account.
    for kind in ["image", "snapshot"] {
        resources.extend(needs.arns("ec2", "", &format!("{kind}/*")));
    }
    resources.extend(needs.arns("license-manager", "*", "license-configuration:*"));
    resources.extend(needs.arns("resource-groups", "*", "group/*"));
    let (templates, subnets) = needs.templates_and_subnets();
    resources.extend(templates);
    resources.extend(subnets);
    json!({
        "Sid": "Launch",
        "Effect": "Allow",
        "Action": ["ec2:CreateFleet", "ec2:RunInstances"],
        "Resource": resources,
        "Condition": { "StringEquals": needs.in_regions() }
    })
}

fn tag_at_launch(needs: &Needs) -> Value {
    json!({
        "Sid": "TagAtLaunch",
        "Effect": "Allow",
        "Action": "ec2:CreateTags",
        "Resource": needs.all(&["fleet", "instance", "network-interface", "spot-instances-request", "volume"]),
        "Condition": { "StringEquals": { "ec2:CreateAction": ["CreateFleet", "RunInstances"] } }
    })
}

/// Instances of maintain fleets have no tag of ours at birth, and EC2's own tag with the id of their fleet (EC2 API
/// reference, CreateFleet: tags of the request are for instant fleets). They are tagged, or ended before they are, as
/// long as they are no other cluster's. Amazon's policy for the fleets' own role has the same condition
/// (AWSEC2FleetServiceRolePolicy).
fn own_instances(needs: &Needs) -> Vec<Value> {
    let instances = needs.all(&["instance"]);
    let mut statements = vec![json!({
        "Sid": "TagAndTerminateOwn",
        "Effect": "Allow",
        "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
        "Resource": instances,
        "Condition": { "StringEquals": needs.ours() }
    })];
    if needs.maintain {
        let of_a_fleet = json!({ "ec2:ResourceTag/aws:ec2:fleet-id": "fleet-*" });
        statements.push(json!({
            "Sid": "TagInstancesOfFleets",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": instances,
            "Condition": {
                "StringEquals": needs.becoming_ours(),
                "StringEqualsIfExists": needs.ours(),
                "StringLike": of_a_fleet
            }
        }));
        statements.push(json!({
            "Sid": "TerminateInstancesOfFleets",
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": instances,
            "Condition": { "StringEqualsIfExists": needs.ours(), "StringLike": of_a_fleet }
        }));
    }
    statements
}

fn own_fleets(needs: &Needs) -> Vec<Value> {
    let (templates, subnets) = needs.templates_and_subnets();
    let mut named = needs.arns("ec2", "", "image/*");
    named.extend(templates);
    named.extend(subnets);
    let mut statements = vec![
        json!({
            "Sid": "ChangeOwnFleets",
            "Effect": "Allow",
            "Action": ["ec2:DeleteFleets", "ec2:ModifyFleet"],
            "Resource": needs.all(&["fleet"]),
            "Condition": { "StringEquals": needs.ours() }
        }),
        // A change of the launch template is judged by what it names as well, and that has no tag of ours.
        json!({
            "Sid": "ChangeFleetsTo",
            "Effect": "Allow",
            "Action": "ec2:ModifyFleet",
            "Resource": named
        }),
        // EC2 creates the requests of a fleet, and they do not carry the instances' tags.
        json!({
            "Sid": "CancelSpotRequests",
            "Effect": "Allow",
            "Action": "ec2:CancelSpotInstanceRequests",
            "Resource": needs.all(&["spot-instances-request"])
        }),
    ];
    if needs.group_fleets && needs.options.tool {
        // `ec2fleet fleets import` gives the cluster a fleet that another program made.
        statements.push(json!({
            "Sid": "TakeFleetsOver",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": needs.all(&["fleet"]),
            "Condition": { "StringEquals": needs.becoming_ours(), "StringEqualsIfExists": needs.ours() }
        }));
    }
    statements
}

/// What `AfterMaxHibernation` on-demand needs besides.
///
/// Volumes and interfaces of a Spot instance that a maintain fleet launched have no tag of ours until the move gives
/// them one: tagging them is limited to the cluster's tag, and all that follows to what has it.
fn moves(needs: &Needs) -> Vec<Value> {
    let mut named = needs.all(&["security-group", "subnet"]);
    named.extend(needs.arns("license-manager", "*", "license-configuration:*"));
    vec![
        json!({
            "Sid": "MoveTag",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:CreateCapacityReservation"],
            "Resource": needs.all(&["volume", "network-interface", "capacity-reservation"]),
            "Condition": { "StringEquals": needs.becoming_ours() }
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
            "Resource": needs.all(&["instance", "volume", "network-interface", "capacity-reservation"]),
            "Condition": { "StringEquals": needs.ours() }
        }),
        // Two of these and StartInstances may be judged by what the instance or the interface uses as well.
        json!({
            "Sid": "MoveWithin",
            "Effect": "Allow",
            "Action": [
                "ec2:ModifyInstanceAttribute",
                "ec2:ModifyNetworkInterfaceAttribute",
                "ec2:StartInstances"
            ],
            "Resource": named
        }),
    ]
}

fn roles(needs: &Needs) -> Vec<Value> {
    let arns = |role: &str| -> Vec<String> {
        needs.partitions.iter().map(|partition| format!("arn:{partition}:iam::*:role/{role}")).collect()
    };
    let ec2: BTreeSet<String> = needs
        .partitions
        .iter()
        .flat_map(|partition| ["amazonaws.com", dns_suffix(partition)])
        .map(|suffix| format!("ec2.{suffix}"))
        .collect();
    let mut services = vec!["ec2fleet.amazonaws.com"];
    if needs.spot {
        services.push("spot.amazonaws.com");
    }
    vec![
        json!({
            "Sid": "PassComputeNodeRole",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": arns("*"),
            "Condition": { "StringEquals": { "iam:PassedToService": ec2 } }
        }),
        json!({
            "Sid": "FirstUseOfFleetAndSpot",
            "Effect": "Allow",
            "Action": "iam:CreateServiceLinkedRole",
            "Resource": arns("aws-service-role/*"),
            "Condition": { "StringEquals": { "iam:AWSServiceName": services } }
        }),
    ]
}

/// An image that is given as `resolve:ssm:<name>` is looked up with the caller's permissions (EC2 user guide, "Use a
/// Systems Manager parameter instead of an AMI ID").
fn image_parameters(needs: &Needs) -> Option<Value> {
    let in_overrides = needs
        .groups
        .iter()
        .flat_map(|group| &group.overrides)
        .filter_map(|choice| choice.image_id.as_deref()?.strip_prefix("resolve:ssm:"));
    let names = needs.options.image_parameters.iter().map(|name| name.trim_start_matches("resolve:ssm:"));
    let mut resources = BTreeSet::new();
    for name in names.chain(in_overrides) {
        if name.starts_with("arn:") {
            resources.insert(without_version(name, 6).to_owned());
        } else {
            let path = without_version(name, 1).trim_start_matches('/');
            resources.extend(needs.arns("ssm", "*", &format!("parameter/{path}")));
        }
    }
    (!resources.is_empty()).then(|| {
        json!({
            "Sid": "ReadImageParameters",
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": resources
        })
    })
}

/// The first parts between colons: what follows them is a parameter's version or label.
fn without_version(name: &str, parts: usize) -> &str {
    name.match_indices(':').nth(parts - 1).map_or(name, |(at, _)| &name[..at])
}

/// Instant on-demand fleets and the steps of a move use the key with the caller's permissions; Spot and maintain fleets with
/// those of their service-linked roles, which need a grant besides (EC2 user guide, "EC2 Fleet prerequisites"; KMS
/// developer guide, "Using Amazon EBS encryption": the five actions, and grants for AWS resources alone).
fn kms(options: &IamPolicyOptions) -> Vec<Value> {
    if options.kms_keys.is_empty() {
        return Vec::new();
    }
    vec![
        json!({
            "Sid": "UseVolumeKeys",
            "Effect": "Allow",
            "Action": [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncrypt*"
            ],
            "Resource": options.kms_keys
        }),
        json!({
            "Sid": "GrantVolumeKeys",
            "Effect": "Allow",
            "Action": "kms:CreateGrant",
            "Resource": options.kms_keys,
            "Condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } }
        }),
    ]
}

/// The AWS partition of a region, for ARNs (botocore's partitions.json).
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

/// Where a partition's services have names of their own (botocore's partitions.json, `dnsSuffix`).
fn dns_suffix(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "amazonaws.com.cn",
        "aws-iso" => "c2s.ic.gov",
        "aws-iso-b" => "sc2s.sgov.gov",
        "aws-iso-e" => "cloud.adc-e.uk",
        "aws-iso-f" => "csp.hci.ic.gov",
        "aws-eusc" => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

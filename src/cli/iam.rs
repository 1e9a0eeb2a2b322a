// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet iam-policy`: the least IAM policy for a configuration.
//!
//! Which actions support which resources and conditions is from the Service Authorization Reference, "Actions,
//! resources, and condition keys for Amazon EC2".

use serde_json::{Value, json};

use super::args;
use super::context::Context;
use super::error::{CliError, Exit};
use super::output::Output;
use crate::cloud::catalog::{Action, Need};
use crate::config::move_statements;
use crate::core::site::{FleetScope, Lifecycle, Site};
use crate::core::tag;

/// # Errors
/// When the configuration has errors.
pub fn run(context: &Context, args: &args::IamPolicy, out: &mut Output) -> Result<Exit, CliError> {
    let loaded = context.require_config()?;
    out.json(&policy(&loaded.site, !args.no_tool))?;
    Ok(Exit::Success)
}

/// `tool`: also what `ec2fleet doctor`, `generate-conf --online` and their like ask.
#[must_use]
pub fn policy(site: &Site, tool: bool) -> Value {
    let maintain = site.groups().iter().any(|group| group.scope != FleetScope::Launch);
    let spot = site
        .groups()
        .iter()
        .any(|group| group.lifecycle == Lifecycle::Spot || group.spot_fallback_s.is_some());
    let moves = site.groups().iter().any(|group| group.moves_to_on_demand());
    let mut regions: Vec<&str> = site.groups().iter().map(|group| group.account.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    let partition = partition(regions.first().copied().unwrap_or_default());
    let mut templates: Vec<String> = site
        .groups()
        .iter()
        .map(|group| match &group.launch_template.launch_template_id {
            Some(id) => format!("arn:{partition}:ec2:{}:*:launch-template/{id}", group.account.region),
            // Policies name templates by id only; a name is known to EC2 alone.
            None => format!("arn:{partition}:ec2:{}:*:launch-template/*", group.account.region),
        })
        .collect();
    templates.sort();
    templates.dedup();
    let arn = |kind: &str| format!("arn:{partition}:ec2:*:*:{kind}/*");
    let ours = json!({ "aws:ResourceTag/ec2fleet:cluster": site.cluster });
    debug_assert_eq!(tag::CLUSTER, "ec2fleet:cluster");
    let in_regions = json!({ "aws:RequestedRegion": regions });
    let mut reading: Vec<String> = Action::ALL
        .into_iter()
        .filter(|action| action.as_str().starts_with("Describe") || action.as_str().starts_with("Get"))
        .filter(|action| match action.need() {
            Need::Always => true,
            Need::MaintainFleets => maintain,
            Need::MoveToOnDemand => moves,
            Need::Tool => tool,
        })
        .map(|action| format!("ec2:{}", action.as_str()))
        .collect();
    reading.sort();
    let mut statements = vec![
        json!({
            "Sid": "Look",
            "Effect": "Allow",
            "Action": reading,
            "Resource": "*",
            "Condition": { "StringEquals": in_regions },
        }),
        json!({
            "Sid": "Launch",
            "Effect": "Allow",
            "Action": ["ec2:CreateFleet", "ec2:RunInstances"],
            "Resource": "*",
            "Condition": {
                "StringEquals": in_regions,
                "ArnLikeIfExists": { "ec2:LaunchTemplate": templates },
            },
        }),
        json!({
            "Sid": "TagAtLaunch",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": [arn("instance"), arn("volume"), arn("network-interface"), arn("fleet"), arn("spot-instances-request")],
            "Condition": { "StringEquals": { "ec2:CreateAction": ["CreateFleet", "RunInstances"] } },
        }),
        json!({
            "Sid": "TagAndEndOurInstances",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": arn("instance"),
            "Condition": { "StringEquals": ours },
        }),
        json!({
            "Sid": "GiveTheInstancesTheirRole",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": format!("arn:{partition}:iam::*:role/*"),
            "Condition": { "StringEquals": { "iam:PassedToService": ec2_service(partition) } },
        }),
    ];
    if maintain {
        statements.push(json!({
            "Sid": "ChangeAndEndOurFleets",
            "Effect": "Allow",
            "Action": ["ec2:DeleteFleets", "ec2:ModifyFleet"],
            "Resource": arn("fleet"),
            "Condition": { "StringEquals": ours },
        }));
        if spot {
            statements.push(json!({
                "Sid": "CancelSpotRequests",
                "Effect": "Allow",
                "Action": "ec2:CancelSpotInstanceRequests",
                "Resource": arn("spot-instances-request"),
            }));
        }
    }
    if moves {
        statements.extend(move_statements(&site.cluster, &|kind| vec![arn(kind)]));
    }
    let mut services = vec!["ec2fleet.amazonaws.com"];
    if spot {
        services.push("spot.amazonaws.com");
    }
    statements.push(json!({
        "Sid": "FirstFleetOfTheAccount",
        "Effect": "Allow",
        "Action": "iam:CreateServiceLinkedRole",
        "Resource": "*",
        "Condition": { "StringEquals": { "iam:AWSServiceName": services } },
    }));
    if tool {
        statements.push(json!({
            "Sid": "ExplainDenials",
            "Effect": "Allow",
            "Action": "sts:DecodeAuthorizationMessage",
            "Resource": "*",
        }));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// AWS partition of a region (AWS General Reference, "Amazon Resource Names").
fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

fn ec2_service(partition: &str) -> &'static str {
    if partition == "aws-cn" { "ec2.amazonaws.com.cn" } else { "ec2.amazonaws.com" }
}

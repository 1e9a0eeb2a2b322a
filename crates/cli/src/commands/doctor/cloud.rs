// SPDX-License-Identifier: GPL-3.0-or-later
//! Credentials, permissions, launch templates, images, types, subnets.

use std::collections::BTreeMap;

use super::probe::{Aws, Permission};
use super::{Checks, Inputs, Verdict};
use crate::survey::GroupSurvey;
use ec2fleet_core::ec2_api::{CloudError, ErrorClass};
use ec2fleet_core::fleet_spec::SpotOptions;
use ec2fleet_core::site::{NodeGroup, NodeNaming, Site};
use ec2fleet_ec2::catalog::{self, InstanceType};

/// Most memory of a type that can hibernate on Linux, MiB (EC2 user guide, "Prerequisites for EC2 instance hibernation").
const MAX_HIBERNATION_MIB: u64 = 150 * 1024;

type Problems = Vec<(Verdict, String, String)>;

const IDS: [&str; 11] = [
    "credentials",
    "clock",
    "permissions",
    "launch-template",
    "image",
    "instance-types",
    "instance-tags",
    "node-size",
    "hibernation",
    "subnets",
    "free-addresses",
];

pub fn judge(inputs: &Inputs, checks: &mut Checks) {
    let (Some(aws), Ok(loaded)) = (&inputs.aws, &inputs.config) else {
        let why = if inputs.config.is_err() {
            "the configuration has errors"
        } else {
            "EC2 was not asked (--offline)"
        };
        for id in IDS {
            checks.skip(id, why);
        }
        return;
    };
    judge_site(aws, &loaded.site, checks);
}

/// What AWS says about a site.
pub fn judge_site(aws: &Aws, site: &Site, checks: &mut Checks) {
    credentials(aws, checks);
    permissions(aws, checks);
    each(site, aws, checks, "launch-template", launch_template);
    each(site, aws, checks, "image", image);
    each(site, aws, checks, "instance-types", instance_types);
    each(site, aws, checks, "instance-tags", instance_tags);
    each(site, aws, checks, "node-size", node_size);
    each(site, aws, checks, "hibernation", hibernation);
    each(site, aws, checks, "subnets", subnets);
    free_addresses(site, aws, checks);
}

fn each(
    site: &Site,
    aws: &Aws,
    checks: &mut Checks,
    id: &str,
    judge: fn(&NodeGroup, &GroupSurvey, &mut Problems),
) {
    let mut problems = Problems::new();
    for group in site.groups() {
        let Some(survey) = aws.survey.get(&group.stem()) else { continue };
        let mut found = Problems::new();
        judge(group, survey, &mut found);
        let stem = group.stem();
        problems.extend(found.into_iter().map(|(verdict, what, remedy)| {
            (verdict, format!("{stem}: {}", what.replace(HERE, &path_of(site, group))), remedy)
        }));
    }
    checks.unless(id, problems, format!("{} node groups", site.groups().len()));
}

/// Stands for the group's place in partitions.json.
const HERE: &str = "{group}";

fn path_of(site: &Site, group: &NodeGroup) -> String {
    let partition = site.partitions.iter().position(|partition| partition.name == group.partition);
    let index = |at: usize| site.partitions[at].groups.iter().position(|name| *name == group.name);
    match partition.and_then(|at| Some((at, index(at)?))) {
        Some((partition, index)) => format!("$.Partitions[{partition}].NodeGroups[{index}]"),
        None => group.stem(),
    }
}

/// An answer, or the failure as a problem.
fn answered<'a, T>(answer: &'a Result<T, CloudError>, what: &str, problems: &mut Problems) -> Option<&'a T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            let (verdict, remedy) = match error.class {
                ErrorClass::NotFound | ErrorClass::Configuration => {
                    (Verdict::Error, "Correct it in partitions.json.")
                }
                ErrorClass::Permission => {
                    (Verdict::Warning, "Allow it: `ec2fleet iam-policy` prints a policy.")
                }
                _ => (Verdict::Warning, "Run the check again."),
            };
            problems.push((verdict, format!("{what}: {error}"), remedy.into()));
            None
        }
    }
}

fn credentials(aws: &Aws, checks: &mut Checks) {
    let mut problems = Problems::new();
    let mut clock = Problems::new();
    let mut who = Vec::new();
    for (account, caller) in &aws.callers {
        match caller {
            Ok(caller) => who.push(format!("{account}: {}", caller.arn)),
            Err(error) if is_clock(error) => clock.push((
                Verdict::Error,
                format!("{account}: {error}"),
                "Set the clock: run chrony or systemd-timesyncd.".into(),
            )),
            Err(error) => problems.push((
                Verdict::Error,
                format!("{account}: {error}"),
                "Give this machine an instance profile, or SlurmUser a profile in ~/.aws and its name as ProfileName.".into(),
            )),
        }
    }
    if who.is_empty() && problems.is_empty() {
        checks.skip("credentials", "the clock is wrong");
    } else {
        checks.unless("credentials", problems, who.join("; "));
    }
    checks.unless("clock", clock, "AWS accepts our signatures' times");
}

/// Codes with which AWS refuses a signature's time (Signature Version 4 troubleshooting).
fn is_clock(error: &CloudError) -> bool {
    matches!(error.code.as_str(), "RequestExpired" | "RequestTimeTooSkewed")
        || error.message.contains("Signature not yet current")
        || error.message.contains("Signature expired")
}

fn permissions(aws: &Aws, checks: &mut Checks) {
    let mut problems = Problems::new();
    // One line for an action, whichever groups it is denied for.
    let mut denied: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for Permission { group, action, verdict, decoded } in &aws.permissions {
        match verdict {
            Ok(catalog::Verdict::Allowed) => {}
            Ok(catalog::Verdict::Denied { reason, .. }) => {
                let reason =
                    decoded.as_ref().map_or_else(|| reason.clone(), |decoded| format!("{reason} {decoded}"));
                denied.entry((action.as_str().to_owned(), reason)).or_default().push(group);
            }
            Ok(catalog::Verdict::Unclear { code, message }) => problems.push((
                Verdict::Info,
                format!("ec2:{} for {group} could not be tried: {code}: {message}", action.as_str()),
                String::new(),
            )),
            Err(error) => problems.push((
                Verdict::Warning,
                format!("ec2:{} for {group} could not be asked: {error}", action.as_str()),
                "Run the check again.".into(),
            )),
        }
    }
    for ((action, reason), groups) in denied {
        problems.push((
            Verdict::Error,
            format!("ec2:{action} is denied for {}: {reason}", groups.join(", ")),
            "Allow it: `ec2fleet iam-policy` prints a policy.".into(),
        ));
    }
    checks.unless("permissions", problems, format!("{} dry runs", aws.permissions.len()));
}

fn launch_template(_group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Some(template) = answered(&survey.template, "launch template", problems) else { return };
    let name = format!("{} version {}", template.name, template.version);
    if let Some(market) = &template.market {
        problems.push((
            Verdict::Error,
            format!("{name} sets InstanceMarketOptions ({market}), which a fleet refuses"),
            "Remove it: PurchasingOption in partitions.json decides.".into(),
        ));
    }
    if !template.subnet_ids.is_empty() {
        problems.push((
            Verdict::Warning,
            format!("{name} names the subnet {}", template.subnet_ids.join(", ")),
            "Leave it to SubnetIds in partitions.json.".into(),
        ));
    }
    if !template.network_interface_ids.is_empty() {
        problems.push((
            Verdict::Error,
            format!(
                "{name} names the network interface {}: only one instance can have it",
                template.network_interface_ids.join(", ")
            ),
            "Remove it from the launch template.".into(),
        ));
    }
    if template.termination_protection {
        problems.push((
            Verdict::Error,
            format!("{name} protects its instances from termination: they could not be powered down"),
            "Set DisableApiTermination to false in the launch template.".into(),
        ));
    }
    if template.image_id.is_none() {
        problems.push((
            Verdict::Error,
            format!("{name} names no image"),
            "Add ImageId to the launch template, or to every entry of LaunchTemplateOverrides.".into(),
        ));
    }
}

fn image(_group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Some(images) = answered(&survey.images, "image", problems) else { return };
    if let Ok(template) = &survey.template
        && let Some(id) = template.image_id.as_ref().filter(|id| id.starts_with("ami-"))
        && !images.iter().any(|image| image.id == *id)
    {
        problems.push((
            Verdict::Error,
            format!("image {id} does not exist, or this account may not use it"),
            "Correct the launch template, or have the image shared.".into(),
        ));
    }
    for image in images {
        if image.state != "available" {
            problems.push((
                Verdict::Error,
                format!("image {} is {}", image.id, image.state),
                "Use another image.".into(),
            ));
        }
        let strangers: Vec<&str> = survey
            .types
            .iter()
            .flatten()
            .filter(|t| !t.architectures.contains(&image.architecture))
            .map(|t| t.name.as_str())
            .collect();
        if !strangers.is_empty() {
            problems.push((
                Verdict::Error,
                format!(
                    "image {} is for {}, which {} cannot run",
                    image.id,
                    image.architecture,
                    strangers.join(", ")
                ),
                "Give these types another group with an image of their architecture.".into(),
            ));
        }
    }
}

fn instance_types(_group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Some(types) = answered(&survey.types, "instance types", problems) else { return };
    if !survey.unknown_types.is_empty() {
        problems.push((
            Verdict::Error,
            format!("the region does not have {}", survey.unknown_types.join(", ")),
            "Correct LaunchTemplateOverrides.".into(),
        ));
    }
    if types.is_empty() && survey.unknown_types.is_empty() {
        problems.push((
            Verdict::Error,
            "no instance type fits".into(),
            "Name types in LaunchTemplateOverrides, or widen InstanceRequirements.".into(),
        ));
    }
    let (Ok(offerings), Ok(subnets)) = (&survey.offerings, &survey.subnets) else { return };
    for subnet in subnets {
        let absent: Vec<&str> = types
            .iter()
            .filter(|t| {
                !offerings.iter().any(|offer| offer.instance_type == t.name && offer.zone == subnet.zone)
            })
            .map(|t| t.name.as_str())
            .collect();
        if absent.is_empty() {
            continue;
        }
        let all = absent.len() == types.len();
        problems.push((
            if all { Verdict::Error } else { Verdict::Warning },
            format!("{} is not offered in {} ({})", absent.join(", "), subnet.zone, subnet.id),
            "EC2 launches nothing there; remove the subnet or the type.".into(),
        ));
    }
}

fn instance_tags(group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Ok(template) = &survey.template else { return };
    if template.metadata.endpoint.as_deref() == Some("disabled") {
        problems.push((
            Verdict::Warning,
            "instance metadata is switched off in the launch template".into(),
            "Set MetadataOptions.HttpEndpoint to enabled: nodes learn their name there.".into(),
        ));
    } else if template.metadata.instance_tags.as_deref() != Some("enabled")
        && group.naming == NodeNaming::LaunchIndex
    {
        problems.push((
            Verdict::Warning,
            "instance metadata does not show tags, so a node has to find itself by its address".into(),
            "Set MetadataOptions.InstanceMetadataTags to enabled in the launch template.".into(),
        ));
    }
}

fn specified(group: &NodeGroup, key: &str) -> Option<u64> {
    let (_, value) = group.slurm_specifications.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
    value.trim().parse().ok()
}

fn node_size(group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Ok(types) = &survey.types else { return };
    let mut too_small = |key: &str, unit: &str, of: fn(&InstanceType) -> u64| {
        let Some(wanted) = specified(group, key) else { return };
        let small: Vec<String> =
            types.iter().filter(|t| of(t) < wanted).map(|t| format!("{} ({})", t.name, of(t))).collect();
        if !small.is_empty() {
            problems.push((
                Verdict::Error,
                format!("{key}={wanted}, but {} have less{unit}", small.join(", ")),
                format!("Lower {key} in SlurmSpecifications, or remove the smaller types."),
            ));
        }
    };
    too_small("CPUs", "", |t| t.vcpus.into());
    too_small("RealMemory", " MiB", |t| t.memory_mib);
}

fn hibernates(options: &SpotOptions) -> bool {
    options.instance_interruption_behavior.as_ref().is_some_and(|behaviour| {
        serde_json::to_value(behaviour)
            .ok()
            .and_then(|v| v.as_str().map(|v| v == "hibernate"))
            .unwrap_or(false)
    })
}

/// What EC2 asks of instances that it shall hibernate, each complaint with the place in partitions.json that it is about.
fn hibernation(group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    if !hibernates(&group.spot_options) {
        return;
    }
    let Ok(template) = &survey.template else { return };
    if !template.hibernation {
        // With an agent of its own in the image a Spot instance hibernates all the same, and nobody outside sees the agent.
        problems.push((
            Verdict::Warning,
            "{group}.LaunchTemplateSpecification: the launch template does not enable hibernation (HibernationOptions)".into(),
            "Set HibernationOptions.Configured to true in the launch template, unless the image brings its own hibernation agent (`ec2fleet-node check` on an instance).".into(),
        ));
    }
    let types = survey.types.as_deref().unwrap_or_default();
    for kind in types {
        let what = if !kind.hibernation_supported || kind.bare_metal {
            format!("{} cannot hibernate", kind.name)
        } else if kind.memory_mib >= MAX_HIBERNATION_MIB {
            let gib = kind.memory_mib / 1024;
            format!("{} has {gib} GiB of memory, and EC2 hibernates less than 150", kind.name)
        } else {
            continue;
        };
        let place = place_of_type(group, &kind.name);
        problems.push((Verdict::Error, format!("{place}: {what}"), "Remove the type.".into()));
    }
    let memory = types.iter().map(|t| t.memory_mib).max().unwrap_or(0).div_ceil(1024);
    for image in survey.images.iter().flatten() {
        let of_template = template.block_devices.iter().find(|device| device.device == image.root_device);
        let of_image = image.root();
        let encrypted = of_template.and_then(|d| d.encrypted).or_else(|| of_image.and_then(|d| d.encrypted));
        let size = of_template.and_then(|d| d.size_gib).or_else(|| of_image.and_then(|d| d.size_gib));
        // An override's own volume counts for its instances; the template's for all others.
        let mut roots = vec![(format!("{HERE}.LaunchTemplateSpecification"), encrypted, size)];
        for (index, over) in group.overrides.iter().enumerate() {
            let mut devices = over.block_device_mappings.iter().flatten().enumerate();
            let root = devices.find(|(_, d)| d.device_name.as_deref() == Some(image.root_device.as_str()));
            if let Some((device, ebs)) = root.and_then(|(at, device)| Some((at, device.ebs.as_ref()?))) {
                let place =
                    format!("{HERE}.LaunchTemplateOverrides[{index}].BlockDeviceMappings[{device}].Ebs");
                let own = ebs.volume_size.and_then(|gib| u32::try_from(gib).ok());
                roots.push((place, ebs.encrypted.or(encrypted), own.or(size)));
            }
        }
        for (place, encrypted, size) in roots {
            // Where the account encrypts by default, neither says so.
            if encrypted != Some(true) {
                problems.push((
                    Verdict::Warning,
                    format!("{place}: the root volume of image {} is not said to be encrypted", image.id),
                    "Encrypt it (Encrypted: true), unless the account encrypts new volumes by default."
                        .into(),
                ));
            }
            if let Some(size) = size
                && u64::from(size) <= memory
            {
                problems.push((
                    Verdict::Error,
                    format!("{place}: the root volume of {size} GiB has no room for {memory} GiB of memory"),
                    "Make the volume larger than the memory and what the system needs.".into(),
                ));
            }
        }
    }
}

/// Where partitions.json names the type; by its requirements if it names none.
fn place_of_type(group: &NodeGroup, name: &str) -> String {
    let named = group.overrides.iter().position(|over| over.instance_type.as_deref() == Some(name));
    let described = group.overrides.iter().position(|over| over.instance_requirements.is_some());
    match (named, described) {
        (Some(index), _) => format!("{HERE}.LaunchTemplateOverrides[{index}].InstanceType"),
        (None, Some(index)) => format!("{HERE}.LaunchTemplateOverrides[{index}].InstanceRequirements"),
        (None, None) => format!("{HERE}.LaunchTemplateSpecification"),
    }
}

fn subnets(group: &NodeGroup, survey: &GroupSurvey, problems: &mut Problems) {
    let Some(subnets) = answered(&survey.subnets, "subnets", problems) else { return };
    let missing: Vec<&str> = group
        .subnet_ids
        .iter()
        .filter(|id| !subnets.iter().any(|subnet| subnet.id == **id))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        problems.push((
            Verdict::Error,
            format!("{} does not exist in {}", missing.join(", "), group.account.region),
            "Correct SubnetIds.".into(),
        ));
    }
    let mut zones: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for subnet in subnets {
        zones.entry(&subnet.zone).or_default().push(&subnet.id);
        if subnet.state != "available" {
            problems.push((
                Verdict::Error,
                format!("{} is {}", subnet.id, subnet.state),
                "Wait, or use another subnet.".into(),
            ));
        }
    }
    for (zone, ids) in zones.iter().filter(|(_, ids)| ids.len() > 1) {
        problems.push((
            Verdict::Error,
            format!("{} are all in {zone}", ids.join(", ")),
            "EC2 refuses a fleet with two subnets of one zone: keep one of them.".into(),
        ));
    }
}

/// Groups share subnets, so they are added up: every group may have all its nodes up at once.
fn free_addresses(site: &Site, aws: &Aws, checks: &mut Checks) {
    let mut free: BTreeMap<&str, u32> = BTreeMap::new();
    let mut problems = Problems::new();
    let mut sets: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
    for group in site.groups() {
        let Some(survey) = aws.survey.get(&group.stem()) else { continue };
        for subnet in survey.subnets.iter().flatten() {
            let count = free.entry(&subnet.id).or_insert(subnet.free_addresses);
            *count = subnet.free_addresses.min(*count);
        }
        let mut ids: Vec<&str> = group.subnet_ids.iter().map(String::as_str).collect();
        ids.sort_unstable();
        *sets.entry(ids).or_default() += u64::from(group.max_nodes);
    }
    for (ids, nodes) in sets {
        let known: Vec<u32> = ids.iter().filter_map(|id| free.get(id).copied()).collect();
        if known.len() < ids.len() {
            continue;
        }
        let room: u64 = known.iter().map(|count| u64::from(*count)).sum();
        if room < nodes {
            problems.push((
                Verdict::Warning,
                format!("{} have {room} free addresses for up to {nodes} nodes", ids.join(", ")),
                "Add subnets, or lower MaxNodes.".into(),
            ));
        }
    }
    checks.unless("free-addresses", problems, "enough for all nodes");
}

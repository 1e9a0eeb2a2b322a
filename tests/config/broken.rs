// SPDX-License-Identifier: GPL-3.0-or-later
//! Broken configurations, each reported at the right place, all errors at once.

use std::path::Path;

use ec2fleet_config::{ConfigErrors, Loaded, SlurmFacts};
use serde_json::{Value, json};

use crate::accepted::slurm;

pub fn base_config() -> Value {
    json!({
        "LogLevel": "INFO",
        "LogFileName": "/var/log/slurm/ec2fleet.log",
        "SlurmBinPath": "/usr/bin",
        "SlurmConf": { "PrivateData": "CLOUD", "ResumeTimeout": 300, "SuspendTimeout": 60, "SuspendTime": 400 }
    })
}

pub fn base_partitions() -> Value {
    json!({ "Partitions": [
        {
            "PartitionName": "cloud",
            "NodeGroups": [
                {
                    "NodeGroupName": "od",
                    "MaxNodes": 10,
                    "Region": "us-east-1",
                    "SlurmSpecifications": { "CPUs": "4", "Weight": 1 },
                    "PurchasingOption": "on-demand",
                    "OnDemandOptions": { "AllocationStrategy": "lowest-price" },
                    "LaunchTemplateSpecification": { "LaunchTemplateName": "node", "Version": "$Latest" },
                    "LaunchTemplateOverrides": [{ "InstanceType": "c5.xlarge" }, { "InstanceType": "c4.xlarge" }],
                    "SubnetIds": ["subnet-11111111", "subnet-22222222"],
                    "Tags": [{ "Key": "Project", "Value": "{node_name}" }]
                },
                {
                    "NodeGroupName": "spot",
                    "MaxNodes": 100,
                    "Region": "us-east-1",
                    "SlurmSpecifications": { "CPUs": "4", "Weight": "2" },
                    "PurchasingOption": "spot",
                    "SpotOptions": { "AllocationStrategy": "lowest-price" },
                    "LaunchTemplateSpecification": { "LaunchTemplateId": "lt-0abc", "Version": "3" },
                    "LaunchTemplateOverrides": [{ "InstanceType": "c5.xlarge" }],
                    "SubnetIds": ["subnet-11111111"]
                }
            ],
            "PartitionOptions": { "Default": "yes" }
        }
    ] })
}

pub fn check_values(config: &Value, partitions: &Value, slurm: &SlurmFacts) -> Result<Loaded, ConfigErrors> {
    check_texts(&config.to_string(), &partitions.to_string(), slurm)
}

pub fn check_texts(config: &str, partitions: &str, slurm: &SlurmFacts) -> Result<Loaded, ConfigErrors> {
    ec2fleet_config::check(Path::new("/etc/slurm"), Ok(config.into()), Ok(partitions.into()), slurm)
}

pub enum Edit {
    Set(&'static str, Value),
    Remove(&'static str),
}
use Edit::{Remove, Set};

/// The JSON pointer of the parent, and the last step.
fn parent<'a, 'b>(root: &'a mut Value, pointer: &'b str) -> (&'a mut Value, &'b str) {
    let (parent, last) = pointer.rsplit_once('/').expect("a JSON pointer");
    (root.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {parent}")), last)
}

/// Applies an edit; pointers that start with `/config` are of config.json, the others of the first partition.
pub fn apply(config: &mut Value, partitions: &mut Value, edit: &Edit) {
    let (Set(pointer, _) | Remove(pointer)) = edit;
    let (root, pointer) = match pointer.strip_prefix("/config") {
        Some(rest) => (config, rest.to_owned()),
        None => (partitions, format!("/Partitions/0{pointer}")),
    };
    let (parent, last) = parent(root, &pointer);
    match (edit, parent) {
        (Set(_, value), Value::Array(items)) => match last {
            "-" => items.push(value.clone()),
            i => items[i.parse::<usize>().unwrap()] = value.clone(),
        },
        (Set(_, value), Value::Object(map)) => {
            map.insert(last.to_owned(), value.clone());
        }
        (Remove(_), Value::Object(map)) => assert!(map.remove(last).is_some(), "{last}"),
        (_, parent) => panic!("cannot edit {parent}"),
    }
}

type Case = (Vec<Edit>, Vec<&'static str>);

const GROUPS: &str = "$.Partitions[0].NodeGroups";

/// `@0` and `@1` in expected paths stand for the two node groups.
fn expand(path: &str) -> String {
    match path.strip_prefix('@') {
        Some(rest) => {
            let (index, rest) = rest.split_at(1);
            format!("{GROUPS}[{index}]{rest}")
        }
        None => path.to_owned(),
    }
}

fn spot_tag(count: usize) -> Value {
    (0..count).map(|i| json!({ "Key": format!("key{i}"), "Value": "v" })).collect()
}

fn types(count: usize) -> Value {
    (0..count).map(|i| json!({ "InstanceType": format!("c{i}.large") })).collect()
}

fn subnets(count: usize) -> Value {
    (0..count).map(|i| json!(format!("subnet-{i:08x}"))).collect()
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let hibernate = || json!({ "InstanceInterruptionBehavior": "hibernate" });
    vec![
        // Missing keys.
        (vec![Remove("/PartitionName")], vec!["$.Partitions[0].PartitionName"]),
        (vec![Remove("/NodeGroups")], vec!["$.Partitions[0].NodeGroups"]),
        (vec![Remove("/NodeGroups/0/NodeGroupName")], vec!["@0.NodeGroupName"]),
        (vec![Remove("/NodeGroups/0/MaxNodes")], vec!["@0.MaxNodes"]),
        (vec![Remove("/NodeGroups/0/Region")], vec!["@0.Region"]),
        (vec![Remove("/NodeGroups/0/SlurmSpecifications")], vec!["@0.SlurmSpecifications"]),
        (vec![Remove("/NodeGroups/0/PurchasingOption")], vec!["@0.PurchasingOption"]),
        (vec![Remove("/NodeGroups/0/LaunchTemplateSpecification")], vec!["@0.LaunchTemplateSpecification"]),
        (vec![Remove("/NodeGroups/0/LaunchTemplateOverrides")], vec!["@0.LaunchTemplateOverrides"]),
        (vec![Remove("/NodeGroups/0/SubnetIds")], vec!["@0.SubnetIds"]),
        (vec![Remove("/NodeGroups/0/Tags/0/Key")], vec!["@0.Tags[0].Key"]),
        (vec![Remove("/NodeGroups/0/Tags/0/Value")], vec!["@0.Tags[0].Value"]),
        // Wrong types.
        (vec![Set("/PartitionName", json!(7))], vec!["$.Partitions[0].PartitionName"]),
        (vec![Set("/NodeGroups", json!({}))], vec!["$.Partitions[0].NodeGroups"]),
        (vec![Set("/NodeGroups/0", json!("od"))], vec!["@0"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!("10"))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!(10.5))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!(true))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", Value::Null)], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications", json!([]))], vec!["@0.SlurmSpecifications"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications/CPUs", json!([4]))], vec!["@0.SlurmSpecifications.CPUs"]),
        (vec![Set("/NodeGroups/0/OnDemandOptions", json!([]))], vec!["@0.OnDemandOptions"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", json!({ "InstanceType": "c5.large" }))], vec!["@0.LaunchTemplateOverrides"]),
        (vec![Set("/NodeGroups/0/SubnetIds/1", json!(2))], vec!["@0.SubnetIds[1]"]),
        (vec![Set("/NodeGroups/0/SubnetIds", json!("subnet-11111111"))], vec!["@0.SubnetIds"]),
        (vec![Set("/NodeGroups/0/Tags", json!({ "Project": "x" }))], vec!["@0.Tags"]),
        (vec![Set("/NodeGroups/0/Tags/0/Value", json!(1))], vec!["@0.Tags[0].Value"]),
        (vec![Set("/NodeGroups/0/AllOrNothing", json!("yes"))], vec!["@0.AllOrNothing"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateSpecification/Version", json!(3))], vec!["@0.LaunchTemplateSpecification.Version"]),
        (vec![Set("/PartitionOptions", json!("Default=yes"))], vec!["$.Partitions[0].PartitionOptions"]),
        (vec![Set("/config/SlurmConf", json!([]))], vec!["$.SlurmConf"]),
        (vec![Set("/config/LogFileName", json!(1))], vec!["$.LogFileName"]),
        // Out of range.
        (vec![Set("/NodeGroups/0/MaxNodes", json!(0))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!(-3))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!(65_537))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups/0/MaxNodes", json!(18_446_744_073_709_551_615_u64))], vec!["@0.MaxNodes"]),
        (vec![Set("/NodeGroups", json!([]))], vec!["$.Partitions[0].NodeGroups"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", json!([]))], vec!["@0.LaunchTemplateOverrides"]),
        (vec![Set("/NodeGroups/0/SubnetIds", json!([]))], vec!["@0.SubnetIds"]),
        (vec![Set("/NodeGroups/0/ProfileName", json!(""))], vec!["@0.ProfileName"]),
        (vec![Set("/NodeGroups/1/SpotFallbackSec", json!(90_000))], vec!["@1.SpotFallbackSec"]),
        (vec![Set("/NodeGroups/1/NodeWeights", json!(2))], vec!["@1.NodeWeights"]),
        (vec![Set("/NodeGroups/1/NodeWeights", json!({"spot": 2}))], vec!["@1.NodeWeights['on-demand']"]),
        (vec![Set("/NodeGroups/1/NodeWeights", json!({"spot": -1, "on-demand": 4_294_967_294u32}))], vec!["@1.NodeWeights.spot", "@1.NodeWeights['on-demand']"]),
        (vec![Set("/config/RescanSec", json!(0))], vec!["$.RescanSec"]),
        (vec![Set("/config/MaxFleetNodes", json!(20_000))], vec!["$.MaxFleetNodes"]),
        (vec![Set("/config/MetricsPort", json!(70_000))], vec!["$.MetricsPort"]),
        (vec![Set("/config/SlurmConf/ResumeTimeout", json!(65_534))], vec!["$.SlurmConf.ResumeTimeout"]),
        (vec![Set("/config/SlurmConf/ResumeRate", json!("many"))], vec!["$.SlurmConf.ResumeRate"]),
        (vec![Set("/config/SlurmConf/SuspendTime", json!("never"))], vec!["$.SlurmConf.SuspendTime"]),
        // Not an allowed value.
        (vec![Set("/config/LogLevel", json!("debug"))], vec!["$.LogLevel"]),
        (vec![Set("/config/LogFormat", json!("xml"))], vec!["$.LogFormat"]),
        (vec![Set("/NodeGroups/0/PurchasingOption", json!("ondemand"))], vec!["@0.PurchasingOption"]),
        (vec![Set("/NodeGroups/0/OnDemandOptions/AllocationStrategy", json!("lowestPrice"))], vec!["@0.OnDemandOptions.AllocationStrategy"]),
        (vec![Set("/NodeGroups/1/SpotOptions/AllocationStrategy", json!("prioritized"))], vec!["@1.SpotOptions.AllocationStrategy"]),
        (vec![Set("/NodeGroups/1/SpotOptions/InstanceInterruptionBehavior", json!("sleep"))], vec!["@1.SpotOptions.InstanceInterruptionBehavior"]),
        (vec![Set("/NodeGroups/0/FleetScope", json!("cluster"))], vec!["@0.FleetScope"]),
        (vec![Set("/NodeGroups/0/NodeNaming", json!("Name"))], vec!["@0.NodeNaming"]),
        (vec![Set("/NodeGroups/0/AfterMaxHibernation", json!(1))], vec!["@0.AfterMaxHibernation"]),
        // Names and formats.
        (vec![Set("/PartitionName", json!("my-part"))], vec!["$.Partitions[0].PartitionName"]),
        (vec![Set("/PartitionName", json!(""))], vec!["$.Partitions[0].PartitionName"]),
        (vec![Set("/PartitionName", json!("default"))], vec!["$.Partitions[0].PartitionName"]),
        (vec![Set("/NodeGroups/0/NodeGroupName", json!("a_b"))], vec!["@0.NodeGroupName"]),
        (vec![Set("/NodeGroups/0/NodeGroupName", json!("größe"))], vec!["@0.NodeGroupName"]),
        (vec![Set("/NodeGroups/0/NodeGroupName", json!("a".repeat(57)))], vec!["@0.NodeGroupName"]),
        (vec![Set("/NodeGroups/0/Region", json!("us-east-1a"))], vec!["@0.Region"]),
        (vec![Set("/NodeGroups/0/Region", json!("Virginia"))], vec!["@0.Region"]),
        (vec![Set("/NodeGroups/0/SubnetIds/0", json!("vpc-11111111"))], vec!["@0.SubnetIds[0]"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/1/InstanceType", json!("c5"))], vec!["@0.LaunchTemplateOverrides[1].InstanceType"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/1/InstanceType", json!("C5.XLARGE"))], vec!["@0.LaunchTemplateOverrides[1].InstanceType"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/1/MaxPrice", json!("cheap"))], vec!["@0.LaunchTemplateOverrides[1].MaxPrice"]),
        (vec![Set("/NodeGroups/1/SpotOptions/MaxTotalPrice", json!("0"))], vec!["@1.SpotOptions.MaxTotalPrice"]),
        (vec![Set("/config/StateDir", json!("state"))], vec!["$.StateDir"]),
        (vec![Set("/config/SlurmBinPath", json!("bin"))], vec!["$.SlurmBinPath"]),
        (vec![Set("/config/EndpointUrl", json!("ec2.us-east-1.amazonaws.com"))], vec!["$.EndpointUrl"]),
        // Values that slurm.conf cannot hold.
        (vec![Set("/NodeGroups/0/SlurmSpecifications/Features", json!("a\nb"))], vec!["@0.SlurmSpecifications.Features"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications/Features", json!(""))], vec!["@0.SlurmSpecifications.Features"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications/State", json!("CLOUD"))], vec!["@0.SlurmSpecifications.State"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications/cpus", json!(4))], vec!["@0.SlurmSpecifications.cpus"]),
        (vec![Set("/PartitionOptions/Nodes", json!("ALL"))], vec!["$.Partitions[0].PartitionOptions.Nodes"]),
        (vec![Set("/PartitionOptions/Max Time", json!("1:00"))], vec!["$.Partitions[0].PartitionOptions['Max Time']"]),
        // Duplicates.
        (vec![Set("/NodeGroups/1/NodeGroupName", json!("od"))], vec!["@1.NodeGroupName"]),
        (vec![Set("/NodeGroups/0/SubnetIds/1", json!("subnet-11111111"))], vec!["@0.SubnetIds[1]"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/1/InstanceType", json!("c5.xlarge"))], vec!["@0.LaunchTemplateOverrides[1].InstanceType"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", json!([{}, { "Priority": 1 }]))], vec!["@0.LaunchTemplateOverrides[1]"]),
        (vec![Set("/NodeGroups/0/Tags/-", json!({ "Key": "Project", "Value": "x" }))], vec!["@0.Tags[1].Key"]),
        // Launch templates and overrides.
        (vec![Set("/NodeGroups/0/LaunchTemplateSpecification/LaunchTemplateId", json!("lt-1"))], vec!["@0.LaunchTemplateSpecification"]),
        (vec![Remove("/NodeGroups/0/LaunchTemplateSpecification/LaunchTemplateName")], vec!["@0.LaunchTemplateSpecification"]),
        (vec![Remove("/NodeGroups/0/LaunchTemplateSpecification/Version")], vec!["@0.LaunchTemplateSpecification.Version"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateSpecification/Version", json!("latest"))], vec!["@0.LaunchTemplateSpecification.Version"]),
        (vec![Set("/NodeGroups/1/LaunchTemplateSpecification/LaunchTemplateId", json!("template"))], vec!["@1.LaunchTemplateSpecification.LaunchTemplateId"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateSpecification/LaunchTemplateName", json!("a b c"))], vec!["@0.LaunchTemplateSpecification.LaunchTemplateName"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/InstanceRequirements", json!({ "VCpuCount": { "Min": 1 }, "MemoryMiB": { "Min": 1 } }))], vec!["@0.LaunchTemplateOverrides[0]"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", json!([{ "InstanceRequirements": { "VCpuCount": { "Max": 4 } } }]))],
            vec!["@0.LaunchTemplateOverrides[0].InstanceRequirements.VCpuCount.Min", "@0.LaunchTemplateOverrides[0].InstanceRequirements.MemoryMiB.Min"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/Placement", json!({ "PartitionNumber": "2" }))], vec!["@0.LaunchTemplateOverrides[0].Placement.PartitionNumber"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/AvailabilityZone", json!("eu-west-1a"))], vec!["@0.LaunchTemplateOverrides[0].AvailabilityZone"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/BlockDeviceMappings", json!([{ "Ebs": { "VolumeSize": 0 } }]))],
            vec!["@0.LaunchTemplateOverrides[0].BlockDeviceMappings[0].Ebs.VolumeSize"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", types(301)), Set("/NodeGroups/0/SubnetIds", subnets(1))], vec!["@0.LaunchTemplateOverrides"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", types(101)), Set("/NodeGroups/0/SubnetIds", subnets(3))], vec!["@0.LaunchTemplateOverrides"]),
        // Tags.
        (vec![Set("/NodeGroups/0/Tags/0/Key", json!("aws:project"))], vec!["@0.Tags[0].Key"]),
        (vec![Set("/NodeGroups/0/Tags/0/Key", json!("EC2Fleet:cluster"))], vec!["@0.Tags[0].Key"]),
        (vec![Set("/NodeGroups/0/Tags/0/Key", json!("k".repeat(129)))], vec!["@0.Tags[0].Key"]),
        (vec![Set("/NodeGroups/0/Tags/0/Value", json!("v".repeat(257)))], vec!["@0.Tags[0].Value"]),
        (vec![Set("/NodeGroups/0/Tags/0/Value", json!("{ip_address}".repeat(20)))], vec!["@0.Tags[0].Value"]),
        (vec![Set("/NodeGroups/0/Tags", spot_tag(41))], vec!["@0.Tags"]),
        // Keys that exclude or need each other.
        (vec![Set("/NodeGroups/1/SpotOptions/MinTargetCapacity", json!(2))], vec!["@1.SpotOptions.MinTargetCapacity"]),
        (vec![Set("/NodeGroups/0/OnDemandOptions/MinTargetCapacity", json!(1001)), Set("/NodeGroups/0/OnDemandOptions/SingleInstanceType", json!(true))], vec!["@0.OnDemandOptions.MinTargetCapacity"]),
        (vec![Set("/NodeGroups/1/SpotOptions", json!({ "AllocationStrategy": "diversified", "InstancePoolsToUseCount": 2 }))], vec!["@1.SpotOptions.InstancePoolsToUseCount"]),
        (vec![Set("/NodeGroups/1/SpotOptions/MaintenanceStrategies", json!({ "CapacityRebalance": { "ReplacementStrategy": "launch" } }))], vec!["@1.SpotOptions.MaintenanceStrategies"]),
        (vec![Set("/NodeGroups/1/FleetScope", json!("group")), Set("/NodeGroups/1/SpotOptions/MaintenanceStrategies", json!({ "CapacityRebalance": { "ReplacementStrategy": "launch-before-terminate" } }))],
            vec!["@1.SpotOptions.MaintenanceStrategies.CapacityRebalance.TerminationDelay"]),
        (vec![Set("/NodeGroups/0/AllOrNothing", json!(true)), Set("/config/MaxFleetNodes", json!(2000))], vec!["@0.AllOrNothing"]),
        (vec![Set("/NodeGroups/1/AllOrNothing", json!(true)), Set("/NodeGroups/1/FleetScope", json!("node"))], vec!["@1.AllOrNothing"]),
        (vec![Set("/NodeGroups/0/SpotOptions", hibernate())], vec!["@0.SpotOptions.InstanceInterruptionBehavior"]),
        (vec![Set("/NodeGroups/1/SpotOptions", hibernate()), Set("/NodeGroups/1/FleetScope", json!("launch"))], vec!["@1.FleetScope"]),
        (vec![Set("/NodeGroups/1/SpotOptions", hibernate()), Set("/NodeGroups/1/MaxNodes", json!(1001))], vec!["@1.MaxNodes"]),
        (vec![Set("/NodeGroups/1/SpotOptions", hibernate()), Set("/NodeGroups/1/FleetScope", json!("group")), Set("/NodeGroups/1/MaxHibernationMin", json!(5)), Set("/NodeGroups/1/AfterMaxHibernation", json!("on-demand"))], vec!["@1.AfterMaxHibernation"]),
        (vec![Set("/NodeGroups/0/FleetScope", json!("node")), Set("/NodeGroups/0/MaxNodes", json!(500)), Set("/NodeGroups/1/FleetScope", json!("node")), Set("/NodeGroups/1/MaxNodes", json!(501))], vec!["@1.MaxNodes"]),
        (vec![Set("/config/BatchIdleMs", json!(2000))], vec!["$.BatchIdleMs"]),
        (vec![Set("/config/BatchMaxMs", json!(10))], vec!["$.BatchMaxMs"]),
        // Many at once, in both files.
        (vec![
            Set("/config/LogLevel", json!("LOUD")),
            Set("/config/StateDir", json!("x")),
            Set("/PartitionName", json!("a b")),
            Set("/NodeGroups/0/MaxNodes", json!("x")),
            Set("/NodeGroups/0/Region", json!("x")),
            Set("/NodeGroups/0/SubnetIds/0", json!(1)),
            Set("/NodeGroups/0/SubnetIds/1", json!("x")),
            Set("/NodeGroups/0/Tags/0/Key", json!("aws:x")),
            Remove("/NodeGroups/1/PurchasingOption"),
            Set("/NodeGroups/1/NodeGroupName", json!("od")),
            Set("/NodeGroups/1/LaunchTemplateSpecification/Version", json!("x")),
        ], vec![
            "$.LogLevel", "$.StateDir", "$.Partitions[0].PartitionName", "@0.MaxNodes", "@0.Region", "@0.SubnetIds[0]", "@0.SubnetIds[1]",
            "@0.Tags[0].Key", "@1.PurchasingOption", "@1.NodeGroupName", "@1.LaunchTemplateSpecification.Version",
        ]),
    ]
}

#[test]
fn every_broken_configuration_is_reported_at_its_place_and_nowhere_else() {
    let facts = slurm("ClusterName=test");
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (number, (edits, expected)) in cases.iter().enumerate() {
        let (mut config, mut partitions) = (base_config(), base_partitions());
        for edit in edits {
            apply(&mut config, &mut partitions, edit);
        }
        let errors = match check_values(&config, &partitions, &facts) {
            Err(errors) => errors,
            Ok(_) => panic!("case {number} is accepted, expected {expected:?}"),
        };
        let mut found: Vec<String> = errors.errors.iter().map(|e| e.path.to_string()).collect();
        let mut expected: Vec<String> = expected.iter().map(|p| expand(p)).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "case {number}: {errors}");
        for error in &errors.errors {
            assert!(error.what.ends_with('.') && error.what.len() > 10, "case {number}: {error}");
            assert!(error.remedy.len() > 5, "case {number}: {error}");
            assert!(error.line == Some(1) && error.column.is_some(), "case {number}: {error:?}");
            let file = error.file.file_name().unwrap().to_str().unwrap();
            let in_config = !error.path.to_string().starts_with("$.Partitions");
            assert_eq!(file, if in_config { "config.json" } else { "partitions.json" }, "case {number}");
        }
    }
}

#[test]
fn the_unedited_base_is_accepted() {
    let loaded = check_values(&base_config(), &base_partitions(), &slurm("ClusterName=test")).unwrap();
    assert_eq!(loaded.warnings, []);
}

/// Edits that are accepted, each with the places of its warnings.
#[rustfmt::skip]
fn doubtful() -> Vec<Case> {
    vec![
        // Unknown keys at every level.
        (vec![Set("/config/LogLvel", json!("INFO"))], vec!["$.LogLvel"]),
        (vec![Set("/config/SlurmConf/ResumeTimeot", json!(1))], vec!["$.SlurmConf.ResumeTimeot"]),
        (vec![Set("/Comment", json!({ "a": [1, null] }))], vec!["$.Partitions[0].Comment"]),
        (vec![Set("/NodeGroups/0/MaxNode", json!(1))], vec!["@0.MaxNode"]),
        (vec![Set("/NodeGroups/0/Tags/0/Extra", json!(1))], vec!["@0.Tags[0].Extra"]),
        (vec![Set("/NodeGroups/0/OnDemandOptions/AllocationStrategie", json!(1))], vec!["@0.OnDemandOptions.AllocationStrategie"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateSpecification/version", json!("1"))], vec!["@0.LaunchTemplateSpecification.version"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/Placement", json!({ "Group": "g" }))], vec!["@0.LaunchTemplateOverrides[0].Placement.Group"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides", json!([{ "InstanceRequirements": { "VCpuCount": { "Min": 0, "Mx": 1 }, "MemoryMiB": { "Min": 0 } } }]))],
            vec!["@0.LaunchTemplateOverrides[0].InstanceRequirements.VCpuCount.Mx"]),
        (vec![Set("/NodeGroups/0/SlurmSpecifications/Weigth", json!(2))], vec!["@0.SlurmSpecifications.Weigth"]),
        (vec![Set("/PartitionOptions/AllowAcounts", json!("a"))], vec!["$.Partitions[0].PartitionOptions.AllowAcounts"]),
        // Keys without effect.
        (vec![Set("/NodeGroups/0/SpotOptions", json!({}))], vec!["@0.SpotOptions"]),
        (vec![Set("/NodeGroups/1/OnDemandOptions", json!({}))], vec!["@1.OnDemandOptions"]),
        (vec![Set("/NodeGroups/0/SpotFallbackSec", json!(10))], vec!["@0.SpotFallbackSec"]),
        (vec![Set("/NodeGroups/1/SpotFallbackSec", json!(300))], vec!["@1.SpotFallbackSec"]),
        (vec![Set("/NodeGroups/0/NodeWeights", json!({"spot": 2, "on-demand": 1}))], vec!["@0.NodeWeights"]),
        (vec![Set("/NodeGroups/1/NodeWeights", json!({"spot": 2, "on-demand": 1})), Set("/NodeGroups/1/SlurmSpecifications", json!({"Weight": "1"}))], vec!["@1.SlurmSpecifications.Weight"]),
        (vec![Set("/NodeGroups/1/KeepResponding", json!(true)), Set("/NodeGroups/1/WakeTimeoutSec", json!(100))], vec!["@1.KeepResponding", "@1.WakeTimeoutSec"]),
        (vec![Set("/NodeGroups/1/SpotOptions/InstanceInterruptionBehavior", json!("hibernate")), Set("/NodeGroups/1/AfterMaxHibernation", json!("requeue"))], vec!["@1.AfterMaxHibernation"]),
        (vec![Set("/NodeGroups/1/SpotOptions/InstanceInterruptionBehavior", json!("stop"))], vec!["@1.SpotOptions.InstanceInterruptionBehavior"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/SubnetId", json!("subnet-1"))], vec!["@0.LaunchTemplateOverrides[0].SubnetId"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/WeightedCapacity", json!(4))], vec!["@0.LaunchTemplateOverrides[0].WeightedCapacity"]),
        (vec![Set("/NodeGroups/0/LaunchTemplateOverrides/0/MaxPrice", json!("0.1"))], vec!["@0.LaunchTemplateOverrides[0].MaxPrice"]),
        // Probably not what was meant.
        (vec![Set("/NodeGroups/0/Tags/0/Value", json!("{nodename} {x}"))], vec!["@0.Tags[0].Value", "@0.Tags[0].Value"]),
        (vec![Set("/NodeGroups/0/Tags/0/Key", json!("Name"))], vec!["@0.Tags[0].Key"]),
        (vec![Set("/NodeGroups/0/Tags/0/Key", json!("Cost Centre"))], vec!["@0.Tags[0].Key"]),
        (vec![Set("/config/LogFileName", json!("ec2fleet.log"))], vec!["$.LogFileName"]),
        (vec![Set("/config/SlurmConf/PrivateData", json!("jobs"))], vec!["$.SlurmConf.PrivateData"]),
        (vec![Set("/config/SlurmConf/ResumeTimeout", json!(200))], vec!["$.SlurmConf.ResumeTimeout"]),
        (vec![Set("/NodeGroups/1/SpotOptions/MinTargetCapacity", json!(2)), Set("/NodeGroups/1/SpotOptions/SingleInstanceType", json!(true))], vec!["@1.SpotOptions.MinTargetCapacity"]),
    ]
}

#[test]
fn doubtful_keys_are_warned_of_and_the_configuration_still_works() {
    let facts = slurm("ClusterName=test\nResumeTimeout=300\n");
    for (number, (edits, expected)) in doubtful().iter().enumerate() {
        let (mut config, mut partitions) = (base_config(), base_partitions());
        for edit in edits {
            apply(&mut config, &mut partitions, edit);
        }
        let loaded = check_values(&config, &partitions, &facts)
            .unwrap_or_else(|errors| panic!("case {number}: {errors}"));
        let found: Vec<String> = loaded.warnings.iter().map(|w| w.path.to_string()).collect();
        let expected: Vec<String> = expected.iter().map(|p| expand(p)).collect();
        assert_eq!(found, expected, "case {number}: {:?}", loaded.warnings);
    }
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one() {
    for (edit, near) in [
        (Set("/config/LogLvel", json!("INFO")), "LogLevel"),
        (Set("/config/SlurmConf/resumetimeot", json!(1)), "ResumeTimeout"),
        (Set("/Nodegroups", json!([])), "NodeGroups"),
        (Set("/NodeGroups/0/SubnetIDs", json!([])), "SubnetIds"),
        (Set("/NodeGroups/0/LaunchTemplateOverride", json!([])), "LaunchTemplateOverrides"),
        (Set("/NodeGroups/0/SlurmSpecifications/Gress", json!("gpu:1")), "Gres"),
        (Set("/NodeGroups/0/Tags/0/Value", json!("{ipaddress}")), "{ip_address}"),
    ] {
        let (mut config, mut partitions) = (base_config(), base_partitions());
        apply(&mut config, &mut partitions, &edit);
        let loaded = check_values(&config, &partitions, &slurm("ClusterName=test")).unwrap();
        let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
        assert_eq!(warning.remedy, format!("Did you mean {near}?"));
    }
}

#[test]
fn a_renamed_required_key_is_one_error_that_names_the_wrong_spelling() {
    let mut partitions = base_partitions();
    let group = partitions.pointer_mut("/Partitions/0/NodeGroups/0").unwrap().as_object_mut().unwrap();
    let max_nodes = group.remove("MaxNodes").unwrap();
    group.insert("MaxNode".into(), max_nodes);
    let errors = check_values(&base_config(), &partitions, &slurm("ClusterName=test")).unwrap_err();
    assert_eq!(errors.errors.len(), 1, "{errors}");
    assert!(errors.errors[0].remedy.contains("Rename \"MaxNode\" on line 1 to MaxNodes"), "{errors}");
}

#[test]
fn a_duplicate_partition_is_reported() {
    let mut partitions = base_partitions();
    let copy = partitions["Partitions"][0].clone();
    partitions["Partitions"].as_array_mut().unwrap().push(copy);
    let errors = check_values(&base_config(), &partitions, &slurm("ClusterName=test")).unwrap_err();
    let paths: Vec<String> = errors.errors.iter().map(|e| e.path.to_string()).collect();
    assert_eq!(paths, ["$.Partitions[1].PartitionName"]);
}

#[test]
fn a_cluster_without_a_name_is_an_error() {
    let errors = check_values(&base_config(), &base_partitions(), &slurm("")).unwrap_err();
    let paths: Vec<String> = errors.errors.iter().map(|e| e.path.to_string()).collect();
    assert_eq!(paths, ["$.ClusterName"]);
}

/// Text that is not JSON, and where the message must point.
#[test]
fn syntax_errors_name_line_and_column() {
    let cases: Vec<(Vec<u8>, u32, u32, &str)> = vec![
        (b"".to_vec(), 1, 1, "empty"),
        (b"\n  \n".to_vec(), 3, 1, "empty"),
        (b"{".to_vec(), 1, 2, "line 1, column 1"),
        (b"{\n  \"Partitions\": [\n".to_vec(), 3, 1, "array that began on line 2, column 17"),
        (b"{\"Partitions\": [],}".to_vec(), 1, 19, "comma"),
        (b"{\"Partitions\": [{},]}".to_vec(), 1, 20, "comma"),
        (b"{\n// all\n}".to_vec(), 2, 1, "comments"),
        (b"{\n# all\n}".to_vec(), 2, 1, "comments"),
        (b"{'Partitions': []}".to_vec(), 1, 2, "double quotes"),
        ("{\"Partitions\": “x”}".into(), 1, 16, "double quotes"),
        (b"{Partitions: []}".to_vec(), 1, 2, "double quotes"),
        (b"{\"Partitions\" []}".to_vec(), 1, 15, "colon"),
        (b"{\"a\": 1 \"b\": 2}".to_vec(), 1, 9, "comma"),
        (b"[1 2]".to_vec(), 1, 4, "comma"),
        (b"{\"a\": True}".to_vec(), 1, 7, "True"),
        (b"{\"a\": NaN}".to_vec(), 1, 7, "NaN"),
        (b"{\"a\": 01}".to_vec(), 1, 8, "start with 0"),
        (b"{\"a\": -}".to_vec(), 1, 8, "digit"),
        (b"{\"a\": 1.}".to_vec(), 1, 9, "digit"),
        (b"{\"a\": \"x\n\"}".to_vec(), 1, 7, "does not end on its line"),
        (b"{\"a\": \"x".to_vec(), 1, 7, "does not end"),
        (b"{\"a\": \"\\x\"}".to_vec(), 1, 8, "escape"),
        (b"{\"a\": \"\\ud800\"}".to_vec(), 1, 8, "surrogate"),
        (b"{\"a\": \"\t\"}".to_vec(), 1, 8, "control"),
        (b"{} {}".to_vec(), 1, 4, "after the end"),
        (b"{\"a\": \"\xff\"}".to_vec(), 1, 8, "UTF-8"),
        ("{\n\"\u{e9}\u{e9}\": ?}".into(), 2, 7, "value is expected"),
        (b"\xff\xfe{\0}\0".to_vec(), 1, 1, "UTF-8"),
        ("[".repeat(200).into_bytes(), 1, 128, "nested"),
        ("{\"a\":".repeat(100_000).into_bytes(), 1, 636, "nested"),
    ];
    for (text, line, column, phrase) in cases {
        let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
        let errors = ec2fleet_config::check(
            Path::new("/etc/slurm"),
            Ok(base_config().to_string().into()),
            Ok(text),
            &slurm("ClusterName=test"),
        )
        .unwrap_err();
        let [error] = errors.errors.as_slice() else { panic!("{shown}: {errors}") };
        assert_eq!((error.line, error.column), (Some(line), Some(column)), "{shown}: {error}");
        assert!(error.what.contains(phrase), "{shown}: {error}");
    }
}

#[test]
fn wrong_roots_huge_numbers_and_marks() {
    let facts = slurm("ClusterName=test");
    let config = base_config().to_string();
    for (text, path) in [
        ("null", "$"),
        ("[]", "$"),
        ("\"Partitions\"", "$"),
        ("17", "$"),
        ("{}", "$.Partitions"),
        (r#"{"Partitions": {}}"#, "$.Partitions"),
        (r#"{"Partitions": []}"#, "$.Partitions"),
        (r#"{"Partitions": [null]}"#, "$.Partitions[0]"),
        (r#"{"Partitions": 1e999}"#, "$.Partitions"),
    ] {
        let errors = check_texts(&config, text, &facts).unwrap_err();
        let paths: Vec<String> = errors.errors.iter().map(|e| e.path.to_string()).collect();
        assert_eq!(paths, [path], "{text}: {errors}");
    }
    for number in ["1e999", "-1e999", "99999999999999999999999999", "-0", "1e1", "4294967297"] {
        let text =
            base_partitions().to_string().replacen("\"MaxNodes\":10,", &format!("\"MaxNodes\":{number},"), 1);
        let errors = check_texts(&config, &text, &facts).unwrap_err();
        let paths: Vec<String> = errors.errors.iter().map(|e| e.path.to_string()).collect();
        assert_eq!(paths, ["$.Partitions[0].NodeGroups[0].MaxNodes"], "{number}: {errors}");
    }
    let marked = format!("\u{feff}{}", base_partitions());
    check_texts(&config, &marked, &facts).unwrap();
}

#[test]
fn of_duplicate_keys_the_last_counts_with_a_warning() {
    let text = base_partitions().to_string().replacen(
        "\"MaxNodes\":10,",
        "\"MaxNodes\":\"x\",\n\"MaxNodes\":11,",
        1,
    );
    let loaded = check_texts(&base_config().to_string(), &text, &slurm("ClusterName=test")).unwrap();
    assert_eq!(loaded.site.group("cloud-od").unwrap().max_nodes, 11);
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert_eq!(warning.path.to_string(), "$.Partitions[0].NodeGroups[0].MaxNodes");
    assert!(warning.what.contains("first on line 1"), "{warning}");
}

#[test]
fn files_that_cannot_be_read_are_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let errors = ec2fleet_config::load(dir.path(), &slurm("")).unwrap_err();
    let files: Vec<_> = errors.errors.iter().map(|e| e.file.clone()).collect();
    assert_eq!(files, [dir.path().join("config.json"), dir.path().join("partitions.json")]);
    std::fs::create_dir(dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("partitions.json"), base_partitions().to_string()).unwrap();
    let errors = ec2fleet_config::load(dir.path(), &slurm("")).unwrap_err();
    assert_eq!(errors.errors.len(), 1, "{errors}");
    assert_eq!(errors.errors[0].line, None);
}

#[test]
fn lines_and_columns_are_those_of_the_text() {
    let text =
        serde_json::to_string_pretty(&base_partitions()).unwrap().replace("\"us-east-1\"", "\"us-east\"");
    let errors = check_texts(&base_config().to_string(), &text, &slurm("ClusterName=test")).unwrap_err();
    let mut expected = Vec::new();
    for (number, line) in (1_u32..).zip(text.lines()) {
        if let Some(at) = line.find("\"us-east\"") {
            expected.push((Some(number), u32::try_from(at + 1).ok()));
        }
    }
    let found: Vec<_> = errors.errors.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 2);
    let shown = errors.to_string();
    assert!(shown.starts_with("2 configuration errors\n  /etc/slurm/partitions.json:"), "{shown}");
}

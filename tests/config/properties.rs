// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds of every configuration, broken or not.

use std::path::Path;

use ec2fleet_cli::commands::generate::generate;
use ec2fleet_config::{Loaded, SlurmFacts};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::accepted::slurm;
use crate::broken::{base_config, base_partitions, check_texts, check_values};

fn facts() -> SlurmFacts {
    slurm("ClusterName=test\nResumeTimeout=300\nSuspendTimeout=60\n")
}

fn any_string() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9-]{0,70}",
        "\\PC{0,20}",
        prop::sample::select(vec![
            "spot",
            "on-demand",
            "hibernate",
            "node",
            "group",
            "$Latest",
            "us-east-1",
            "{node_name}",
            "{",
            "subnet-1",
            "c5.large",
            "terminate",
            "lowest-price",
            "0.1",
            "Name",
            "aws:x",
            "-1",
            "\"",
            "\n",
            "",
        ])
        .prop_map(str::to_owned),
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "Partitions", "PartitionName", "NodeGroups", "NodeGroupName", "MaxNodes", "Region", "Tags", "Key", "Value",
            "SpotOptions", "OnDemandOptions", "LaunchTemplateOverrides", "InstanceType", "InstanceRequirements",
            "VCpuCount", "Min", "SubnetIds", "SlurmSpecifications", "SlurmConf", "ResumeTimeout", "LogLevel", "Placement",
            "BlockDeviceMappings", "Ebs", "PartitionOptions", "PurchasingOption", "FleetScope", "AllOrNothing",
        ]).prop_map(str::to_owned),
        1 => any_string(),
    ]
}

fn any_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        (-2_i64..1100).prop_map(|n| json!(n)),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any_number(),
        any_string().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((any_key(), inner), 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Every JSON pointer of a document, the root excepted.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), v))
            .collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (format!("{at}/{i}"), v)).collect(),
        _ => Vec::new(),
    };
    for (pointer, child) in children {
        out.push(pointer.clone());
        pointers(child, &pointer, out);
    }
}

/// Everything that can be done with a configuration that was accepted.
fn use_it(loaded: &Loaded) {
    for group in loaded.site.groups() {
        let last = group.node_name(group.max_nodes - 1);
        let (found, index) = loaded.site.locate(&last).expect("every node is located");
        assert_eq!((found.stem(), index), (group.stem(), group.max_nodes - 1));
        assert!(!group.overrides.is_empty() && group.overrides.len() * group.subnet_ids.len() <= 300);
        assert!(group.overrides.iter().all(|o| o.weighted_capacity == Some(1.0) && o.subnet_id.is_none()));
    }
    let generated = generate(loaded, &facts(), None, None, Path::new("/usr/sbin"));
    let read = slurm(&generated.slurm_conf);
    assert_eq!(read.problems, [], "{}", generated.slurm_conf);
    assert_eq!(read.nodes.len(), loaded.site.groups().len());
    for (line, group) in read.nodes.iter().zip(loaded.site.groups()) {
        assert!(line.is_cloud());
        for (key, value) in &group.slurm_specifications {
            assert_eq!(line.get(key), Some(value.as_str()));
        }
    }
    assert_eq!(read.partitions.len(), loaded.site.partitions.len());
    let policy = ec2fleet_config::iam_policy(&loaded.site, &ec2fleet_config::IamPolicyOptions::default());
    assert!(policy["Statement"].is_array());
}

fn try_it(result: Result<Loaded, ec2fleet_config::ConfigErrors>) {
    match result {
        Ok(loaded) => use_it(&loaded),
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            // What passes the schema must pass the types, whatever it is.
            assert!(!errors.to_string().contains("bug"), "{errors}");
        }
    }
}

fn shuffled_keys(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().rev().map(|(k, v)| (k.clone(), shuffled_keys(v))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(shuffled_keys).collect()),
        other => other.clone(),
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z][a-zA-Z0-9]{0,20}".prop_filter("reserved by Slurm", |n| !n.eq_ignore_ascii_case("default"))
}

fn options() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        "[a-zA-Z0-9,:=.+ #\\\\-]{0,20}[a-z]".prop_map(Value::String),
        (0..1000).prop_map(|n| json!(n)),
        any::<bool>().prop_map(Value::Bool),
    ];
    let key = prop::sample::select(vec!["CPUs", "RealMemory", "Features", "Weight", "Reason", "TmpDisk"]);
    prop::collection::btree_map(key, value, 0..5).prop_map(|m| json!(m))
}

fn group() -> impl Strategy<Value = Value> {
    (
        (1_u32..200, any::<bool>(), options(), prop::option::of(1_u32..200), any::<bool>()),
        prop::collection::btree_set("[a-z][0-9][a-z]?\\.(large|xlarge|metal)", 1..6),
        prop::collection::btree_set("subnet-[0-9a-f]{8}", 1..4),
        prop::collection::btree_map("[A-MO-Za-z]{3,10}", "(\\{node_name\\}|\\{hostname\\}|[ -z]){0,5}", 0..4),
    )
        .prop_map(|((max_nodes, spot, specifications, fallback, single), types, subnets, tags)| {
            let mut group = json!({
                "MaxNodes": max_nodes,
                "Region": "eu-west-3",
                "SlurmSpecifications": specifications,
                "PurchasingOption": if spot { "spot" } else { "on-demand" },
                "LaunchTemplateSpecification": { "LaunchTemplateName": "node", "Version": "1" },
                "LaunchTemplateOverrides": types.iter().map(|t| json!({ "InstanceType": t })).collect::<Vec<_>>(),
                "SubnetIds": subnets,
                "Tags": tags.iter().map(|(k, v)| json!({ "Key": k, "Value": v })).collect::<Vec<_>>(),
            });
            let options = if spot { "SpotOptions" } else { "OnDemandOptions" };
            if single {
                group[options] = json!({ "SingleAvailabilityZone": true });
            }
            group["AllOrNothing"] = json!(max_nodes % 2 == 0);
            if let (true, Some(seconds)) = (spot, fallback) {
                group["SpotFallbackSec"] = json!(seconds);
            }
            group
        })
}

fn partitions() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(name(), prop::collection::btree_map(name(), group(), 1..4), 1..4).prop_map(
        |partitions| {
            let list: Vec<Value> = partitions
                .into_iter()
                .map(|(name, groups)| {
                    let groups: Vec<Value> = groups
                        .into_iter()
                        .map(|(name, mut group)| {
                            group["NodeGroupName"] = json!(name);
                            group
                        })
                        .collect();
                    json!({ "PartitionName": name, "NodeGroups": groups })
                })
                .collect();
            json!({ "Partitions": list })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_json_is_answered(config in any_json(), partitions in any_json()) {
        try_it(check_values(&config, &partitions, &facts()));
    }

    #[test]
    fn any_text_is_answered(config in any::<Vec<u8>>(), partitions in "\\PC{0,200}") {
        let dir = std::path::Path::new("/etc/slurm");
        try_it(ec2fleet_config::check(dir, Ok(config), Ok(partitions.into_bytes()), &facts()));
    }

    #[test]
    fn any_damage_to_a_good_configuration_is_answered(
        damage in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), prop::option::of(any_json())), 1..4)
    ) {
        let mut files = [base_config(), base_partitions()];
        for (first, place, value) in damage {
            let file = &mut files[usize::from(!first)];
            let mut places = Vec::new();
            pointers(file, "", &mut places);
            if places.is_empty() {
                continue;
            }
            let place = place.get(&places);
            match value {
                Some(value) => *file.pointer_mut(place).unwrap() = value,
                None => {
                    let (parent, key) = place.rsplit_once('/').unwrap();
                    match file.pointer_mut(parent).unwrap() {
                        Value::Object(map) => { map.remove(&key.replace("~1", "/").replace("~0", "~")); }
                        Value::Array(items) => { items.remove(key.parse().unwrap()); }
                        _ => unreachable!("a parent is a collection"),
                    }
                }
            }
        }
        try_it(check_values(&files[0], &files[1], &facts()));
    }

    #[test]
    fn any_cut_of_a_good_text_is_answered(at in any::<prop::sample::Index>(), insert in "[\\[\\]{},:\"a0-]{0,2}") {
        let text = base_partitions().to_string();
        let at = at.index(text.len());
        try_it(check_texts(&base_config().to_string(), &text[..at], &facts()));
        try_it(check_texts(&base_config().to_string(), &format!("{}{insert}{}", &text[..at], &text[at..]), &facts()));
    }

    #[test]
    fn a_valid_configuration_is_accepted_and_its_layout_does_not_matter(partitions in partitions()) {
        let config = base_config().to_string();
        let loaded = check_texts(&config, &partitions.to_string(), &facts());
        let loaded = loaded.map_err(|e| TestCaseError::fail(e.to_string()))?;
        let expected: Vec<(&str, &str, u64)> = partitions["Partitions"].as_array().unwrap().iter().flat_map(|p| {
            let name = p["PartitionName"].as_str().unwrap();
            p["NodeGroups"].as_array().unwrap().iter()
                .map(move |g| (name, g["NodeGroupName"].as_str().unwrap(), g["MaxNodes"].as_u64().unwrap()))
        }).collect();
        let groups: Vec<(&str, &str, u64)> = loaded.site.groups().iter()
            .map(|g| (g.partition.as_str(), g.name.as_str(), u64::from(g.max_nodes))).collect();
        prop_assert_eq!(groups, expected);
        use_it(&loaded);

        let pretty = serde_json::to_string_pretty(&partitions).unwrap();
        prop_assert_eq!(&check_texts(&config, &pretty, &facts()).unwrap().site, &loaded.site);
        let shuffled = shuffled_keys(&partitions).to_string();
        let again = check_texts(&config, &shuffled, &facts()).unwrap();
        prop_assert_eq!(again.site.groups().len(), loaded.site.groups().len());
        for (a, b) in again.site.groups().iter().zip(loaded.site.groups()) {
            prop_assert_eq!(&a.overrides, &b.overrides);
            prop_assert_eq!(&a.tags, &b.tags);
            prop_assert!(a.slurm_specifications == b.slurm_specifications);
        }
    }

    #[test]
    fn any_slurm_conf_is_read(text in "([A-Za-z]{0,4}[ =#\\\\\"\n]{0,3}|Include x\n|NodeName=a\\[0-9\\] ){0,30}") {
        let read = slurm(&text);
        prop_assert!(read.is_known());
    }
}

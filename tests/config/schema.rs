// SPDX-License-Identifier: GPL-3.0-or-later
//! The committed JSON Schemas are those of the code.

use std::path::Path;

#[test]
fn the_committed_schemas_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    for (name, schema) in
        [("config", ec2fleet_config::config_schema()), ("partitions", ec2fleet_config::partitions_schema())]
    {
        let file = root.join(format!("{name}.schema.json"));
        let current = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("EC2FLEET_WRITE_SCHEMA").is_some() {
            std::fs::write(&file, &current).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == current,
            "{} is not what the code generates: EC2FLEET_WRITE_SCHEMA=1 cargo test --test config schema",
            file.display()
        );
    }
}

#[test]
fn every_key_is_described() {
    fn walk(schema: &serde_json::Value, path: &str, missing: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if property.get("description").is_none() {
                missing.push(format!("{path}.{name}"));
            }
        }
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            // What EC2 defines is described in EC2's own reference.
            if ["Partition", "NodeGroup", "Tag"].contains(&name.as_str()) {
                walk(definition, name, missing);
            }
        }
    }
    let mut missing = Vec::new();
    walk(&ec2fleet_config::config_schema(), "config", &mut missing);
    walk(&ec2fleet_config::partitions_schema(), "partitions", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_key_is_in_the_documentation() {
    let page = include_str!("../../docs/configuration.md");
    let (config, partitions) = (ec2fleet_config::config_schema(), ec2fleet_config::partitions_schema());
    for properties in [
        &config["properties"],
        &partitions["properties"],
        &partitions["$defs"]["Partition"]["properties"],
        &partitions["$defs"]["NodeGroup"]["properties"],
        &partitions["$defs"]["Tag"]["properties"],
    ] {
        for name in properties.as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}

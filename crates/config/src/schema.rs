// SPDX-License-Identifier: GPL-3.0-or-later
//! The JSON Schemas of the two files, made from the types that are read.
//!
//! They are what editors and CI check the files with, and they are what this program itself checks the shape
//! of the files with (`shape`), so that the two cannot disagree.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::file::{ConfigFile, PartitionsFile};

/// JSON Schema (draft 2020-12) of `config.json`.
#[must_use]
pub fn config_schema() -> Value {
    published::<ConfigFile>()
}

/// JSON Schema (draft 2020-12) of `partitions.json`.
#[must_use]
pub fn partitions_schema() -> Value {
    published::<PartitionsFile>()
}

fn published<T: schemars::JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

/// `Option` makes every key nullable, which the files are not: an optional key is left out. Only a null
/// `ProfileName` has always meant the default credentials.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("default").is_some_and(Value::is_null) {
                object.shift_remove("default");
            }
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, property) in properties {
                    if let Value::Object(property) = property
                        && name != "ProfileName"
                    {
                        forbid_null(property);
                    }
                }
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn forbid_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = property.get_mut("anyOf") {
        choices.retain(|c| c.get("type").is_none_or(|t| t != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            property.shift_remove("anyOf");
            for (key, value) in only {
                property.entry(key).or_insert(value);
            }
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Checks a document against a JSON Schema, reports everything that does not fit, and returns what does.
//!
//! It knows the part of JSON Schema that `schema` produces (a test holds that). What remains after
//! the misfits are left out always deserializes, so that the checks across keys still run over it and one
//! reading reports every error.

use serde_json::{Map, Number, Value as Json};

use super::file::{NAME_PATTERN, REGION_PATTERN};
use super::json::{Member, Node, Value};
use super::report::{JsonPath, Report, nearest, one_of, shown};

/// Arrays whose misfits are replaced by null instead of left out, so that the others keep their index.
const KEEP_INDEX: [&str; 5] = ["Partitions", "NodeGroups", "LaunchTemplateOverrides", "SubnetIds", "Tags"];

/// The keywords of JSON Schema that this module acts on.
#[cfg(test)]
const CHECKED_KEYWORDS: [&str; 15] = [
    "type",
    "enum",
    "const",
    "oneOf",
    "$ref",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
];
/// Those that need more than a comparison, and those that only inform.
#[cfg(test)]
const OTHER_KEYWORDS: [&str; 6] = ["pattern", "format", "description", "title", "$schema", "$defs"];

/// Whether a text matches, what is wrong if not, and the remedy.
type PatternRule = (fn(&str) -> bool, &'static str, &'static str);

/// What each pattern of the schema means, for messages and without a regular expression engine.
fn pattern_rule(pattern: &str) -> Option<PatternRule> {
    match pattern {
        NAME_PATTERN => Some((
            |s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric()),
            "is not a name of letters a-z, A-Z and digits only",
            "Leave out every other character: the name becomes part of the node names.",
        )),
        REGION_PATTERN => {
            Some((is_region, "is not the name of an AWS region", "Write a region such as us-east-1."))
        }
        _ => None,
    }
}

fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return false };
    let letters = |s: &&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase());
    first.len() >= 2
        && letters(first)
        && !middle.is_empty()
        && middle.iter().all(letters)
        && !last.is_empty()
        && last.bytes().all(|b| b.is_ascii_digit())
}

/// Checks the report's document against `schema`; what fits of it is returned.
pub(super) fn check(schema: &Json, report: &mut Report) -> Json {
    let Some(root) = report.root().cloned() else { return Json::Null };
    let mut shape = Shape { schema, report };
    shape.duplicates(&root, &JsonPath::root());
    shape.value(schema, &root, &JsonPath::root(), None).unwrap_or(Json::Null)
}

struct Shape<'a> {
    schema: &'a Json,
    report: &'a mut Report,
}

impl<'a> Shape<'a> {
    fn duplicates(&mut self, node: &Node, path: &JsonPath) {
        match &node.value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.duplicates(item, &path.index(i));
                }
            }
            Value::Object(members) => {
                let mut seen = std::collections::HashMap::<&str, u32>::new();
                for member in members {
                    let path = path.key(&member.key);
                    if let Some(line) = seen.insert(&member.key, member.position.line) {
                        self.report.warn(
                            &path,
                            format!("The key {} is written twice, first on line {line}.", shown(&member.key)),
                            "The last one counts. Delete the other.",
                        );
                    }
                    self.duplicates(&member.value, &path);
                }
            }
            _ => {}
        }
    }

    /// The schema with its `$ref` followed; keywords beside a `$ref` are annotations in our schemas.
    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        while let Some(name) =
            schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
        {
            match self.schema.get("$defs").and_then(|defs| defs.get(name)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// What fits of `node`; `None` if nothing does. `meaning` is the description of the key.
    fn value(
        &mut self,
        schema: &'a Json,
        node: &Node,
        path: &JsonPath,
        meaning: Option<&'a str>,
    ) -> Option<Json> {
        let meaning = schema.get("description").and_then(Json::as_str).or(meaning);
        let schema = self.resolve(schema);
        let allowed = allowed_values(schema);
        if !allowed.is_empty() {
            return self.enumerated(&allowed, node, path);
        }
        let types = type_names(schema);
        if !types.iter().any(|t| fits(t, &node.value)) {
            let found = match &node.value {
                Value::String(s) => format!("the string {}", shown(s)),
                Value::Number(n) => format!("the number {}", shown(n).replace('"', "")),
                Value::Bool(b) => format!("the boolean {b}"),
                _ => node.kind().to_owned(),
            };
            let expected = one_of(types.iter().filter(|t| **t != "null").map(|t| type_phrase(t)));
            let hint = match (&node.value, types.as_slice()) {
                (Value::String(s), ["integer" | "number", ..]) if s.parse::<f64>().is_ok() => {
                    "Write it without quotes."
                }
                (Value::Number(_), ["string", ..]) => "Put it in double quotes.",
                (Value::String(_), ["boolean", ..]) => "Write true or false without quotes.",
                (Value::Null, _) => "Leave the key out, or give it a value.",
                (Value::Object(_), ["array", ..]) => "Put it in square brackets.",
                _ => "Correct the value.",
            };
            self.report.error(
                path,
                format!("Expected {expected}, found {found}."),
                with_meaning(hint, meaning),
            );
            return None;
        }
        match &node.value {
            Value::Null => Some(Json::Null),
            Value::Bool(b) => Some(Json::Bool(*b)),
            Value::Number(n) => self.number(schema, n, path, meaning),
            Value::String(s) => self.string(schema, s, path, meaning),
            Value::Array(items) => self.array(schema, items, path, meaning),
            Value::Object(members) => Some(self.object(schema, members, path)),
        }
    }

    fn enumerated(&mut self, allowed: &[&str], node: &Node, path: &JsonPath) -> Option<Json> {
        let list = one_of(allowed.iter().copied());
        match &node.value {
            Value::String(s) if allowed.contains(&s.as_str()) => Some(Json::String(s.clone())),
            Value::String(s) => {
                let remedy = match nearest(s, allowed.iter().copied()) {
                    Some(near) => format!("Did you mean {near}? Allowed are {list}."),
                    None => format!("Write {list}."),
                };
                self.report.error(path, format!("{} is not an allowed value.", shown(s)), remedy);
                None
            }
            _ => {
                self.report.error(
                    path,
                    format!("Expected a string, found {}.", node.kind()),
                    format!("Write {list}."),
                );
                None
            }
        }
    }

    fn number(&mut self, schema: &Json, raw: &str, path: &JsonPath, meaning: Option<&str>) -> Option<Json> {
        let Ok(number) = raw.parse::<Number>() else {
            self.report.error(
                path,
                "The number is too large.",
                with_meaning("Write a smaller one.", meaning),
            );
            return None;
        };
        let value = number.as_f64()?;
        let (format_min, format_max) = match schema.get("format").and_then(Json::as_str) {
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Some("uint32") => (0.0, f64::from(u32::MAX)),
            Some("uint64") => (0.0, u64::MAX as f64),
            _ => (f64::MIN, f64::MAX),
        };
        let limit = |key: &str| schema.get(key).and_then(Json::as_f64);
        let minimum = limit("minimum").unwrap_or(f64::MIN).max(format_min);
        let maximum = limit("maximum").unwrap_or(f64::MAX).min(format_max);
        if (minimum..=maximum).contains(&value) {
            // serde_json reads "-0" as a float, which no integer field takes.
            let zero = value == 0.0 && type_names(schema).contains(&"integer");
            return Some(Json::Number(if zero { Number::from(0) } else { number }));
        }
        let range = match (minimum == f64::MIN, maximum == f64::MAX) {
            (_, true) => format!("Write {minimum} or more."),
            (true, false) => format!("Write {maximum} or less."),
            (false, false) => format!("Write a number from {minimum} to {maximum}."),
        };
        let what = if value < minimum { "too small" } else { "too large" };
        self.report.error(
            path,
            format!("{} is {what}.", shown(raw).replace('"', "")),
            with_meaning(&range, meaning),
        );
        None
    }

    fn string(&mut self, schema: &Json, text: &str, path: &JsonPath, meaning: Option<&str>) -> Option<Json> {
        let length = text.chars().count() as u64;
        let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
        if let Some(minimum) = limit("minLength")
            && length < minimum
        {
            let what = if length == 0 {
                "The value is empty.".into()
            } else {
                format!("{} is too short.", shown(text))
            };
            let hint = format!("Write at least {minimum} character{}.", if minimum == 1 { "" } else { "s" });
            self.report.error(path, what, with_meaning(&hint, meaning));
            return None;
        }
        if let Some(maximum) = limit("maxLength")
            && length > maximum
        {
            self.report.error(
                path,
                format!("{} is {length} characters long.", shown(text)),
                with_meaning(&format!("Write at most {maximum} characters."), meaning),
            );
            return None;
        }
        if let Some((matches, what, remedy)) =
            schema.get("pattern").and_then(Json::as_str).and_then(pattern_rule)
            && !matches(text)
        {
            // "us-east-1a" is a zone, the commonest mistake in a region.
            let zone = text.strip_suffix(|c: char| c.is_ascii_lowercase()).filter(|region| is_region(region));
            let remedy = match zone {
                Some(region) if what.contains("region") => {
                    format!("{text} is an availability zone. Write its region, {region}.")
                }
                _ => remedy.to_owned(),
            };
            self.report.error(path, format!("{} {what}.", shown(text)), remedy);
            return None;
        }
        Some(Json::String(text.to_owned()))
    }

    fn array(
        &mut self,
        schema: &'a Json,
        items: &[Node],
        path: &JsonPath,
        meaning: Option<&'a str>,
    ) -> Option<Json> {
        let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
        if let Some(minimum) = limit("minItems")
            && (items.len() as u64) < minimum
        {
            self.report.error(path, "The array is empty.", with_meaning("Add an item.", meaning));
        }
        if let Some(maximum) = limit("maxItems")
            && items.len() as u64 > maximum
        {
            self.report.error(
                path,
                format!("The array has {} items.", items.len()),
                with_meaning(&format!("Write at most {maximum}."), meaning),
            );
        }
        let keep_index = path.steps().last().is_some_and(
            |step| matches!(step, super::report::Step::Key(key) if KEEP_INDEX.contains(&key.as_str())),
        );
        let item_schema = schema.get("items").unwrap_or(&Json::Null);
        let mut out = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match self.value(item_schema, item, &path.index(i), meaning) {
                Some(value) => out.push(value),
                None if keep_index => out.push(Json::Null),
                None => {}
            }
        }
        Some(Json::Array(out))
    }

    fn object(&mut self, schema: &'a Json, members: &[Member], path: &JsonPath) -> Json {
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema.get("additionalProperties");
        let known: Vec<&str> = properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default();
        let mut out = Map::new();
        // Of duplicates only the last one counts, and they are reported already.
        let last: std::collections::HashMap<&str, usize> =
            members.iter().enumerate().map(|(i, m)| (m.key.as_str(), i)).collect();
        for (i, member) in members.iter().enumerate() {
            if last.get(member.key.as_str()) != Some(&i) {
                continue;
            }
            let path = path.key(&member.key);
            let property = properties.and_then(|p| p.get(&member.key)).or(additional);
            match property {
                Some(property) => {
                    if let Some(value) = self.value(property, &member.value, &path, None) {
                        out.insert(member.key.clone(), value);
                    }
                }
                None => {
                    let remedy = match nearest(&member.key, known.iter().copied()) {
                        Some(near) => format!("Did you mean {near}?"),
                        None if known.is_empty() => "Delete it.".into(),
                        None => format!("Known here are {}.", one_of(known.iter().copied())),
                    };
                    self.report.warn(
                        &path,
                        format!("The key {} is not known here and is ignored.", shown(&member.key)),
                        remedy,
                    );
                }
            }
        }
        let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
        for name in required.filter_map(Json::as_str) {
            if members.iter().any(|m| m.key == name) {
                continue;
            }
            let like = members.iter().find(|m| {
                !known.contains(&m.key.as_str()) && nearest(&m.key, known.iter().copied()) == Some(name)
            });
            let meaning = properties
                .and_then(|p| p.get(name))
                .and_then(|p| p.get("description"))
                .and_then(Json::as_str);
            let hint = match like {
                Some(like) => {
                    format!("Rename {} on line {} to {name}.", shown(&like.key), like.position.line)
                }
                None => "Add it.".to_owned(),
            };
            self.report.error(
                &path.key(name),
                format!("The key {name} is missing."),
                with_meaning(&hint, meaning.map(|m| (name, m))),
            );
        }
        Json::Object(out)
    }
}

/// A remedy followed by what the key is for.
trait Meaning {
    fn text(self) -> Option<String>;
}

impl Meaning for Option<&str> {
    fn text(self) -> Option<String> {
        self.map(|m| first_sentence(m).to_owned())
    }
}

impl Meaning for Option<(&str, &str)> {
    fn text(self) -> Option<String> {
        self.map(|(name, m)| format!("{name}: {}", first_sentence(m)))
    }
}

fn with_meaning(hint: &str, meaning: impl Meaning) -> String {
    match meaning.text() {
        Some(meaning) => format!("{hint} ({meaning})"),
        None => hint.to_owned(),
    }
}

fn first_sentence(text: &str) -> &str {
    text.split(". ").next().unwrap_or(text).trim_end_matches('.')
}

fn type_names(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(name)) => vec![name],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits(type_name: &str, value: &Value) -> bool {
    match (type_name, value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_))
        | ("string", Value::String(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_)) => true,
        ("integer", Value::Number(raw)) => raw.bytes().all(|b| b.is_ascii_digit() || b == b'-'),
        _ => false,
    }
}

fn type_phrase(type_name: &str) -> &str {
    match type_name {
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a string",
        "array" => "an array",
        "object" => "an object",
        other => other,
    }
}

/// The strings that an enumerated schema allows; empty if it is not enumerated.
fn allowed_values(schema: &Json) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let consts =
        schema.get("oneOf").and_then(Json::as_array).into_iter().flatten().flat_map(|choice| {
            choice.get("const").and_then(Json::as_str).into_iter().chain(
                choice.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str),
            )
        });
    listed.chain(consts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{config_schema, partitions_schema};

    /// Every subschema below `schema`, which is itself one.
    fn each_schema(schema: &Json, visit: &mut dyn FnMut(&Map<String, Json>)) {
        let Some(object) = schema.as_object() else { return };
        visit(object);
        for key in ["properties", "$defs"] {
            for schema in object.get(key).and_then(Json::as_object).into_iter().flat_map(Map::values) {
                each_schema(schema, visit);
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(schema) = object.get(key) {
                each_schema(schema, visit);
            }
        }
    }

    #[test]
    fn every_keyword_and_pattern_of_the_schemas_is_understood() {
        let mut seen = 0;
        for schema in [config_schema(), partitions_schema()] {
            each_schema(&schema, &mut |object| {
                seen += 1;
                for (keyword, value) in object {
                    assert!(
                        CHECKED_KEYWORDS.contains(&keyword.as_str())
                            || OTHER_KEYWORDS.contains(&keyword.as_str()),
                        "{keyword} in {object:?}"
                    );
                    if keyword == "pattern" {
                        assert!(value.as_str().and_then(pattern_rule).is_some(), "{value}");
                    }
                    if keyword == "$ref" {
                        let name =
                            value.as_str().and_then(|r| r.strip_prefix("#/$defs/")).expect("a local ref");
                        assert!(schema["$defs"].get(name).is_some(), "{value}");
                    }
                }
                // A schema without any of these would accept nothing.
                assert!(
                    ["type", "enum", "oneOf", "$ref"].iter().any(|k| object.contains_key(*k)),
                    "{object:?}"
                );
            });
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn region_syntax() {
        for good in
            ["us-east-1", "us-gov-west-1", "us-iso-east-1", "cn-north-1", "eusc-de-east-1", "ap-southeast-12"]
        {
            assert!(is_region(good), "{good}");
        }
        for bad in [
            "",
            "us",
            "us-1",
            "us-east",
            "us-east-",
            "us-east-1a",
            "US-EAST-1",
            "us--1",
            "u-east-1",
            "us-east-1 ",
        ] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}

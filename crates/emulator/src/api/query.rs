// SPDX-License-Identifier: GPL-3.0-or-later
//! The EC2 Query protocol: `Filter.1.Value.2=x` pairs become a tree, checked against the table of the
//! parameters that each action accepts.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use crate::api::error::ApiError;

/// One parameter or list element: a value, named members, or numbered elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    value: Option<String>,
    members: BTreeMap<String, Node>,
}

impl Node {
    /// Builds the tree from decoded pairs. `Action` and `Version` are left out.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut root = Self::default();
        for (name, value) in pairs {
            if name == "Action" || name == "Version" || name.is_empty() {
                continue;
            }
            let mut node = &mut root;
            for part in name.split('.') {
                node = node.members.entry(part.to_owned()).or_default();
            }
            node.value = Some(value.to_owned());
        }
        root
    }

    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.members.is_empty()
    }

    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// The member at a dotted path.
    pub fn at(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, part| node.members.get(part))
    }

    /// Text at a dotted path.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.value()
    }

    pub fn owned(&self, path: &str) -> Option<String> {
        self.text(path).map(str::to_owned)
    }

    /// Text that the request must have.
    pub fn required(&self, path: &str) -> Result<&str, ApiError> {
        self.text(path).ok_or_else(|| ApiError::missing(path))
    }

    pub fn int(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub fn number(&self, path: &str) -> Option<f64> {
        self.text(path)?.parse().ok()
    }

    pub fn flag(&self, path: &str) -> Option<bool> {
        parse_bool(self.text(path)?)
    }

    /// The numbered elements of a list, in the order of their numbers.
    pub fn list(&self, path: &str) -> Vec<&Node> {
        let Some(node) = self.at(path) else {
            return Vec::new();
        };
        let mut numbered: Vec<(u64, &Node)> = node
            .members
            .iter()
            .filter_map(|(key, node)| key.parse().ok().map(|number| (number, node)))
            .collect();
        numbered.sort_by_key(|(number, _)| *number);
        numbered.into_iter().map(|(_, node)| node).collect()
    }

    /// The texts of a list.
    pub fn texts(&self, path: &str) -> Vec<&str> {
        self.list(path).into_iter().filter_map(Node::value).collect()
    }

    /// The same request without the named members: what two requests with one client token must share.
    pub fn without(&self, names: &[&str]) -> Self {
        let mut copy = self.clone();
        copy.members.retain(|name, _| !names.contains(&name.as_str()));
        copy
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "1" => Some(true),
        "false" | "False" | "FALSE" | "0" => Some(false),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Time,
    Structure,
}

#[derive(Debug)]
struct Parameter {
    required: bool,
    list: bool,
    kind: Kind,
    members: HashMap<&'static str, Parameter>,
}

struct Table {
    actions: HashMap<&'static str, HashMap<&'static str, Parameter>>,
    others: Vec<&'static str>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| read_table(include_str!("requests.txt")));

fn read_table(text: &'static str) -> Table {
    let mut table = Table { actions: HashMap::new(), others: Vec::new() };
    let lines: Vec<&'static str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        if let Some(rest) = line.strip_prefix("~ ") {
            table.others = rest.split(' ').collect();
        } else {
            let members = read_members(&lines, &mut at, 1);
            table.actions.insert(line, members);
        }
    }
    table
}

fn read_members(lines: &[&'static str], at: &mut usize, depth: usize) -> HashMap<&'static str, Parameter> {
    let mut members = HashMap::new();
    while let Some(line) = lines.get(*at) {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if indent < depth {
            break;
        }
        *at += 1;
        let (name, kind) = line.trim().split_once(' ').expect("a parameter line is a name and a kind");
        let inner = kind.trim_start_matches('[').trim_end_matches(']');
        members.insert(
            name.trim_end_matches('!'),
            Parameter {
                required: name.ends_with('!'),
                list: kind.starts_with('['),
                kind: match inner {
                    "i" => Kind::Integer,
                    "n" => Kind::Number,
                    "b" => Kind::Boolean,
                    "t" => Kind::Time,
                    "{}" => Kind::Structure,
                    _ => Kind::Text,
                },
                members: read_members(lines, at, depth + 1),
            },
        );
    }
    members
}

/// Checks names, types and presence of the parameters of an action.
///
/// # Errors
/// `InvalidAction`, `UnsupportedOperation` for an action that EC2 has and the emulator has not,
/// `UnknownParameter`, `MissingParameter`, `InvalidParameterValue`.
pub fn check(action: &str, request: &Node) -> Result<(), ApiError> {
    let Some(members) = TABLE.actions.get(action) else {
        if TABLE.others.contains(&action) {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!(
                    "The emulator does not emulate {action}; docs/emulator.md lists the emulated actions."
                ),
            ));
        }
        return Err(ApiError::new(
            "InvalidAction",
            format!("The action {action} is not valid for this web service."),
        ));
    };
    check_members("", members, request)
}

/// The emulated EC2 actions, sorted.
pub fn actions() -> Vec<&'static str> {
    let mut names: Vec<_> = TABLE.actions.keys().copied().collect();
    names.sort_unstable();
    names
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check_members(
    path: &str,
    members: &HashMap<&'static str, Parameter>,
    node: &Node,
) -> Result<(), ApiError> {
    for (name, child) in &node.members {
        let here = join(path, name);
        let Some(parameter) = members.get(name.as_str()) else {
            return Err(ApiError::new("UnknownParameter", format!("The parameter {here} is not recognized")));
        };
        if parameter.list {
            if child.value.as_deref().is_some_and(|value| !value.is_empty()) {
                return Err(ApiError::new(
                    "UnknownParameter",
                    format!("The parameter {here} is not recognized"),
                ));
            }
            for (number, element) in &child.members {
                let place = join(&here, number);
                if number.parse::<u64>().is_err() {
                    return Err(ApiError::new(
                        "UnknownParameter",
                        format!("The parameter {place} is not recognized"),
                    ));
                }
                check_value(&place, parameter, element)?;
            }
        } else {
            check_value(&here, parameter, child)?;
        }
    }
    // Sorted, so that the same request always gets the same complaint.
    let mut required: Vec<_> =
        members.iter().filter(|(_, parameter)| parameter.required).map(|(name, _)| *name).collect();
    required.sort_unstable();
    for name in required {
        if node.members.get(name).is_none_or(Node::is_empty) {
            return Err(ApiError::missing(&join(path, name)));
        }
    }
    Ok(())
}

fn check_value(path: &str, parameter: &Parameter, node: &Node) -> Result<(), ApiError> {
    if parameter.kind == Kind::Structure {
        return check_members(path, &parameter.members, node);
    }
    if let Some(name) = node.members.keys().next() {
        return Err(ApiError::new(
            "UnknownParameter",
            format!("The parameter {} is not recognized", join(path, name)),
        ));
    }
    let value = node.value.as_deref().unwrap_or_default();
    let (valid, wanted) = match parameter.kind {
        Kind::Integer => (value.parse::<i64>().is_ok(), "It must be an integer."),
        Kind::Number => (value.parse::<f64>().is_ok(), "It must be a number."),
        Kind::Boolean => (parse_bool(value).is_some(), "It must be true or false."),
        Kind::Time => {
            (crate::model::time::parse(value).is_some(), "It must be a time such as 2025-01-31T23:59:59Z.")
        }
        Kind::Text | Kind::Structure => (true, ""),
    };
    if valid { Ok(()) } else { Err(ApiError::invalid_value(path, value, wanted)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parameters<'a> = &'a [(&'a str, &'a str)];

    fn code(action: &str, pairs: &[(&str, &str)]) -> Result<(), (String, String)> {
        check(action, &Node::parse(pairs.iter().copied()))
            .map_err(|error| (error.code.into_owned(), error.message))
    }

    #[test]
    fn lists_keep_the_order_of_their_numbers() {
        let node = Node::parse([("Id.10", "j"), ("Id.2", "b"), ("Id.1", "a")]);
        assert_eq!(node.texts("Id"), ["a", "b", "j"]);
    }

    #[test]
    fn requests_are_checked_against_the_table() {
        assert!(code("DescribeInstances", &[("Filter.1.Name", "a"), ("Filter.1.Value.1", "b")]).is_ok());
        let table: [(&str, Parameters<'_>, &str, &str); 7] = [
            ("Nonsense", &[], "InvalidAction", "Nonsense"),
            ("AcceptAddressTransfer", &[], "UnsupportedOperation", "AcceptAddressTransfer"),
            ("DescribeInstances", &[("Bogus", "1")], "UnknownParameter", "Bogus"),
            ("DescribeInstances", &[("Filter.1.Bogus", "1")], "UnknownParameter", "Filter.1.Bogus"),
            ("DescribeInstances", &[("MaxResults", "ten")], "InvalidParameterValue", "MaxResults"),
            ("TerminateInstances", &[], "MissingParameter", "InstanceId"),
            (
                "CreateFleet",
                &[
                    ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "1"),
                    ("TargetCapacitySpecification.OnDemandTargetCapacity", "1"),
                ],
                "MissingParameter",
                "TargetCapacitySpecification.TotalTargetCapacity",
            ),
        ];
        for (action, pairs, want, names) in table {
            let (got, message) = code(action, pairs).expect_err(action);
            assert_eq!(got, want, "{action}");
            assert!(message.contains(names), "{message}");
        }
    }
}

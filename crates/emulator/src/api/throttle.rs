// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2's request token buckets and resource token buckets per region ("Request throttling for the
//! Amazon EC2 API", Amazon EC2 Developer Guide).

use std::collections::HashMap;

use crate::api::query::Node;
use crate::model::time::Millis;

/// Capacity and refill a second of the bucket of an action, and the name of the bucket: an action of
/// its own, or the group that it shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    pub name: &'static str,
    pub capacity: f64,
    pub refill: f64,
}

/// The request bucket of an action. The mutating actions that have no bucket of their own share one.
pub(crate) fn request_bucket(action: &str, request: &Node) -> Bucket {
    let bucket = |name, capacity, refill| Bucket { name, capacity, refill };
    match action {
        "RunInstances" => bucket("RunInstances", 5.0, 2.0),
        "StartInstances" => bucket("StartInstances", 5.0, 2.0),
        "TerminateInstances" => bucket("TerminateInstances", 100.0, 5.0),
        "CreateTags" => bucket("CreateTags", 100.0, 10.0),
        "DeleteTags" => bucket("DeleteTags", 100.0, 10.0),
        "DescribeSpotInstanceRequests" => bucket("DescribeSpotInstanceRequests", 50.0, 3.0),
        "DescribeInstances" if unfiltered(request) => bucket("unfiltered DescribeInstances", 50.0, 10.0),
        "DescribeVolumes" | "DescribeNetworkInterfaces" | "DescribeSecurityGroups" if unfiltered(request) => {
            bucket("unfiltered Describe", 50.0, 10.0)
        }
        action if action.starts_with("Describe") || action.starts_with("Get") => {
            bucket("non-mutating", 100.0, 20.0)
        }
        _ => bucket("mutating", 50.0, 5.0),
    }
}

/// No filter and no page size ("Unfiltered and unpaginated non-mutating actions").
fn unfiltered(request: &Node) -> bool {
    request.text("MaxResults").is_none()
        && request.text("NextToken").is_none()
        && request.list("Filter").is_empty()
        && !["InstanceId", "VolumeId", "NetworkInterfaceId", "GroupId"]
            .iter()
            .any(|name| !request.list(name).is_empty())
}

/// The resource bucket of an action and how many tokens the request takes from it.
fn resource_bucket(action: &str, request: &Node) -> Option<(Bucket, f64)> {
    let bucket = |name, capacity, refill| Bucket { name, capacity, refill };
    #[allow(clippy::cast_precision_loss)]
    let ids = request.list("InstanceId").len() as f64;
    match action {
        "TerminateInstances" => Some((bucket("TerminateInstances resources", 1000.0, 20.0), ids)),
        "StartInstances" => Some((bucket("StartInstances resources", 1000.0, 2.0), ids)),
        "StopInstances" => Some((bucket("StopInstances resources", 1000.0, 20.0), ids)),
        "RunInstances" => {
            #[allow(clippy::cast_precision_loss)]
            let count = request.int("MaxCount").unwrap_or(1) as f64;
            Some((bucket("RunInstances resources", 1000.0, 2.0), count))
        }
        _ => None,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    levels: HashMap<(String, &'static str), (f64, Millis)>,
}

impl Throttle {
    /// Takes the tokens that a request costs; false when a bucket has too few. A refused request costs nothing.
    pub fn admit(&mut self, region: &str, action: &str, request: &Node, now: Millis) -> bool {
        let mut costs = vec![(request_bucket(action, request), 1.0)];
        costs.extend(resource_bucket(action, request));
        let mut after = Vec::new();
        for (bucket, cost) in costs {
            let key = (region.to_owned(), bucket.name);
            let (level, since) = self.levels.get(&key).copied().unwrap_or((bucket.capacity, now));
            #[allow(clippy::cast_precision_loss)]
            let elapsed = (now - since).max(0) as f64 / 1000.0;
            let level = (level + elapsed * bucket.refill).min(bucket.capacity);
            if level < cost {
                return false;
            }
            after.push((key, level - cost));
        }
        for (key, level) in after {
            self.levels.insert(key, (level, now));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parameters<'a> = &'a [(&'a str, &'a str)];

    fn burst(action: &str, pairs: &[(&str, &str)], now: Millis, throttle: &mut Throttle) -> usize {
        let request = Node::parse(pairs.iter().copied());
        let mut passed = 0;
        while throttle.admit("us-east-1", action, &request, now) && passed < 10_000 {
            passed += 1;
        }
        passed
    }

    #[test]
    fn published_burst_and_refill() {
        let paged: &[(&str, &str)] = &[("MaxResults", "100")];
        let table: [(&str, Parameters<'_>, usize, usize); 6] = [
            ("RunInstances", &[], 5, 2),
            ("CreateFleet", &[], 50, 5),
            ("DescribeInstances", paged, 100, 20),
            ("DescribeInstances", &[], 50, 10),
            ("CreateTags", &[], 100, 10),
            ("TerminateInstances", &[], 100, 5),
        ];
        for (action, pairs, capacity, refill) in table {
            let mut throttle = Throttle::default();
            assert_eq!(burst(action, pairs, 0, &mut throttle), capacity, "{action}");
            assert_eq!(burst(action, pairs, 1000, &mut throttle), refill, "{action}");
        }
    }

    #[test]
    fn mutating_actions_share_a_bucket_and_regions_do_not() {
        let mut throttle = Throttle::default();
        assert_eq!(burst("CreateFleet", &[], 0, &mut throttle), 50);
        assert_eq!(burst("ModifyFleet", &[], 0, &mut throttle), 0);
        assert!(throttle.admit("eu-west-1", "ModifyFleet", &Node::default(), 0));
    }

    #[test]
    fn terminated_instances_are_counted() {
        let ids: Vec<(String, String)> =
            (1..=600).map(|n| (format!("InstanceId.{n}"), format!("i-{n}"))).collect();
        let request = Node::parse(ids.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let mut throttle = Throttle::default();
        assert!(throttle.admit("r", "TerminateInstances", &request, 0));
        assert!(!throttle.admit("r", "TerminateInstances", &request, 0));
        assert!(throttle.admit("r", "TerminateInstances", &request, 10_000));
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The instance metadata service of each instance ("Instance metadata and user data", EC2 User Guide).

use std::collections::HashMap;

use crate::api::base64::decode;
use crate::model::instance::{Instance, State};
use crate::model::interface::private_dns;
use crate::model::region::Region;
use crate::model::time::{Millis, SECOND, iso_seconds};
use crate::model::world::World;

/// Longest life of a session token: six hours.
const MAX_TTL: i64 = 21_600;
/// Bound of the emulator on live tokens; the oldest go first.
const MAX_TOKENS: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataReply {
    pub status: u16,
    pub body: String,
    /// Seconds of life of the token in the body.
    pub token_ttl: Option<i64>,
}

impl MetadataReply {
    fn error(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned(), token_ttl: None }
    }
}

/// Session tokens (IMDSv2): instance and time of expiry of each.
#[derive(Debug, Default)]
pub struct Sessions {
    tokens: HashMap<String, (String, Millis)>,
    order: std::collections::VecDeque<String>,
    next: u64,
}

impl Sessions {
    /// `PUT /latest/api/token`.
    pub fn open(&mut self, world: &World, instance_id: &str, ttl: Option<&str>) -> MetadataReply {
        let Some((_, instance)) = reachable(world, instance_id) else {
            return MetadataReply::error(404, "");
        };
        if instance.data.metadata.endpoint.as_deref() == Some("disabled") {
            return MetadataReply::error(403, "");
        }
        let Some(seconds) = ttl
            .and_then(|ttl| ttl.trim().parse::<i64>().ok())
            .filter(|seconds| (1..=MAX_TTL).contains(seconds))
        else {
            return MetadataReply::error(400, "");
        };
        self.next += 1;
        let token = crate::api::base64::encode(format!("{instance_id}/{}", self.next).as_bytes());
        self.tokens.insert(token.clone(), (instance_id.to_owned(), world.now() + seconds * SECOND));
        self.order.push_back(token.clone());
        if self.order.len() > MAX_TOKENS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        MetadataReply { status: 200, body: token, token_ttl: Some(seconds) }
    }

    /// `GET` of a path below the instance's base address, such as `latest/meta-data/instance-id`.
    pub fn get(&self, world: &World, instance_id: &str, path: &str, token: Option<&str>) -> MetadataReply {
        let Some((region, instance)) = reachable(world, instance_id) else {
            return MetadataReply::error(404, "");
        };
        if instance.data.metadata.endpoint.as_deref() == Some("disabled") {
            return MetadataReply::error(403, "");
        }
        let required = instance.data.metadata.tokens.as_deref() == Some("required");
        let authorized = match token {
            Some(token) => self
                .tokens
                .get(token)
                .is_some_and(|(owner, expiry)| owner == instance_id && *expiry > world.now()),
            None => !required,
        };
        if !authorized {
            return MetadataReply::error(401, "");
        }
        let path = path.trim_matches('/');
        let path = path.strip_prefix("latest").unwrap_or(path).trim_matches('/');
        let found = match path {
            "" => Some("dynamic\nmeta-data\nuser-data".to_owned()),
            "user-data" => instance
                .data
                .user_data
                .as_deref()
                .and_then(decode)
                .and_then(|bytes| String::from_utf8(bytes).ok()),
            "dynamic/instance-identity/document" => Some(identity(region, instance)),
            "dynamic" => Some("instance-identity/".to_owned()),
            "dynamic/instance-identity" => Some("document".to_owned()),
            other => other
                .strip_prefix("meta-data")
                .and_then(|rest| lookup(&entries(region, instance), rest.trim_matches('/'))),
        };
        match found {
            Some(body) => MetadataReply { status: 200, body, token_ttl: None },
            None => MetadataReply::error(404, "404 - Not Found"),
        }
    }
}

fn reachable<'w>(world: &'w World, id: &str) -> Option<(&'w Region, &'w Instance)> {
    let answers = |(_, instance): &(&Region, &Instance)| {
        matches!(instance.state, State::Pending | State::Running | State::Stopping | State::ShuttingDown)
    };
    // What runs here keeps the address it was born with, and is told of the instance that it is on now.
    world.find_instance(id).filter(answers).or_else(|| world.find_memory_of(id).filter(answers))
}

/// A value, or the names below a path: directories end with a slash.
fn lookup(entries: &[(String, String)], path: &str) -> Option<String> {
    if let Some((_, value)) = entries.iter().find(|(name, _)| name == path) {
        return Some(value.clone());
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut names: Vec<String> = Vec::new();
    for (name, _) in entries {
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        let name = match rest.split_once('/') {
            // Tag keys with a slash are not shown: metadata paths cannot hold them.
            Some((first, _)) => format!("{first}/"),
            None => rest.to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    (!names.is_empty()).then(|| names.join("\n"))
}

fn entries(region: &Region, instance: &Instance) -> Vec<(String, String)> {
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: String| entries.push((name.to_owned(), value));
    let dns = private_dns(instance.private_ip, &region.name);
    put("ami-id", instance.image.clone());
    put("ami-launch-index", instance.launch_index.to_string());
    put("hostname", dns.clone());
    put("instance-id", instance.id.clone());
    put("instance-life-cycle", instance.lifecycle.name().to_owned());
    put("instance-type", instance.facts.name.to_owned());
    put("local-hostname", dns);
    put("local-ipv4", instance.private_ip.to_string());
    put("placement/availability-zone", instance.zone.clone());
    put("placement/availability-zone-id", instance.zone_id.clone());
    put("placement/region", region.name.clone());
    if let Some(group) = &instance.data.placement.group {
        put("placement/group-name", group.clone());
    }
    put("reservation-id", instance.reservation.clone());
    put(
        "security-groups",
        instance
            .groups
            .iter()
            .map(|group| if *group == region.default_group { "default" } else { group.as_str() })
            .collect::<Vec<_>>()
            .join("\n"),
    );
    put("services/domain", "amazonaws.com".to_owned());
    put("services/partition", "aws".to_owned());
    if let Some(interface) = instance.interfaces.first().and_then(|id| region.interfaces.get(id)) {
        put("mac", interface.mac.clone());
        let base = format!("network/interfaces/macs/{}", interface.mac);
        put(&format!("{base}/interface-id"), interface.id.clone());
        put(&format!("{base}/subnet-id"), interface.subnet.clone());
        put(&format!("{base}/vpc-id"), interface.vpc.clone());
        put(&format!("{base}/local-ipv4s"), interface.private_ip.to_string());
    }
    if instance.data.metadata.tags.as_deref() == Some("enabled") {
        let tags = if instance.frozen_metadata_tags() {
            instance.launch_tags.as_slice()
        } else {
            region.tags_of(&instance.id)
        };
        for (key, value) in tags {
            // Keys of system tags and keys with characters outside the metadata alphabet are left out.
            let plain = |c: char| c.is_ascii_alphanumeric() || "+-=._:@".contains(c);
            if !key.starts_with("aws:") && key.chars().all(plain) {
                put(&format!("tags/instance/{key}"), value.clone());
            }
        }
    }
    if let Some(notice) = &instance.notice {
        let time = iso_seconds(notice.due);
        put("spot/instance-action", format!("{{\"action\": \"{}\", \"time\": \"{time}\"}}", notice.action));
        if notice.action == "terminate" {
            put("spot/termination-time", time);
        }
    }
    if let Some(at) = instance.rebalance {
        put("events/recommendations/rebalance", format!("{{\"noticeTime\": \"{}\"}}", iso_seconds(at)));
    }
    let scheduled: Vec<String> = instance
        .maintenance
        .iter()
        .map(|event| {
            format!(
                "{{\"NotBefore\": \"{}\", \"Code\": \"{}\", \"Description\": \"{}\", \"EventId\": \"{}\", \"NotAfter\": \"{}\", \"State\": \"active\"}}",
                crate::model::time::gmt(event.not_before),
                event.code,
                event.description(),
                event.id,
                crate::model::time::gmt(event.not_after)
            )
        })
        .collect();
    put("events/maintenance/scheduled", format!("[{}]", scheduled.join(", ")));
    entries
}

fn identity(region: &Region, instance: &Instance) -> String {
    let document = serde_json::json!({
        "accountId": region.rules.account,
        "architecture": instance.facts.architecture,
        "availabilityZone": instance.zone,
        "imageId": instance.image,
        "instanceId": instance.id,
        "instanceType": instance.facts.name,
        "pendingTime": iso_seconds(instance.launched),
        "privateIp": instance.private_ip.to_string(),
        "region": region.name,
        "version": "2017-09-30",
    });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

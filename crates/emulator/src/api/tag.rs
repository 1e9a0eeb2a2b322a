// SPDX-License-Identifier: GPL-3.0-or-later
//! Tags of every resource.

use std::borrow::Cow;

use crate::api::error::{ApiError, absent};
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::launch_data::{merge_tags, read_tags};
use crate::model::region::{Event, Region};

/// At most 50 user tags a resource ("Tag restrictions", EC2 User Guide).
const MAX_TAGS: usize = 50;
/// At most 1,000 resources in one CreateTags call (API_CreateTags).
const MAX_RESOURCES: usize = 1_000;

/// Resource types by id prefix, with EC2's "not found" code for each.
const KINDS: [(&str, &str, &str); 14] = [
    ("i-", "instance", "InvalidInstanceID.NotFound"),
    ("vol-", "volume", "InvalidVolume.NotFound"),
    ("eni-", "network-interface", "InvalidNetworkInterfaceID.NotFound"),
    ("lt-", "launch-template", "InvalidLaunchTemplateId.NotFound"),
    ("fleet-", "fleet", "InvalidFleetId.NotFound"),
    ("subnet-", "subnet", "InvalidSubnetID.NotFound"),
    ("vpc-", "vpc", "InvalidVpcID.NotFound"),
    ("sg-", "security-group", "InvalidGroup.NotFound"),
    ("ami-", "image", "InvalidAMIID.NotFound"),
    ("sir-", "spot-instances-request", "InvalidSpotInstanceRequestID.NotFound"),
    ("cr-", "capacity-reservation", "InvalidCapacityReservationId.NotFound"),
    ("pg-", "placement-group", "InvalidPlacementGroup.Unknown"),
    ("snap-", "snapshot", "InvalidSnapshot.NotFound"),
    ("eipalloc-", "elastic-ip", "InvalidAllocationID.NotFound"),
];

/// The resource type that an id's prefix tells.
pub fn resource_type(id: &str) -> &'static str {
    KINDS.iter().find(|(prefix, _, _)| id.starts_with(prefix)).map_or("unknown", |(_, kind, _)| *kind)
}

impl Region {
    /// Sets tags now, for a resource that exists.
    pub(crate) fn put_tags(&mut self, id: &str, tags: &[(String, String)]) {
        if !tags.is_empty() {
            merge_tags(self.tags.entry(id.to_owned()).or_default(), tags);
        }
    }

    /// Values for the filters `tag:KEY` and `tag-key`.
    pub(crate) fn tag_values<'a>(&'a self, id: &str, filter: &str) -> Vec<Cow<'a, str>> {
        let tags = self.tags_of(id);
        if let Some(key) = filter.strip_prefix("tag:") {
            return tags
                .iter()
                .filter(|(name, _)| name == key)
                .map(|(_, value)| Cow::Borrowed(value.as_str()))
                .collect();
        }
        if filter == "tag-key" {
            return tags.iter().map(|(name, _)| Cow::Borrowed(name.as_str())).collect();
        }
        Vec::new()
    }

    fn resource_exists(&self, id: &str) -> bool {
        match resource_type(id) {
            "instance" => self.instances.get(id).is_some_and(|instance| instance.visible_at <= self.now),
            "volume" => self.volumes.contains_key(id),
            "network-interface" => self.interfaces.contains_key(id),
            "launch-template" => self.templates.values().any(|template| template.id == id),
            "fleet" => self.fleets.values().any(|fleet| fleet.id == id),
            "subnet" => self.subnet(id).is_some(),
            "vpc" => self.vpc == id || self.subnets.iter().any(|subnet| subnet.vpc == id),
            "security-group" => self.check_group(id).is_ok(),
            "image" => self.image(id).is_ok(),
            "spot-instances-request" => self.spot_index.contains_key(id),
            "capacity-reservation" => self.reservations.contains_key(id),
            "placement-group" => self.placement_groups.values().any(|group| group.id == id),
            _ => false,
        }
    }

    fn check_resources(&self, ids: &[&str]) -> Result<(), ApiError> {
        if ids.len() > MAX_RESOURCES {
            return Err(ApiError::invalid_value(
                "ResourceId",
                &ids.len().to_string(),
                &format!("At most {MAX_RESOURCES} resources are allowed in one call."),
            ));
        }
        for id in ids {
            let Some((_, noun, code)) = KINDS.iter().find(|(prefix, _, _)| id.starts_with(prefix)) else {
                return Err(ApiError::new("InvalidID", format!("The ID '{id}' is not valid")));
            };
            if !self.resource_exists(id) {
                return Err(ApiError::new(*code, absent(noun, &[id])));
            }
        }
        Ok(())
    }

    pub(crate) fn create_tags(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = request.texts("ResourceId");
        let tags = read_tags(request)?;
        self.check_resources(&ids)?;
        for id in &ids {
            let mut all = self.tags_of(id).to_vec();
            merge_tags(&mut all, &tags);
            if all.iter().filter(|(key, _)| !key.starts_with("aws:")).count() > MAX_TAGS {
                return Err(ApiError::new(
                    "TagLimitExceeded",
                    format!("The maximum number of Tags for a resource has been reached: {id}"),
                ));
            }
        }
        for id in ids {
            let late = self.random_up_to(self.rules.consistency_ms);
            if late == 0 {
                self.put_tags(id, &tags);
            } else {
                self.after(late, Event::Tags { id: id.to_owned(), tags: tags.clone() });
            }
        }
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn delete_tags(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = request.texts("ResourceId");
        self.check_resources(&ids)?;
        let wanted: Vec<(&str, Option<&str>)> = request
            .list("Tag")
            .into_iter()
            .filter_map(|tag| Some((tag.text("Key")?, tag.text("Value"))))
            .collect();
        if wanted.iter().any(|(key, _)| key.to_ascii_lowercase().starts_with("aws:")) {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Tag keys starting with 'aws:' are reserved for internal use",
            ));
        }
        for id in ids {
            if let Some(tags) = self.tags.get_mut(id) {
                tags.retain(|(key, value)| {
                    let named = wanted
                        .iter()
                        .any(|(name, only)| name == key && only.is_none_or(|only| only == value));
                    // No Tag parameter: all user tags go (API_DeleteTags).
                    let all = wanted.is_empty();
                    key.starts_with("aws:") || !(named || all)
                });
            }
        }
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn describe_tags(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = ["key", "resource-id", "resource-type", "value", "tag-key"];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeTags", request, 5, 1000)?;
        let mut rows: Vec<(&str, &str, &str)> = Vec::new();
        for (id, tags) in &self.tags {
            for (key, value) in tags {
                let accepted = filters.accept(|name| match name {
                    "key" | "tag-key" => vec![Cow::Borrowed(key.as_str())],
                    "value" => vec![Cow::Borrowed(value.as_str())],
                    "resource-id" => vec![Cow::Borrowed(id.as_str())],
                    "resource-type" => vec![Cow::Borrowed(resource_type(id))],
                    other => match other.strip_prefix("tag:") {
                        Some(tag) if tag == key => vec![Cow::Borrowed(value.as_str())],
                        _ => Vec::new(),
                    },
                });
                if accepted {
                    rows.push((id, key, value));
                }
            }
        }
        rows.sort_unstable();
        let (rows, token) = page.cut(rows);
        xml.set("tagSet", rows, |xml, (id, key, value)| {
            xml.text("key", key);
            xml.text("resourceId", id);
            xml.text("resourceType", resource_type(id));
            xml.text("value", value);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }
}

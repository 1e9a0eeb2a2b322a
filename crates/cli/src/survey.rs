// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2 says about the node groups of a site: types, templates, subnets, images. Read only.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2fleet_core::ec2_api::CloudError;
use ec2fleet_core::site::{NodeGroup, Site};
use ec2fleet_ec2::catalog::{Catalog, CatalogFuture, Image, InstanceType, LaunchTemplate, Offering, Subnet};

/// Attempts for one question, with a pause between them.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(700);

/// One node group, each part as far as EC2 answered.
#[derive(Clone, Debug)]
pub struct GroupSurvey {
    pub template: Result<LaunchTemplate, CloudError>,
    /// The types that its fleets choose from and the region has.
    pub types: Result<Vec<InstanceType>, CloudError>,
    /// Types of partitions.json that the region does not have.
    pub unknown_types: Vec<String>,
    pub subnets: Result<Vec<Subnet>, CloudError>,
    pub images: Result<Vec<Image>, CloudError>,
    pub offerings: Result<Vec<Offering>, CloudError>,
}

/// By `<partition>-<group>`.
pub type Survey = BTreeMap<String, GroupSurvey>;

/// Ask about every group; `progress` is called with each group's name before.
pub async fn take(catalog: &dyn Catalog, site: &Site, mut progress: impl FnMut(&str)) -> Survey {
    let mut survey = Survey::new();
    for group in site.groups() {
        progress(&group.stem());
        survey.insert(group.stem(), of_group(catalog, group).await);
    }
    survey
}

async fn of_group(catalog: &dyn Catalog, group: &NodeGroup) -> GroupSurvey {
    let account = || group.account.clone();
    let template = ask(|| catalog.launch_template(account(), group.launch_template.clone())).await;
    let mut image_ids: Vec<String> =
        group.overrides.iter().filter_map(|choice| choice.image_id.clone()).collect();
    if let Ok(template) = &template {
        image_ids.extend(template.image_id.clone());
    }
    image_ids.sort();
    image_ids.dedup();
    // `resolve:ssm:…` stands for an image that only a launch looks up.
    image_ids.retain(|id| id.starts_with("ami-"));
    let images = match image_ids.is_empty() {
        true => Ok(Vec::new()),
        false => ask(|| catalog.images(account(), image_ids.clone())).await,
    };
    let mut names: Vec<String> = Vec::new();
    let mut failure = None;
    let architectures = architectures(images.as_deref().unwrap_or_default());
    for choice in &group.overrides {
        if let Some(name) = &choice.instance_type {
            names.push(name.clone());
        } else if let Some(requirements) = &choice.instance_requirements {
            match ask(|| catalog.types_matching(account(), requirements.clone(), architectures.clone())).await
            {
                Ok(found) => names.extend(found),
                Err(error) => failure = Some(error),
            }
        } else if let Ok(template) = &template {
            names.extend(template.instance_type.clone());
        }
    }
    names.sort();
    names.dedup();
    let types = match failure {
        Some(error) => Err(error),
        None if names.is_empty() => Ok(Vec::new()),
        None => ask(|| catalog.instance_types(account(), names.clone())).await,
    };
    let unknown_types = match &types {
        Ok(known) => names.iter().filter(|name| !known.iter().any(|t| t.name == **name)).cloned().collect(),
        Err(_) => Vec::new(),
    };
    let subnets = ask(|| catalog.subnets(account(), group.subnet_ids.clone())).await;
    let offerings = match names.is_empty() {
        true => Ok(Vec::new()),
        false => ask(|| catalog.offerings(account(), names.clone())).await,
    };
    GroupSurvey { template, types, unknown_types, subnets, images, offerings }
}

fn architectures(images: &[Image]) -> Vec<String> {
    let mut found: Vec<String> = images.iter().map(|image| image.architecture.clone()).collect();
    found.sort();
    found.dedup();
    if found.is_empty() { vec!["x86_64".into()] } else { found }
}

/// One question, repeated where EC2 or the network may answer the next time.
pub async fn ask<T>(mut question: impl FnMut() -> CatalogFuture<T>) -> Result<T, CloudError> {
    let mut attempt = 1;
    loop {
        match question().await {
            Err(error) if error.class.is_retryable() && attempt < ATTEMPTS => {
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

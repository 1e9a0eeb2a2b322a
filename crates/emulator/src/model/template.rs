// SPDX-License-Identifier: GPL-3.0-or-later
//! Launch templates and their versions.

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::launch_data::{LaunchData, read_tag_specs, write_tags};
use crate::model::region::Region;
use crate::model::time::{Millis, iso};

#[derive(Debug)]
pub struct Template {
    pub id: String,
    pub name: String,
    pub created: Millis,
    pub default_version: u64,
    pub latest_version: u64,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone)]
pub struct Version {
    pub number: u64,
    pub description: Option<String>,
    pub created: Millis,
    pub data: LaunchData,
}

impl Template {
    /// Finds a version: a number, `$Latest` or `$Default` (also for no version).
    fn version(&self, wanted: Option<&str>) -> Option<&Version> {
        let number = match wanted {
            None | Some("" | "$Default") => self.default_version,
            Some("$Latest") => self.latest_version,
            Some(number) => number.parse().ok()?,
        };
        self.versions.iter().find(|version| version.number == number)
    }
}

fn version_not_found(wanted: &str, template: &str) -> ApiError {
    ApiError::new(
        "InvalidLaunchTemplateId.VersionNotFound",
        format!("Could not find launch template version {wanted} for launch template id {template}."),
    )
}

impl Region {
    fn find_template(&self, id: Option<&str>, name: Option<&str>) -> Result<&Template, ApiError> {
        match (id, name) {
            (Some(_), Some(_)) => Err(ApiError::combination(
                "The parameters LaunchTemplateId and LaunchTemplateName cannot be used together.",
            )),
            (None, None) => Err(ApiError::missing("LaunchTemplateId")),
            (Some(id), None) => {
                if !id.starts_with("lt-") {
                    return Err(ApiError::new(
                        "InvalidLaunchTemplateId.Malformed",
                        format!("Invalid launch template id {id}"),
                    ));
                }
                self.templates.values().find(|template| template.id == id).ok_or_else(|| {
                    ApiError::new(
                        "InvalidLaunchTemplateId.NotFound",
                        format!("The specified launch template, with template ID {id}, does not exist."),
                    )
                })
            }
            (None, Some(name)) => {
                self.templates.values().find(|template| template.name == name).ok_or_else(|| {
                    ApiError::new(
                        "InvalidLaunchTemplateName.NotFoundException",
                        format!("The specified launch template, with template name {name}, does not exist."),
                    )
                })
            }
        }
    }

    /// The template's id, version number and data that a `LaunchTemplate…Specification` names.
    pub(crate) fn resolve_template(
        &self,
        id: Option<&str>,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<(String, Version), ApiError> {
        let template = self.find_template(id, name)?;
        let found = template
            .version(version)
            .ok_or_else(|| version_not_found(version.unwrap_or("$Default"), &template.id))?;
        Ok((template.id.clone(), found.clone()))
    }

    fn template_key(&self, request: &Node) -> Result<u64, ApiError> {
        let id = self
            .find_template(request.text("LaunchTemplateId"), request.text("LaunchTemplateName"))?
            .id
            .clone();
        self.templates
            .iter()
            .find(|(_, template)| template.id == id)
            .map(|(key, _)| *key)
            .ok_or_else(|| ApiError::new("InvalidLaunchTemplateId.NotFound", id))
    }

    pub(crate) fn create_launch_template(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = self.once("CreateLaunchTemplate", request, |region| {
            let name = request.required("LaunchTemplateName")?;
            let valid = |c: char| c.is_ascii_alphanumeric() || "().-/_".contains(c);
            if !(3..=128).contains(&name.len()) || !name.chars().all(valid) {
                return Err(ApiError::new(
                    "InvalidLaunchTemplateName.MalformedException",
                    format!("Launch template name '{name}' is not 3 to 128 letters, digits and ().-/_"),
                ));
            }
            if region.templates.values().any(|template| template.name == name) {
                return Err(ApiError::new(
                    "InvalidLaunchTemplateName.AlreadyExistsException",
                    format!("Launch template name already in use: {name}"),
                ));
            }
            let empty = Node::default();
            let data = LaunchData::read(request.at("LaunchTemplateData").unwrap_or(&empty))?;
            Self::check_template_data(&data)?;
            let id = region.new_id("lt");
            for spec in read_tag_specs(request)? {
                if spec.resource_type != "launch-template" {
                    return Err(ApiError::invalid_value(
                        "TagSpecification.1.ResourceType",
                        &spec.resource_type,
                        "It must be launch-template.",
                    ));
                }
                region.put_tags(&id, &spec.tags);
            }
            let version = Version {
                number: 1,
                description: request.owned("VersionDescription"),
                created: region.now,
                data,
            };
            region.serial += 1;
            region.templates.insert(
                region.serial,
                Template {
                    id: id.clone(),
                    name: name.to_owned(),
                    created: region.now,
                    default_version: 1,
                    latest_version: 1,
                    versions: vec![version],
                },
            );
            Ok(id)
        })?;
        let template = self.find_template(Some(&id), None)?;
        xml.node("launchTemplate", |xml| self.write_template(xml, template));
        if let Some(version) = template.versions.first() {
            self.write_warning(xml, &version.data);
        }
        Ok(())
    }

    fn check_template_data(data: &LaunchData) -> Result<(), ApiError> {
        let kinds = ["instance", "volume", "spot-instances-request", "network-interface"];
        match data.tag_specs.iter().find(|spec| !kinds.contains(&spec.resource_type.as_str())) {
            Some(spec) => Err(ApiError::invalid_value(
                "TagSpecification.1.ResourceType",
                &spec.resource_type,
                "It must be instance, volume, network-interface or spot-instances-request.",
            )),
            None => Ok(()),
        }
    }

    /// A template with values that no launch could use is made all the same, with a warning (API_ValidationWarning).
    fn write_warning(&self, xml: &mut Xml, data: &LaunchData) {
        let mut errors: Vec<ApiError> = Vec::new();
        if let Some(name) = &data.instance_type {
            errors.extend(self.facts(name).err());
        }
        if let Some(image) = &data.image {
            errors.extend(self.image(image).err());
        }
        for group in &data.groups {
            errors.extend(self.check_group(group).err());
        }
        if !errors.is_empty() {
            xml.node("warning", |xml| {
                xml.set("errorSet", &errors, |xml, error| {
                    xml.text("code", &error.code);
                    xml.text("message", &error.message);
                });
            });
        }
    }

    pub(crate) fn create_launch_template_version(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let key = self.template_key(request)?;
        let text = self.once("CreateLaunchTemplateVersion", request, |region| {
            let empty = Node::default();
            let mut data = LaunchData::read(request.at("LaunchTemplateData").unwrap_or(&empty))?;
            Self::check_template_data(&data)?;
            let template = &region.templates[&key];
            if let Some(source) = request.text("SourceVersion") {
                let source =
                    template.version(Some(source)).ok_or_else(|| version_not_found(source, &template.id))?;
                data = source.data.overlaid(&data);
            }
            let now = region.now;
            let template = region.templates.get_mut(&key).expect("found above");
            template.latest_version += 1;
            let number = template.latest_version;
            template.versions.push(Version {
                number,
                description: request.owned("VersionDescription"),
                created: now,
                data,
            });
            Ok(number.to_string())
        })?;
        let template = &self.templates[&key];
        let version = template.version(Some(&text)).ok_or_else(|| version_not_found(&text, &template.id))?;
        xml.node("launchTemplateVersion", |xml| self.write_version(xml, template, version));
        self.write_warning(xml, &version.data);
        Ok(())
    }

    pub(crate) fn modify_launch_template(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let key = self.template_key(request)?;
        let wanted = request.required("SetDefaultVersion")?;
        let template = &self.templates[&key];
        let number =
            template.version(Some(wanted)).ok_or_else(|| version_not_found(wanted, &template.id))?.number;
        self.templates.get_mut(&key).expect("found above").default_version = number;
        let template = &self.templates[&key];
        xml.node("launchTemplate", |xml| self.write_template(xml, template));
        Ok(())
    }

    pub(crate) fn delete_launch_template(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let key = self.template_key(request)?;
        let template = &self.templates[&key];
        xml.node("launchTemplate", |xml| self.write_template(xml, template));
        let id = template.id.clone();
        self.templates.remove(&key);
        self.tags.remove(&id);
        Ok(())
    }

    pub(crate) fn describe_launch_templates(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(request, &["create-time", "launch-template-name", "tag-key"])?;
        let page = Page::read("DescribeLaunchTemplates", request, 1, 200)?;
        let ids = request.texts("LaunchTemplateId");
        let names = request.texts("LaunchTemplateName");
        for id in &ids {
            self.find_template(Some(id), None)?;
        }
        for name in &names {
            self.find_template(None, Some(name))?;
        }
        let found: Vec<&Template> = self
            .templates
            .values()
            .filter(|template| {
                (ids.is_empty() || ids.contains(&template.id.as_str()))
                    && (names.is_empty() || names.contains(&template.name.as_str()))
                    && filters.accept(|name| match name {
                        "create-time" => vec![Cow::Owned(iso(template.created))],
                        "launch-template-name" => vec![Cow::Borrowed(template.name.as_str())],
                        other => self.tag_values(&template.id, other),
                    })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("launchTemplates", found, |xml, template| self.write_template(xml, template));
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(crate) fn describe_launch_template_versions(
        &self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let known = [
            "create-time",
            "ebs-optimized",
            "image-id",
            "instance-type",
            "is-default-version",
            "kernel-id",
            "ram-disk-id",
            "http-endpoint",
            "http-protocol-ipv4",
            "host-resource-group-arn",
            "iam-instance-profile",
            "license-configuration-arn",
            "network-card-index",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeLaunchTemplateVersions", request, 1, 200)?;
        let wanted = request.texts("LaunchTemplateVersion");
        let mut found: Vec<(&Template, &Version)> = Vec::new();
        let id = request.text("LaunchTemplateId");
        let name = request.text("LaunchTemplateName");
        if id.is_none() && name.is_none() {
            if wanted.is_empty() || wanted.iter().any(|wanted| !wanted.starts_with('$')) {
                return Err(ApiError::missing("LaunchTemplateId"));
            }
            for template in self.templates.values() {
                for wanted in &wanted {
                    found.extend(template.version(Some(wanted)).map(|version| (template, version)));
                }
            }
        } else {
            let template = self.find_template(id, name)?;
            if wanted.is_empty() {
                let least = request.int("MinVersion").unwrap_or(0);
                let most = request.int("MaxVersion").unwrap_or(i64::MAX);
                let mut versions: Vec<&Version> = template
                    .versions
                    .iter()
                    .filter(|version| {
                        let number = i64::try_from(version.number).unwrap_or(i64::MAX);
                        (least..=most).contains(&number)
                    })
                    .collect();
                // EC2 lists the latest first.
                versions.reverse();
                found.extend(versions.into_iter().map(|version| (template, version)));
            } else {
                for wanted in wanted {
                    let version = template
                        .version(Some(wanted))
                        .ok_or_else(|| version_not_found(wanted, &template.id))?;
                    found.push((template, version));
                }
            }
        }
        found.retain(|(template, version)| {
            filters.accept(|name| {
                let value = match name {
                    "create-time" => Some(iso(version.created)),
                    "ebs-optimized" => version.data.ebs_optimized.map(|flag| flag.to_string()),
                    "image-id" => version.data.image.clone(),
                    "instance-type" => version.data.instance_type.clone(),
                    "is-default-version" => Some((version.number == template.default_version).to_string()),
                    "iam-instance-profile" => version.data.profile_arn.clone(),
                    "http-endpoint" => version.data.metadata.endpoint.clone(),
                    _ => None,
                };
                value.map(Cow::Owned).into_iter().collect()
            })
        });
        let (found, token) = page.cut(found);
        xml.set("launchTemplateVersionSet", found, |xml, (template, version)| {
            self.write_version(xml, template, version);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn creator(&self) -> String {
        format!("arn:aws:iam::{}:root", self.rules.account)
    }

    fn write_template(&self, xml: &mut Xml, template: &Template) {
        xml.text("launchTemplateId", &template.id);
        xml.text("launchTemplateName", &template.name);
        xml.time("createTime", template.created);
        xml.text("createdBy", &self.creator());
        xml.put("defaultVersionNumber", template.default_version);
        xml.put("latestVersionNumber", template.latest_version);
        write_tags(xml, self.tags_of(&template.id));
    }

    fn write_version(&self, xml: &mut Xml, template: &Template, version: &Version) {
        xml.text("launchTemplateId", &template.id);
        xml.text("launchTemplateName", &template.name);
        xml.put("versionNumber", version.number);
        xml.maybe("versionDescription", version.description.as_ref());
        xml.time("createTime", version.created);
        xml.text("createdBy", &self.creator());
        xml.put("defaultVersion", version.number == template.default_version);
        xml.node("launchTemplateData", |xml| version.data.write(xml));
    }
}

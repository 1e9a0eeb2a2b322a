// SPDX-License-Identifier: GPL-3.0-or-later
//! DescribeInstanceTypes and DescribeInstanceTypeOfferings.

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::catalog::{self, Hypervisor, TypeFacts};
use crate::model::region::Region;

impl TypeFacts {
    fn current(&self) -> bool {
        !["t2", "c4", "m4", "p3", "x1"].contains(&self.family())
    }

    fn hypervisor_name(&self) -> Option<&'static str> {
        match self.hypervisor {
            Hypervisor::Nitro => Some("nitro"),
            Hypervisor::Xen => Some("xen"),
            Hypervisor::BareMetal => None,
        }
    }

    fn usage_classes(&self) -> &'static [&'static str] {
        if self.sold_as_spot() { &["on-demand", "spot"] } else { &["on-demand"] }
    }
}

impl Region {
    pub(crate) fn describe_instance_types(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "auto-recovery-supported",
            "bare-metal",
            "burstable-performance-supported",
            "current-generation",
            "hibernation-supported",
            "hypervisor",
            "instance-storage-supported",
            "instance-type",
            "memory-info.size-in-mib",
            "network-info.efa-supported",
            "processor-info.supported-architecture",
            "supported-usage-class",
            "supported-virtualization-type",
            "vcpu-info.default-cores",
            "vcpu-info.default-threads-per-core",
            "vcpu-info.default-vcpus",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeInstanceTypes", request, 5, 100)?;
        let names = request.texts("InstanceType");
        if names.len() > 100 {
            return Err(ApiError::invalid_value(
                "InstanceType",
                &names.len().to_string(),
                "At most 100 types are allowed.",
            ));
        }
        let unknown: Vec<&str> = names.iter().copied().filter(|name| catalog::find(name).is_none()).collect();
        if !unknown.is_empty() {
            return Err(ApiError::new(
                "InvalidInstanceType",
                format!("The following supplied instance types do not exist: [{}]", unknown.join(", ")),
            ));
        }
        let found: Vec<&TypeFacts> = catalog::all()
            .filter(|facts| names.is_empty() || names.contains(&facts.name))
            .filter(|facts| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    match name {
                        "auto-recovery-supported" => one("true"),
                        "bare-metal" => one(&facts.bare_metal().to_string()),
                        "burstable-performance-supported" => one(&facts.burstable().to_string()),
                        "current-generation" => one(&facts.current().to_string()),
                        "hibernation-supported" => one(&facts.hibernation.to_string()),
                        "hypervisor" => facts.hypervisor_name().map(Cow::Borrowed).into_iter().collect(),
                        "instance-storage-supported" => one(&(facts.local_disk_gb > 0).to_string()),
                        "instance-type" => one(facts.name),
                        "memory-info.size-in-mib" => one(&facts.memory_mib.to_string()),
                        "network-info.efa-supported" => one(&facts.efa.to_string()),
                        "processor-info.supported-architecture" => one(facts.architecture),
                        "supported-usage-class" => {
                            facts.usage_classes().iter().map(|class| Cow::Borrowed(*class)).collect()
                        }
                        "supported-virtualization-type" => one("hvm"),
                        "vcpu-info.default-cores" => one(&facts.cores().to_string()),
                        "vcpu-info.default-threads-per-core" => one(&facts.threads_per_core.to_string()),
                        _ => one(&facts.vcpus.to_string()),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("instanceTypeSet", found, write_type);
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(crate) fn describe_instance_type_offerings(
        &self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let filters = Filters::read(request, &["instance-type", "location"])?;
        let page = Page::read("DescribeInstanceTypeOfferings", request, 5, 1000)?;
        let kind = request.text("LocationType").unwrap_or("region");
        let locations: Vec<String> = match kind {
            "region" => vec![self.name.clone()],
            "availability-zone" => self.zone_names(),
            "availability-zone-id" => self.rules.zones.iter().map(|letter| self.zone_id(letter)).collect(),
            other => {
                return Err(ApiError::invalid_value(
                    "LocationType",
                    other,
                    "Valid values: region, availability-zone, availability-zone-id.",
                ));
            }
        };
        let mut found = Vec::new();
        for facts in catalog::all() {
            for location in &locations {
                let accepted = filters.accept(|name| {
                    vec![if name == "location" {
                        Cow::Borrowed(location.as_str())
                    } else {
                        Cow::Borrowed(facts.name)
                    }]
                });
                if accepted {
                    found.push((facts.name, location.clone()));
                }
            }
        }
        let (found, token) = page.cut(found);
        xml.set("instanceTypeOfferingSet", found, |xml, (name, location)| {
            xml.text("instanceType", name);
            xml.text("locationType", kind);
            xml.text("location", &location);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }
}

fn write_type(xml: &mut Xml, facts: &TypeFacts) {
    xml.text("instanceType", facts.name);
    xml.put("currentGeneration", facts.current());
    xml.put("freeTierEligible", ["t2.micro", "t3.micro"].contains(&facts.name));
    xml.texts("supportedUsageClasses", facts.usage_classes());
    xml.texts("supportedRootDeviceTypes", ["ebs"]);
    xml.texts("supportedVirtualizationTypes", ["hvm"]);
    xml.put("bareMetal", facts.bare_metal());
    xml.maybe("hypervisor", facts.hypervisor_name());
    xml.node("processorInfo", |xml| xml.texts("supportedArchitectures", [facts.architecture]));
    xml.node("vCpuInfo", |xml| {
        xml.put("defaultVCpus", facts.vcpus);
        xml.put("defaultCores", facts.cores());
        xml.put("defaultThreadsPerCore", facts.threads_per_core);
        xml.texts("validThreadsPerCore", (1..=facts.threads_per_core).map(|threads| threads.to_string()));
    });
    xml.node("memoryInfo", |xml| xml.put("sizeInMiB", facts.memory_mib));
    xml.put("instanceStorageSupported", facts.local_disk_gb > 0);
    if facts.local_disk_gb > 0 {
        xml.node("instanceStorageInfo", |xml| {
            xml.put("totalSizeInGB", facts.local_disk_gb);
            xml.text("nvmeSupport", "required");
            xml.text("encryptionSupport", "required");
        });
    }
    xml.node("ebsInfo", |xml| {
        xml.text("ebsOptimizedSupport", "default");
        xml.text("encryptionSupport", "supported");
        xml.text("nvmeSupport", if facts.hypervisor == Hypervisor::Xen { "unsupported" } else { "required" });
    });
    xml.node("networkInfo", |xml| {
        xml.text("networkPerformance", facts.network);
        xml.put("maximumNetworkInterfaces", facts.max_interfaces);
        xml.text("enaSupport", if facts.hypervisor == Hypervisor::Xen { "supported" } else { "required" });
        xml.put("efaSupported", facts.efa);
        if facts.efa {
            xml.node("efaInfo", |xml| {
                xml.put("maximumEfaInterfaces", if facts.network.starts_with("4x") { 4 } else { 1 })
            });
        }
    });
    if let Some(gpu) = &facts.gpu {
        xml.node("gpuInfo", |xml| {
            xml.set("gpus", [gpu], |xml, gpu| {
                xml.text("name", gpu.name);
                xml.text("manufacturer", "NVIDIA");
                xml.put("count", gpu.count);
                xml.node("memoryInfo", |xml| xml.put("sizeInMiB", gpu.memory_mib));
            });
            xml.put("totalGpuMemoryInMiB", u64::from(gpu.count) * gpu.memory_mib);
        });
    }
    xml.node("placementGroupInfo", |xml| {
        let burstable = facts.burstable();
        xml.texts(
            "supportedStrategies",
            if burstable { &["partition", "spread"][..] } else { &["cluster", "partition", "spread"] },
        );
    });
    xml.put("hibernationSupported", facts.hibernation);
    xml.put("burstablePerformanceSupported", facts.burstable());
    xml.put("dedicatedHostsSupported", !facts.burstable());
    xml.put("autoRecoverySupported", facts.local_disk_gb == 0);
}

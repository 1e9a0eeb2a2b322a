// SPDX-License-Identifier: GPL-3.0-or-later
//! Attribute-based instance type selection (API_InstanceRequirements).

use crate::api::filter::wildcard;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::catalog::{self, TypeFacts};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Range {
    min: Option<f64>,
    max: Option<f64>,
}

impl Range {
    fn read(node: &Node, path: &str) -> Option<Self> {
        let range = node.at(path)?;
        Some(Self { min: range.number("Min"), max: range.number("Max") })
    }

    fn holds(self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }

    fn write(self, xml: &mut Xml, name: &str) {
        xml.node(name, |xml| {
            xml.maybe("min", self.min);
            xml.maybe("max", self.max);
        });
    }
}

/// The attributes of `InstanceRequirements` that the catalog of types can tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requirements {
    vcpus: Range,
    memory_mib: Range,
    memory_per_vcpu: Option<Range>,
    accelerators: Option<Range>,
    allowed: Vec<String>,
    excluded: Vec<String>,
    bare_metal: Option<String>,
    burstable: Option<String>,
    local_storage: Option<String>,
    hibernation: Option<bool>,
}

impl Requirements {
    pub fn read(node: &Node) -> Self {
        let owned = |name: &str| node.texts(name).into_iter().map(str::to_owned).collect();
        Self {
            vcpus: Range::read(node, "VCpuCount").unwrap_or_default(),
            memory_mib: Range::read(node, "MemoryMiB").unwrap_or_default(),
            memory_per_vcpu: Range::read(node, "MemoryGiBPerVCpu"),
            accelerators: Range::read(node, "AcceleratorCount"),
            allowed: owned("AllowedInstanceType"),
            excluded: owned("ExcludedInstanceType"),
            bare_metal: node.owned("BareMetal"),
            burstable: node.owned("BurstablePerformance"),
            local_storage: node.owned("LocalStorage"),
            hibernation: node.flag("RequireHibernateSupport"),
        }
    }

    /// The types of the catalog that fit; `architecture` empty fits all.
    pub fn types(&self, architecture: &str) -> Vec<&'static str> {
        catalog::all()
            .filter(|facts| architecture.is_empty() || facts.architecture == architecture)
            .filter(|facts| self.fits(facts))
            .map(|facts| facts.name)
            .collect()
    }

    fn fits(&self, facts: &TypeFacts) -> bool {
        // "included" and "excluded" are EC2's defaults as API_InstanceRequirements lists them.
        let choice =
            |rule: &Option<String>, default: &str, has: bool| match rule.as_deref().unwrap_or(default) {
                "required" => has,
                "excluded" => !has,
                _ => true,
            };
        let listed = |patterns: &[String]| patterns.iter().any(|p| wildcard(p, facts.name));
        #[allow(clippy::cast_precision_loss)]
        let memory = facts.memory_mib as f64;
        let vcpus = f64::from(facts.vcpus);
        let gpus = facts.gpu.as_ref().map_or(0, |gpu| gpu.count);
        self.vcpus.holds(vcpus)
            && self.memory_mib.holds(memory)
            && self.memory_per_vcpu.is_none_or(|range| range.holds(memory / 1024.0 / vcpus))
            && self.accelerators.map_or(gpus == 0, |range| range.holds(f64::from(gpus)))
            && (self.allowed.is_empty() || listed(&self.allowed))
            && !listed(&self.excluded)
            && choice(&self.bare_metal, "excluded", facts.bare_metal())
            && choice(&self.burstable, "excluded", facts.burstable())
            && choice(&self.local_storage, "included", facts.local_disk_gb > 0)
            && (self.hibernation != Some(true) || facts.hibernation)
    }

    pub fn write(&self, xml: &mut Xml) {
        xml.node("instanceRequirements", |xml| {
            self.vcpus.write(xml, "vCpuCount");
            self.memory_mib.write(xml, "memoryMiB");
            if let Some(range) = self.memory_per_vcpu {
                range.write(xml, "memoryGiBPerVCpu");
            }
            if let Some(range) = self.accelerators {
                range.write(xml, "acceleratorCount");
            }
            if !self.allowed.is_empty() {
                xml.texts("allowedInstanceTypeSet", &self.allowed);
            }
            if !self.excluded.is_empty() {
                xml.texts("excludedInstanceTypeSet", &self.excluded);
            }
            xml.maybe("bareMetal", self.bare_metal.as_ref());
            xml.maybe("burstablePerformance", self.burstable.as_ref());
            xml.maybe("localStorage", self.local_storage.as_ref());
            xml.maybe("requireHibernateSupport", self.hibernation);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_choose_types() {
        let node = Node::parse([
            ("VCpuCount.Min", "2"),
            ("VCpuCount.Max", "2"),
            ("MemoryMiB.Min", "4096"),
            ("MemoryMiB.Max", "4096"),
            ("ExcludedInstanceType.1", "c6*"),
        ]);
        let types = Requirements::read(&node).types("x86_64");
        assert!(types.contains(&"c5.large"), "{types:?}");
        assert!(types.iter().all(|name| !name.starts_with("c6") && !name.starts_with('t')));
    }
}

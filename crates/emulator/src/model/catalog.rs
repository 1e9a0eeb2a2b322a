// SPDX-License-Identifier: GPL-3.0-or-later
//! Facts of instance types: processors, memory, GPUs, hypervisor, price.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One instance type, as DescribeInstanceTypes tells it.
#[derive(Debug, PartialEq)]
pub struct TypeFacts {
    pub name: &'static str,
    pub vcpus: u32,
    pub threads_per_core: u32,
    pub memory_mib: u64,
    pub architecture: &'static str,
    pub hypervisor: Hypervisor,
    pub hibernation: bool,
    pub efa: bool,
    pub max_interfaces: u32,
    pub local_disk_gb: u64,
    pub gpu: Option<Gpu>,
    pub network: &'static str,
    /// On-demand Linux in us-east-1, USD an hour.
    pub price: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    Nitro,
    Xen,
    BareMetal,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Gpu {
    pub count: u32,
    pub name: &'static str,
    pub memory_mib: u64,
}

impl TypeFacts {
    pub fn cores(&self) -> u32 {
        self.vcpus / self.threads_per_core
    }

    pub fn family(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    pub fn bare_metal(&self) -> bool {
        self.hypervisor == Hypervisor::BareMetal
    }

    pub fn burstable(&self) -> bool {
        self.name.starts_with('t')
    }

    /// hpc types are sold on demand only (EC2 User Guide, HPC instances).
    pub fn sold_as_spot(&self) -> bool {
        !self.name.starts_with("hpc")
    }
}

static TYPES: LazyLock<BTreeMap<&'static str, TypeFacts>> = LazyLock::new(|| {
    include_str!("instance_types.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let facts = read(line).expect("the built-in table of instance types is well formed");
            (facts.name, facts)
        })
        .collect()
});

fn read(line: &'static str) -> Option<TypeFacts> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    Some(TypeFacts {
        name: next()?,
        vcpus: next()?.parse().ok()?,
        threads_per_core: next()?.parse().ok()?,
        memory_mib: next()?.parse().ok()?,
        architecture: next()?,
        hypervisor: match next()? {
            "nitro" => Hypervisor::Nitro,
            "xen" => Hypervisor::Xen,
            "none" => Hypervisor::BareMetal,
            _ => return None,
        },
        hibernation: next()? == "y",
        efa: next()? == "y",
        max_interfaces: next()?.parse().ok()?,
        local_disk_gb: next()?.parse().ok()?,
        gpu: match next()? {
            "-" => None,
            gpu => {
                let mut parts = gpu.split('x');
                Some(Gpu {
                    count: parts.next()?.parse().ok()?,
                    name: parts.next()?,
                    memory_mib: parts.next()?.parse().ok()?,
                })
            }
        },
        network: next()?,
        price: next()?.parse().ok()?,
    })
}

pub fn find(name: &str) -> Option<&'static TypeFacts> {
    TYPES.get(name)
}

/// Every known type, by name.
pub fn all() -> impl Iterator<Item = &'static TypeFacts> {
    TYPES.values()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        assert!(all().count() >= 100);
        for facts in all() {
            assert_eq!(facts.vcpus % facts.threads_per_core, 0, "{}", facts.name);
            assert!(facts.price > 0.0 && facts.memory_mib > 0, "{}", facts.name);
            assert!(!(facts.hibernation && facts.bare_metal()), "{}", facts.name);
            assert!(
                !facts.hibernation || facts.memory_mib < 150 * 1024,
                "hibernation needs less than 150 GiB of memory: {}",
                facts.name
            );
        }
    }

    #[test]
    fn well_known_types() {
        let c5 = find("c5.xlarge").unwrap();
        assert_eq!((c5.vcpus, c5.cores(), c5.memory_mib), (4, 2, 8192));
        assert_eq!(find("c4.large").unwrap().hypervisor, Hypervisor::Xen);
        assert_eq!(find("p4d.24xlarge").unwrap().gpu.as_ref().unwrap().count, 8);
        assert!(!find("hpc6a.48xlarge").unwrap().sold_as_spot());
    }
}

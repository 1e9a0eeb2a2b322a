// SPDX-License-Identifier: GPL-3.0-or-later
//! VPCs, subnets and their private addresses.

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/16`.
    ///
    /// # Errors
    /// What is wrong, for the user. A VPC subnet has 16 to 28 bits; 8 to 28 are accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("cidr {text:?} is not a network such as 127.10.0.0/16");
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: Ipv4Addr = base.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if !(8..=28).contains(&bits) {
            return Err(format!("cidr {text:?}: the mask must have 8 to 28 bits"));
        }
        let base = u32::from(base);
        let cidr = Self { base, bits };
        if base & (cidr.size() - 1) != 0 {
            return Err(format!("cidr {text:?} has bits set beyond its mask"));
        }
        Ok(cidr)
    }

    fn size(self) -> u32 {
        1 << (32 - self.bits)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// EC2 keeps the first four addresses and the last one of a subnet ("Subnet CIDR blocks", VPC User Guide).
const RESERVED_FIRST: u32 = 4;
const RESERVED: u32 = 5;

#[derive(Debug)]
pub struct Subnet {
    pub id: String,
    pub vpc: String,
    pub zone: String,
    pub zone_id: String,
    pub cidr: Cidr,
    used: HashSet<u32>,
    cursor: u32,
}

impl Subnet {
    pub fn new(id: String, vpc: String, zone: String, zone_id: String, cidr: Cidr) -> Self {
        Self { id, vpc, zone, zone_id, cidr, used: HashSet::new(), cursor: RESERVED_FIRST }
    }

    pub fn free(&self) -> u32 {
        self.cidr.size() - RESERVED - u32::try_from(self.used.len()).unwrap_or(u32::MAX)
    }

    /// Takes the next free address. An address given back is used again last.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        if self.free() == 0 {
            return None;
        }
        let last = self.cidr.size() - 1;
        loop {
            let offset = self.cursor;
            self.cursor += 1;
            if self.cursor >= last {
                self.cursor = RESERVED_FIRST;
            }
            if self.used.insert(offset) {
                return Some(Ipv4Addr::from(self.cidr.base + offset));
            }
        }
    }

    /// Takes one address, if it is of this subnet and free.
    pub fn take_this(&mut self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.cidr.base);
        (RESERVED_FIRST..self.cidr.size() - 1).contains(&offset) && self.used.insert(offset)
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&u32::from(address).wrapping_sub(self.cidr.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(cidr: &str) -> Subnet {
        let text = |text: &str| text.to_owned();
        Subnet::new(text("subnet-1"), text("vpc-1"), text("za"), text("z1"), Cidr::parse(cidr).unwrap())
    }

    #[test]
    fn a_subnet_gives_every_address_but_the_reserved_ones_once() {
        let mut subnet = subnet("127.10.0.0/28");
        let taken: Vec<String> = std::iter::from_fn(|| subnet.take()).map(|a| a.to_string()).collect();
        assert_eq!(taken.len(), 11);
        assert_eq!(taken[0], "127.10.0.4");
        assert_eq!(taken[10], "127.10.0.14");
        assert_eq!(subnet.free(), 0);
        subnet.give_back("127.10.0.7".parse().unwrap());
        assert_eq!(subnet.take().unwrap().to_string(), "127.10.0.7");
    }

    #[test]
    fn networks_are_checked() {
        assert!(Cidr::parse("127.10.0.0/16").is_ok());
        for wrong in ["127.10.0.0", "127.10.0.0/4", "127.10.0.1/16", "x/16"] {
            assert!(Cidr::parse(wrong).is_err(), "{wrong}");
        }
    }
}

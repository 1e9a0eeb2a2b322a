// SPDX-License-Identifier: GPL-3.0-or-later
//! What a cluster has of this machine's loopback network for itself, so that several clusters run side by side.

use std::net::{Ipv4Addr, TcpListener};

use super::{Outcome, ports};

/// The second octets that clusters may have. What is below is for everything else: 127.0.0.1 foremost.
const FIRST: u8 = 16;
const COUNT: u8 = 240;
/// Whoever listens on this port at a range's last address has the range: that ends with the process, however it ends.
const CLAIM_PORT: u16 = 11_999;
/// Two ports for each range, which [`ports::free`] never gives away.
const FIRST_PORT: u16 = 12_000;

/// The addresses 127.N.0.0/16 and two ports, of no other cluster on this machine for as long as this value lives.
pub struct Loopback {
    second: u8,
    _claim: TcpListener,
}

impl Loopback {
    /// A range that is free: one cluster's daemons meet no other's, of this process or of another one.
    pub fn claim() -> Outcome<Self> {
        // Somewhere else each time: what may still run of a cluster that was killed is not met soon.
        let start = fastrand::u8(0..COUNT);
        for step in 0..COUNT {
            let second = FIRST
                + u8::try_from((u16::from(start) + u16::from(step)) % u16::from(COUNT)).expect("below COUNT");
            let Ok(claim) = TcpListener::bind((Ipv4Addr::new(127, second, 255, 254), CLAIM_PORT)) else {
                continue;
            };
            let range = Self { second, _claim: claim };
            if [range.slurmctld_port(), range.slurmd_port()].into_iter().all(ports::is_free) {
                return Ok(range);
            }
        }
        Err(format!("all {COUNT} loopback ranges of this machine are in use"))
    }

    /// `127.N.third.fourth`
    pub fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, third, fourth)
    }

    /// Halves of the range, for the subnets of two zones. As in EC2 the first four addresses of each are no instance's.
    pub fn subnets(&self) -> [String; 2] {
        [0, 128].map(|third| format!("{}/17", self.address(third, 0)))
    }

    pub fn slurmctld_port(&self) -> u16 {
        FIRST_PORT + 2 * u16::from(self.second)
    }

    pub fn slurmd_port(&self) -> u16 {
        self.slurmctld_port() + 1
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Ports for daemons that take a number and not "any".

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which the system gives ports to outgoing connections, so that none of these takes it
/// between our look and the daemon's bind; above those that clusters have by their loopback ranges.
const RANGE: std::ops::Range<u16> = 13_000..32_000;

/// `N` different ports that nobody listens on, at any address.
pub fn free<const N: usize>() -> [u16; N] {
    let mut taken = Vec::new();
    while taken.len() < N {
        let port = fastrand::u16(RANGE);
        if !taken.contains(&port) && is_free(port) {
            taken.push(port);
        }
    }
    taken.try_into().expect("N ports were collected")
}

/// Nobody listens on it, at any address.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

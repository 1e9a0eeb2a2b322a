// SPDX-License-Identifier: GPL-3.0-or-later
//! Ports for daemons that take a number and not "any".

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which the system gives ports to outgoing connections, so that none of these takes it
/// between our look and the daemon's bind.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// `N` different ports that nobody listens on, at any address.
pub fn free<const N: usize>() -> [u16; N] {
    let mut taken = Vec::new();
    while taken.len() < N {
        let port = fastrand::u16(RANGE);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            taken.push(port);
        }
    }
    taken.try_into().expect("N ports were collected")
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Tells the test whether it is compiled with optimisation, which makes the simulator thirty times as fast.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(optimised)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0") {
        println!("cargo::rustc-cfg=optimised");
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Rust's view of the C contract, and the link option that keeps the library in memory.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=slurm-headers/wrapper.h");
    println!("cargo:rerun-if-changed=c_shim/plugin_abi.h");
    // slurmctld calls dlclose after fini; code that a late thread still runs must stay mapped.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    plugin_abi();
}

fn plugin_abi() {
    use std::env;
    use std::path::PathBuf;

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("plugin_abi.rs");
    bindgen::Builder::default()
        .header("slurm-headers/wrapper.h")
        .allowlist_item("(ec2fleet|EC2FLEET)_.*")
        // The entry points are defined in src/ffi, not imported.
        .blocklist_function("ec2fleet_plugin_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .default_macro_constant_type(bindgen::MacroTypeVariation::Unsigned)
        .derive_default(true)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .unwrap_or_else(|error| panic!("c_shim/plugin_abi.h could not be read (libclang is needed: apt-get install libclang-dev): {error}"))
        .write_to_file(&out)
        .unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}

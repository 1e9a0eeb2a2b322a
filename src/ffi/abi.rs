// SPDX-License-Identifier: GPL-3.0-or-later
//! c_shim/plugin_abi.h as bindgen reads it (build.rs).

#![allow(clippy::all, clippy::pedantic, dead_code, non_camel_case_types)]

include!(concat!(env!("OUT_DIR"), "/plugin_abi.rs"));

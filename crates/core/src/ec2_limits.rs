// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2 allows in one call, on one resource and in one region. Each limit stands here once, with its source.

/// EC2 Fleets of an account that are active in a region (EC2 user guide, "EC2 Fleet quotas").
pub const FLEETS_PER_REGION: u32 = 1_000;

/// Ids in one TerminateInstances or CreateTags call (EC2 API reference, API_TerminateInstances and API_CreateTags).
pub const IDS_PER_CALL: usize = 1_000;

/// Fleets in one DeleteFleets call, unless they are of type instant (EC2 API reference, API_DeleteFleets).
pub const FLEETS_PER_DELETION: usize = 100;

/// Values of one filter of a Describe call (EC2 API reference, API_Filter).
pub const VALUES_PER_FILTER: usize = 200;

/// Launch specifications of one fleet: its overrides, each in each subnet (EC2 user guide, "EC2 Fleet quotas").
pub const OVERRIDES_PER_FLEET: usize = 300;

/// Tags on one resource (EC2 user guide, "Tag restrictions").
pub const TAGS_PER_RESOURCE: usize = 50;

/// The longest value of a tag, in characters (EC2 user guide, "Tag restrictions").
pub const TAG_VALUE_CHARS: usize = 256;

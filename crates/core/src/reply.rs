// SPDX-License-Identifier: GPL-3.0-or-later
//! An answer of EC2 as the kind that was asked for; any other kind is one and the same error.

use super::ec2_api::{
    CloudError, CloudReply, ErrorClass, Fleet, FleetHistoryRecord, FleetReply, Instance, InstanceParts,
    Volume,
};

impl CloudReply {
    /// # Errors
    /// The answer is not that of CreateFleet.
    pub fn into_fleet(self) -> Result<FleetReply, CloudError> {
        match self {
            Self::Fleet(fleet) => Ok(fleet),
            other => Err(other.unexpected()),
        }
    }

    /// # Errors
    /// The answer holds no instances.
    pub fn into_instances(self) -> Result<Vec<Instance>, CloudError> {
        match self {
            Self::Instances(instances) => Ok(instances),
            other => Err(other.unexpected()),
        }
    }

    /// # Errors
    /// The answer is not that of DescribeFleets.
    pub fn into_fleets(self) -> Result<Vec<Fleet>, CloudError> {
        match self {
            Self::Fleets(fleets) => Ok(fleets),
            other => Err(other.unexpected()),
        }
    }

    /// # Errors
    /// The answer is not that of DescribeFleetHistory.
    pub fn into_history(self) -> Result<Vec<FleetHistoryRecord>, CloudError> {
        match self {
            Self::History(records) => Ok(records),
            other => Err(other.unexpected()),
        }
    }

    /// The fleets that are deleted, and those that are not, with EC2's code for each.
    ///
    /// # Errors
    /// The answer is not that of DeleteFleets.
    #[allow(clippy::type_complexity)]
    pub fn into_deleted(self) -> Result<(Vec<String>, Vec<(String, String)>), CloudError> {
        match self {
            Self::Deleted { deleted, failed } => Ok((deleted, failed)),
            other => Err(other.unexpected()),
        }
    }

    /// # Errors
    /// The answer shows no parts of instances.
    pub fn into_parts(self) -> Result<(Vec<InstanceParts>, Vec<Volume>), CloudError> {
        match self {
            Self::Parts { instances, volumes } => Ok((instances, volumes)),
            other => Err(other.unexpected()),
        }
    }

    fn unexpected(&self) -> CloudError {
        CloudError {
            class: ErrorClass::Other,
            code: "UnexpectedReply".into(),
            message: format!("unexpected reply {self:?}"),
            request_id: None,
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine asks of EC2.
//!
//! [`sdk`] is the only module that names the AWS SDK; [`errors`] says what a failed call means.

use std::future::Future;
use std::pin::Pin;

use ec2fleet_core::ec2_api::{CloudRequest, CloudResult};
use ec2fleet_core::site::Account;

pub mod catalog;
pub mod errors;
pub mod sdk;

/// EC2, as the driver sees it. One call is one attempt: retries, tokens and budget belong to the engine.
pub trait Cloud: Send + Sync + 'static {
    fn call(
        &self,
        account: Account,
        request: CloudRequest,
    ) -> Pin<Box<dyn Future<Output = CloudResult> + Send>>;
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! From the SDK's errors to ours.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;

use crate::errors::{self, TransportFailure};
use ec2fleet_core::ec2_api::CloudError;

/// What the failed call means.
pub(super) fn convert<E>(error: SdkError<E, HttpResponse>) -> CloudError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let request_id = error
        .raw_response()
        .and_then(|raw| raw.request_id().map(str::to_owned).or_else(|| request_id_in(raw.body().bytes()?)));
    let converted = match &error {
        SdkError::ServiceError(service) => match service.err().meta().code() {
            Some(code) => CloudError {
                class: errors::classify(code),
                code: code.to_owned(),
                message: service.err().meta().message().unwrap_or_default().to_owned(),
                request_id: None,
            },
            None if service.raw().status().is_success() => {
                TransportFailure::MalformedReply.error(chain(&error))
            }
            None => without_code(service.raw()),
        },
        SdkError::ResponseError(response) if !response.raw().status().is_success() => {
            without_code(response.raw())
        }
        // A reply that was cut and one that makes no sense: either way the effect is not known.
        SdkError::ResponseError(_) => TransportFailure::MalformedReply.error(chain(&error)),
        SdkError::TimeoutError(_) => TransportFailure::Timeout.error(chain(&error)),
        SdkError::DispatchFailure(dispatch) => {
            dispatch_failure(&error, dispatch.is_timeout()).error(chain(&error))
        }
        _ if credentials_missing(&error) => TransportFailure::NoCredentials.error(chain(&error)),
        _ => TransportFailure::RequestNotBuilt.error(chain(&error)),
    };
    CloudError { request_id, ..converted }
}

fn dispatch_failure(error: &(dyn Error + 'static), timeout: bool) -> TransportFailure {
    if credentials_missing(error) {
        return TransportFailure::NoCredentials;
    }
    // The connector's own error types are not public: their text is all there is to tell these apart.
    let text = chain(error).to_ascii_lowercase();
    if text.contains("certificate") {
        TransportFailure::CertificateRefused
    } else if ["(connect)", "dns", "tcp connect", "connect timeout"].iter().any(|part| text.contains(part)) {
        TransportFailure::ConnectFailed
    } else if timeout {
        TransportFailure::Timeout
    } else {
        TransportFailure::ConnectionLost
    }
}

fn credentials_missing(error: &(dyn Error + 'static)) -> bool {
    sources(error).any(|source| source.is::<CredentialsError>())
}

fn without_code(raw: &HttpResponse) -> CloudError {
    let status = raw.status().as_u16();
    CloudError {
        class: errors::classify_status(status),
        ..TransportFailure::HttpStatus.error(format!("HTTP status {status} without an EC2 error code"))
    }
}

/// EC2 puts the id into the body of an error; the SDK looks for it in the headers only.
fn request_id_in(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let id = ["<RequestID>", "<requestId>"].iter().find_map(|tag| body.split_once(tag))?.1.split_once('<')?.0;
    (!id.is_empty() && id.len() <= 64).then(|| id.trim().to_owned())
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// The texts of an error and of its causes, each once: the SDK's outer errors do not show their causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for source in sources(error) {
        let part = source.to_string();
        if text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2's error codes mean for us, and what the administrator can do about them.
//!
//! Codes are those of "Error codes for the Amazon EC2 API" (`errors-overview` in the API reference) and of the
//! `Errors[]` of CreateFleet. Pure: text in, class and remedy out.

use ec2fleet_core::ec2_api::{CloudError, ErrorClass};

/// Codes of our own, for calls that failed before EC2 gave an answer that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportFailure {
    /// No credentials could be loaded; nothing was sent.
    NoCredentials,
    /// The request could not be put together; nothing was sent.
    RequestNotBuilt,
    /// No connection: name not found, refused, or unreachable. Nothing was sent.
    ConnectFailed,
    /// The certificate of the endpoint is not trusted. Nothing was sent.
    CertificateRefused,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer was complete.
    ConnectionLost,
    /// An answer that is not what the EC2 API describes.
    MalformedReply,
    /// An HTTP status without an EC2 error code in the body.
    HttpStatus,
}

impl TransportFailure {
    pub const ALL: [Self; 8] = [
        Self::NoCredentials,
        Self::RequestNotBuilt,
        Self::ConnectFailed,
        Self::CertificateRefused,
        Self::Timeout,
        Self::ConnectionLost,
        Self::MalformedReply,
        Self::HttpStatus,
    ];

    /// Stands in [`CloudError::code`], where EC2's own code would be.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoCredentials => "NoCredentials",
            Self::RequestNotBuilt => "RequestNotBuilt",
            Self::ConnectFailed => "ConnectFailed",
            Self::CertificateRefused => "CertificateRefused",
            Self::Timeout => "Timeout",
            Self::ConnectionLost => "ConnectionLost",
            Self::MalformedReply => "MalformedReply",
            Self::HttpStatus => "HttpStatus",
        }
    }

    #[must_use]
    pub fn class(self) -> ErrorClass {
        match self {
            Self::NoCredentials => ErrorClass::Permission,
            Self::RequestNotBuilt => ErrorClass::Other,
            Self::CertificateRefused => ErrorClass::Configuration,
            Self::ConnectFailed
            | Self::Timeout
            | Self::ConnectionLost
            | Self::MalformedReply
            | Self::HttpStatus => ErrorClass::Transient,
        }
    }

    /// The error with this failure as its code.
    #[must_use]
    pub fn error(self, message: impl Into<String>) -> CloudError {
        CloudError {
            class: self.class(),
            code: self.code().to_owned(),
            message: message.into(),
            request_id: None,
        }
    }
}

/// The class of an EC2 error code.
///
/// Known codes come first. What is not listed is judged by the naming rules of the API (`Invalid…`, `…LimitExceeded`),
/// since EC2 adds codes more often than this crate is released.
#[must_use]
pub fn classify(code: &str) -> ErrorClass {
    let code = strip_fault_side(code);
    if let Some(failure) = TransportFailure::ALL.into_iter().find(|failure| failure.code() == code) {
        return failure.class();
    }
    known(code).unwrap_or_else(|| by_name(code))
}

/// `Client.` and `Server.` stand before codes in state reasons and in the SOAP era's replies.
fn strip_fault_side(code: &str) -> &str {
    code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code)
}

fn known(code: &str) -> Option<ErrorClass> {
    Some(match code {
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacityOnOutpost"
        | "InsufficientVolumeCapacity"
        | "UnfulfillableCapacity"
        | "ReservationCapacityExceeded"
        // The price of this pool is above the maximum that the group pays; another pool's may not be.
        | "SpotMaxPriceTooLow" => ErrorClass::Capacity,

        "MaxSpotInstanceCountExceeded"
        | "VcpuLimitExceeded"
        | "MaxFleetCountExceeded"
        | "MaxSpotFleetRequestCountExceeded"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientAddressCapacity"
        | "InstanceLimitExceeded"
        | "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "PrivateIpAddressLimitExceeded"
        | "NetworkInterfaceLimitExceeded"
        | "ResourceLimitExceeded"
        | "ResourceCountLimitExceeded" => ErrorClass::Quota,

        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded"
        | "PriorRequestNotComplete"
        | "SlowDown" => ErrorClass::Throttle,

        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Blocked"
        | "OptInRequired"
        | "PendingVerification"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "InvalidCertificate"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => ErrorClass::Permission,

        // An instance, fleet or Spot request is ours to find; any other name comes from the configuration.
        "InvalidInstanceID.NotFound"
        | "InvalidInstanceID"
        | "InvalidFleetId.NotFound"
        | "InvalidFleetID.NotFound"
        | "FleetIdDoesNotExist"
        | "fleetIdDoesNotExist"
        | "InvalidSpotInstanceRequestID.NotFound"
        | "InvalidReservationID.NotFound" => ErrorClass::NotFound,

        "IdempotentParameterMismatch"
        | "IdempotentInstanceTerminated"
        | "InvalidIdempotencyToken" => ErrorClass::IdempotentMismatch,

        "InternalError"
        | "InternalFailure"
        | "Internal"
        | "Unavailable"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ConcurrentTagAccess"
        | "unexpectedError" => ErrorClass::Transient,

        "Unsupported"
        | "UnsupportedOperation"
        | "UnsupportedHibernationConfiguration"
        | "OperationNotPermitted"
        | "MissingParameter"
        | "MissingAction"
        | "MissingInput"
        | "MalformedQueryString"
        | "UnknownParameter"
        | "ValidationError"
        | "TagLimitExceeded"
        | "TagPolicyViolation"
        | "RequestResourceCountExceeded"
        | "VPCIdNotSpecified"
        | "VPCResourceNotSpecified"
        | "CustomerKeyHasBeenRevoked" => ErrorClass::Configuration,

        "DryRunOperation"
        | "IncorrectState"
        | "IncorrectInstanceState"
        | "IncorrectSpotRequestState"
        | "IncorrectModificationState"
        | "FleetNotInModifiableState"
        | "fleetNotInModifiableState"
        | "fleetNotInDeletableState"
        | "DependencyViolation" => ErrorClass::Other,

        _ => return None,
    })
}

fn by_name(code: &str) -> ErrorClass {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| code.starts_with(prefix));
    if starts(&["AuthFailure."]) {
        ErrorClass::Permission
    } else if code.ends_with("LimitExceeded") || (code.starts_with("Max") && code.ends_with("Exceeded")) {
        ErrorClass::Quota
    } else if code.starts_with("Insufficient") && code.contains("Capacity") {
        ErrorClass::Capacity
    } else if starts(&["Invalid", "Unsupported", "Missing", "Malformed", "NoSuch", "VPC"])
        || code.ends_with(".NotFound")
        || code.ends_with(".Malformed")
    {
        ErrorClass::Configuration
    } else {
        ErrorClass::Other
    }
}

/// The class of a failed reply whose body holds no EC2 error code.
#[must_use]
pub fn classify_status(status: u16) -> ErrorClass {
    match status {
        429 => ErrorClass::Throttle,
        401 | 403 => ErrorClass::Permission,
        408 | 500..=599 => ErrorClass::Transient,
        _ => ErrorClass::Other,
    }
}

/// Whether the credentials themselves were refused, so that they are worth reading again.
#[must_use]
pub fn is_stale_credential(code: &str) -> bool {
    matches!(
        strip_fault_side(code),
        "AuthFailure"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch"
            | "NoCredentials"
    )
}

/// What the administrator can do: one or two sentences, always something to try.
#[must_use]
pub fn remedy(code: &str, class: ErrorClass) -> &'static str {
    remedy_of_code(strip_fault_side(code)).unwrap_or_else(|| remedy_of_class(class))
}

fn remedy_of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "MaxSpotInstanceCountExceeded" => {
            "Ask for a higher Spot vCPU quota of this instance family (Service Quotas, Amazon EC2), or let the group use on-demand."
        }
        "VcpuLimitExceeded" | "InstanceLimitExceeded" => {
            "Ask for a higher on-demand vCPU quota of this instance family (Service Quotas, Amazon EC2), or lower MaxNodes."
        }
        "MaxFleetCountExceeded" => {
            "The region's limit of active fleets is reached. Delete fleets that are no longer used, or use fewer nodes with a fleet each."
        }
        "InsufficientFreeAddressesInSubnet" | "InsufficientAddressCapacity" => {
            "The subnet has no free address. Add a larger subnet to SubnetIds, or lower MaxNodes."
        }
        "VolumeLimitExceeded" | "MaxIOPSLimitExceeded" => {
            "Ask for a higher EBS quota (Service Quotas, Amazon EBS), or make the volumes of the launch template smaller."
        }
        "SpotMaxPriceTooLow" => {
            "Raise MaxPrice in LaunchTemplateOverrides, or leave it out: the on-demand price is then the maximum."
        }
        "Unsupported" => {
            "The combination of instance type, zone, image and options is not offered. Check the types of LaunchTemplateOverrides in the zones of SubnetIds."
        }
        "UnsupportedHibernationConfiguration" => {
            "Hibernation needs a supported instance type, less than 150 GiB of memory, and an encrypted EBS root volume with room for it."
        }
        "InvalidLaunchTemplateId.NotFound"
        | "InvalidLaunchTemplateId.Malformed"
        | "InvalidLaunchTemplateId.VersionNotFound"
        | "InvalidLaunchTemplateName.NotFoundException"
        | "InvalidLaunchTemplateName.MalformedException"
        | "InvalidLaunchTemplateId.NotFoundException" => {
            "LaunchTemplateSpecification names a template or version that is not in this region and account. Correct the name, id or version."
        }
        "InvalidAMIID.NotFound" | "InvalidAMIID.Unavailable" | "InvalidAMIID.Malformed" => {
            "The image of the launch template is gone, not shared with this account, or of another region. Give the template an image that exists."
        }
        "InvalidSubnetID.NotFound" | "InvalidSubnetId.NotFound" | "InvalidSubnet" => {
            "Correct SubnetIds: the subnet is not in this region and account."
        }
        "InvalidGroup.NotFound" | "InvalidSecurityGroupID.NotFound" => {
            "The launch template names a security group that is not in the VPC of the subnet. Correct the template."
        }
        "InvalidKeyPair.NotFound" => {
            "The launch template names a key pair that is not in this region. Correct the template."
        }
        "InvalidFleetConfiguration" => {
            "EC2 cannot make a launch of these overrides. The message names the part; correct LaunchTemplateOverrides or SubnetIds."
        }
        "OperationNotPermitted" => {
            "The instance is protected against this call. Remove its termination or stop protection."
        }
        "IdempotentParameterMismatch" | "IdempotentInstanceTerminated" | "InvalidIdempotencyToken" => {
            "The client token was used before with other parameters. The launch is given up and made anew with a new token; nothing is to be done unless this repeats."
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            "Allow the action in the IAM policy of the role or user (`ec2fleet iam-policy` prints the policy needed). `aws sts decode-authorization-message` explains an encoded message."
        }
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
            "Create the service-linked roles once: `aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`, and the same for ec2fleet.amazonaws.com."
        }
        "AuthFailure" | "SignatureDoesNotMatch" | "IncompleteSignature" => {
            "Check that the access key is right and active, that the region is enabled for the account, and that this machine's clock is right."
        }
        "InvalidClientTokenId" | "InvalidAccessKeyId" | "UnrecognizedClientException" => {
            "The access key is not known to AWS. Check the credentials of the profile, and the partition of the region."
        }
        "ExpiredToken" | "ExpiredTokenException" => {
            "The session credentials have expired. Renew them; an instance profile on the controller renews itself."
        }
        "RequestExpired" => "The clock of this machine is wrong by minutes. Correct it (chrony).",
        "OptInRequired" => "Enable the region or subscribe to the product for this account.",
        "PendingVerification" => {
            "AWS is verifying the account for this region. It ends by itself, at the latest after four hours."
        }
        "Blocked" => "The account is blocked. Contact AWS Support.",
        "TagPolicyViolation" => {
            "A tag policy of the organization forbids the tag. Correct Tags of the node group."
        }
        "CustomerKeyHasBeenRevoked" => "Restore access to the KMS key of the volumes, or use another.",
        "NoCredentials" => {
            "Give the controller an instance profile, or credentials in the home folder of SlurmUser (~/.aws), and check ProfileName. credential_process and SSO profiles are not supported."
        }
        "ConnectFailed" => {
            "Check the spelling of Region, name resolution, and that this machine may reach the EC2 endpoint on port 443 (NAT, VPC endpoint, proxy)."
        }
        "CertificateRefused" => {
            "Install the root certificates of this machine (ca-certificates), or the one of the proxy that stands between."
        }
        "RequestNotBuilt" => "Report this with the message: the request could not be put together.",
        _ => return None,
    })
}

fn remedy_of_class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Capacity => {
            "Add instance types or zones to the group, or wait: the pool is tried again after its cool-down."
        }
        ErrorClass::Quota => "Ask for a higher quota (Service Quotas), or end something that uses it.",
        ErrorClass::Throttle => {
            "Nothing: the call is repeated at a lower rate. If it persists, look for other programs that call EC2 in this account and region."
        }
        ErrorClass::Configuration => {
            "Correct the node group in partitions.json or its launch template as the message says (`ec2fleet validate --online`)."
        }
        ErrorClass::Permission => {
            "Check the credentials and the IAM policy of the controller (`ec2fleet doctor`)."
        }
        ErrorClass::NotFound => {
            "Nothing: EC2 may not know a new resource yet, and one that ended needs nothing more."
        }
        ErrorClass::IdempotentMismatch => "Nothing: the launch is made anew with a new token.",
        ErrorClass::Transient => {
            "Nothing: the call is repeated with the same client token. If it persists, look at the network and the AWS Health Dashboard."
        }
        ErrorClass::Other => "See the code in the EC2 API reference, page \"Error codes\".",
    }
}

/// A refusal by IAM, taken apart for the administrator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// The text without the encoded part.
    pub text: String,
    /// For `aws sts decode-authorization-message --encoded-message`.
    pub encoded: Option<String>,
}

const ENCODED: &str = "Encoded authorization failure message:";

/// Splits the message of `UnauthorizedOperation` ("Actions, resources, and condition keys", encoded messages).
#[must_use]
pub fn denial(message: &str) -> Denial {
    match message.split_once(ENCODED) {
        Some((text, rest)) => Denial {
            text: text.trim_end().to_owned(),
            encoded: rest.split_whitespace().next().map(str::to_owned),
        },
        None => Denial { text: message.trim_end().to_owned(), encoded: None },
    }
}

/// Every instance id in a message, once each, in order: the bad ones of `InvalidInstanceID.NotFound` and its kin.
#[must_use]
pub fn instance_ids_in(message: &str) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for word in message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        let named = word
            .strip_prefix("i-")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if named && !ids.contains(&word) {
            ids.push(word);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorClass as C;

    /// Every code that the design, the fleet documentation and the SDKs name, and what it must mean.
    const CODES: &[(&str, ErrorClass)] = &[
        ("InsufficientInstanceCapacity", C::Capacity),
        ("Server.InsufficientInstanceCapacity", C::Capacity),
        ("InsufficientCapacity", C::Capacity),
        ("UnfulfillableCapacity", C::Capacity),
        ("ReservationCapacityExceeded", C::Capacity),
        ("InsufficientHostCapacity", C::Capacity),
        ("InsufficientReservedInstanceCapacity", C::Capacity),
        ("InsufficientVolumeCapacity", C::Capacity),
        ("InsufficientFutureCapacity", C::Capacity),
        ("SpotMaxPriceTooLow", C::Capacity),
        ("MaxSpotInstanceCountExceeded", C::Quota),
        ("VcpuLimitExceeded", C::Quota),
        ("MaxFleetCountExceeded", C::Quota),
        ("InsufficientFreeAddressesInSubnet", C::Quota),
        ("InsufficientAddressCapacity", C::Quota),
        ("InstanceLimitExceeded", C::Quota),
        ("Client.InstanceLimitExceeded", C::Quota),
        ("VolumeLimitExceeded", C::Quota),
        ("HostLimitExceeded", C::Quota),
        ("MaxScheduledInstanceCapacityExceeded", C::Quota),
        ("Unsupported", C::Configuration),
        ("UnsupportedHibernationConfiguration", C::Configuration),
        ("UnsupportedTenancy", C::Configuration),
        ("InvalidParameterValue", C::Configuration),
        ("InvalidParameterCombination", C::Configuration),
        ("InvalidFleetConfiguration", C::Configuration),
        ("InvalidLaunchTemplateName.NotFoundException", C::Configuration),
        ("InvalidLaunchTemplateId.VersionNotFound", C::Configuration),
        ("InvalidAMIID.NotFound", C::Configuration),
        ("InvalidSubnetID.NotFound", C::Configuration),
        ("InvalidGroup.NotFound", C::Configuration),
        ("InvalidKeyPair.NotFound", C::Configuration),
        ("InvalidInstanceID.Malformed", C::Configuration),
        ("InvalidBlockDeviceMapping", C::Configuration),
        ("MissingParameter", C::Configuration),
        ("MalformedQueryString", C::Configuration),
        ("UnknownParameter", C::Configuration),
        ("OperationNotPermitted", C::Configuration),
        ("TagLimitExceeded", C::Configuration),
        ("RequestLimitExceeded", C::Throttle),
        ("Client.RequestLimitExceeded", C::Throttle),
        ("Throttling", C::Throttle),
        ("ThrottlingException", C::Throttle),
        ("EC2ThrottledException", C::Throttle),
        ("BandwidthLimitExceeded", C::Throttle),
        ("TooManyRequestsException", C::Throttle),
        ("InvalidInstanceID.NotFound", C::NotFound),
        ("fleetIdDoesNotExist", C::NotFound),
        ("InvalidSpotInstanceRequestID.NotFound", C::NotFound),
        ("IdempotentParameterMismatch", C::IdempotentMismatch),
        ("IdempotentInstanceTerminated", C::IdempotentMismatch),
        ("UnauthorizedOperation", C::Permission),
        ("Client.UnauthorizedOperation", C::Permission),
        ("AuthFailure", C::Permission),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", C::Permission),
        ("AccessDenied", C::Permission),
        ("ExpiredToken", C::Permission),
        ("RequestExpired", C::Permission),
        ("InvalidClientTokenId", C::Permission),
        ("SignatureDoesNotMatch", C::Permission),
        ("IncompleteSignature", C::Permission),
        ("MissingAuthenticationToken", C::Permission),
        ("OptInRequired", C::Permission),
        ("PendingVerification", C::Permission),
        ("Blocked", C::Permission),
        ("InternalError", C::Transient),
        ("Server.InternalError", C::Transient),
        ("InternalFailure", C::Transient),
        ("Unavailable", C::Transient),
        ("ServiceUnavailable", C::Transient),
        ("RequestTimeout", C::Transient),
        ("IncorrectSpotRequestState", C::Other),
        ("IncorrectInstanceState", C::Other),
        ("DryRunOperation", C::Other),
        ("SomethingNewIn2031", C::Other),
        ("", C::Other),
        ("NoCredentials", C::Permission),
        ("ConnectFailed", C::Transient),
        ("Timeout", C::Transient),
        ("ConnectionLost", C::Transient),
        ("MalformedReply", C::Transient),
        ("HttpStatus", C::Transient),
        ("CertificateRefused", C::Configuration),
        ("RequestNotBuilt", C::Other),
    ];

    #[test]
    fn every_code_has_its_class() {
        let wrong: Vec<_> = CODES
            .iter()
            .map(|&(code, class)| (code, class, classify(code)))
            .filter(|(_, expected, actual)| expected != actual)
            .collect();
        assert!(wrong.is_empty(), "code, expected, actual: {wrong:?}");
    }

    #[test]
    fn every_code_has_a_remedy_that_is_a_sentence() {
        for &(code, class) in CODES {
            let text = remedy(code, class);
            assert!(text.ends_with('.') && text.len() > 20, "{code}: {text:?}");
        }
        assert_ne!(remedy("VcpuLimitExceeded", C::Quota), remedy("HostLimitExceeded", C::Quota));
        assert_eq!(remedy("Client.VcpuLimitExceeded", C::Quota), remedy("VcpuLimitExceeded", C::Quota));
    }

    #[test]
    fn only_what_may_succeed_unchanged_is_retried() {
        for &(code, class) in CODES {
            let retried = classify(code).is_retryable();
            assert_eq!(retried, matches!(class, C::Throttle | C::Transient), "{code}");
        }
    }

    #[test]
    fn status_without_a_code() {
        let table = [
            (400, C::Other),
            (403, C::Permission),
            (404, C::Other),
            (429, C::Throttle),
            (500, C::Transient),
            (503, C::Transient),
            (599, C::Transient),
        ];
        for (status, class) in table {
            assert_eq!(classify_status(status), class, "{status}");
        }
    }

    #[test]
    fn refused_credentials_are_read_again_but_a_denial_is_not() {
        for code in ["AuthFailure", "ExpiredToken", "RequestExpired", "InvalidClientTokenId", "NoCredentials"]
        {
            assert!(is_stale_credential(code), "{code}");
        }
        for code in ["UnauthorizedOperation", "Blocked", "OptInRequired", "InternalError", "Timeout"] {
            assert!(!is_stale_credential(code), "{code}");
        }
    }

    #[test]
    fn an_encoded_denial_is_split_off() {
        let message = "You are not authorized to perform this operation. User: arn:aws:iam::111122223333:user/slurm is not \
                       authorized to perform: ec2:CreateFleet. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm";
        let split = denial(message);
        assert!(split.text.ends_with("perform: ec2:CreateFleet."), "{}", split.text);
        assert_eq!(split.encoded.as_deref(), Some("4GIOHlTkIaWHQD0Q0m6XSnuUMCm"));
        assert_eq!(denial("Access denied"), Denial { text: "Access denied".into(), encoded: None });
    }

    #[test]
    fn bad_ids_are_read_from_messages() {
        let one = "The instance ID 'i-0123456789abcdef0' does not exist";
        assert_eq!(instance_ids_in(one), ["i-0123456789abcdef0"]);
        let two = "The instance IDs 'i-0aa, i-0bb' do not exist";
        assert_eq!(instance_ids_in(two), ["i-0aa", "i-0bb"]);
        let twice = "Invalid id: \"i-zz\" (expecting \"i-...\"): i-zz";
        assert_eq!(instance_ids_in(twice), ["i-zz"]);
        assert!(instance_ids_in("The fleet 'fleet-1-i' is multi-zone").is_empty());
        assert!(instance_ids_in("").is_empty());
    }
}

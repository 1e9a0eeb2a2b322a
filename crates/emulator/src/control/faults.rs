// SPDX-License-Identifier: GPL-3.0-or-later
//! Faults of the API: errors, latency, replies that are lost after their effect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::error::{ApiError, default_status};
use crate::control::scenario::{always, any, matches};
use crate::model::time::Millis;

/// A fault of API actions. What it does is given by `code`, `latency_ms` and `lost_reply`, alone or together.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Action name, such as `CreateFleet`; `*` matches any text.
    #[serde(default = "any")]
    pub action: String,
    /// The part of the calls that it hits, 0 to 1.
    #[serde(default = "always")]
    pub rate: f64,
    /// How many calls it hits before it is used up.
    #[serde(default)]
    pub count: Option<u32>,
    /// Error code to answer instead of doing the action, such as `RequestLimitExceeded`.
    #[serde(default)]
    pub code: Option<String>,
    /// HTTP status of the error. By default the one that EC2 uses for the code.
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub message: Option<String>,
    /// Answers this much later, in virtual ms.
    #[serde(default)]
    pub latency_ms: Millis,
    /// Does the action and then closes the connection without an answer.
    #[serde(default)]
    pub lost_reply: bool,
}

/// What the faults in force do to one call.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub error: Option<ApiError>,
    pub latency: Millis,
    pub lost_reply: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Vec<Fault>,
}

impl Faults {
    pub fn new(active: Vec<Fault>) -> Self {
        Self { active }
    }

    pub fn add(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    /// Removes the faults whose action is matched by the pattern; says how many.
    pub fn clear(&mut self, action: &str) -> usize {
        let before = self.active.len();
        self.active.retain(|fault| fault.action != action && !matches(action, &fault.action));
        before - self.active.len()
    }

    pub fn list(&self) -> &[Fault] {
        &self.active
    }

    /// Every fault that hits adds its latency; the first error wins.
    pub fn judge(&mut self, action: &str, rng: &mut fastrand::Rng) -> Verdict {
        let mut verdict = Verdict::default();
        for fault in &mut self.active {
            if !matches(&fault.action, action) || fault.count == Some(0) {
                continue;
            }
            if fault.rate < 1.0 && rng.f64() >= fault.rate {
                continue;
            }
            if let Some(count) = &mut fault.count {
                *count -= 1;
            }
            verdict.latency += fault.latency_ms;
            verdict.lost_reply |= fault.lost_reply;
            if verdict.error.is_none()
                && let Some(code) = &fault.code
            {
                verdict.error = Some(ApiError {
                    status: fault.status.unwrap_or_else(|| default_status(code)),
                    message: fault.message.clone().unwrap_or_else(|| message_of(code).to_owned()),
                    code: code.clone().into(),
                });
            }
        }
        self.active.retain(|fault| fault.count != Some(0));
        verdict
    }
}

fn message_of(code: &str) -> &'static str {
    match code {
        "RequestLimitExceeded" => "Request limit exceeded.",
        "InternalError" => "An internal error has occurred",
        "Unavailable" | "ServiceUnavailable" => "The service is unavailable. Please try again shortly.",
        "InsufficientInstanceCapacity" => "There is no capacity available that matches your request.",
        _ => "The request was refused by a fault of the emulator's scenario.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_fault_with_a_count_is_used_up() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut faults =
            Faults::new(vec![fault(r#"{"action": "Create*", "code": "RequestLimitExceeded", "count": 2}"#)]);
        assert!(faults.judge("DescribeFleets", &mut rng).error.is_none());
        for _ in 0..2 {
            let error = faults.judge("CreateFleet", &mut rng).error.unwrap();
            assert_eq!((error.code.as_ref(), error.status), ("RequestLimitExceeded", 503));
        }
        assert!(faults.judge("CreateFleet", &mut rng).error.is_none());
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_rate_hits_its_part_of_the_calls() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut faults = Faults::new(vec![fault(r#"{"code": "InternalError", "rate": 0.3}"#)]);
        let hits = (0..1000).filter(|_| faults.judge("X", &mut rng).error.is_some()).count();
        assert!((250..350).contains(&hits), "{hits}");
    }

    #[test]
    fn clear_takes_a_pattern() {
        let mut faults =
            Faults::new(vec![fault(r#"{"action": "CreateFleet"}"#), fault(r#"{"action": "*"}"#)]);
        assert_eq!(faults.clear("Create*"), 1);
        assert_eq!(faults.clear("*"), 1);
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The API budget: EC2's request token buckets, kept on our side, and backoff with jitter.
//!
//! Sizes and refill rates: EC2 API reference, "Request throttling for the Amazon EC2 API". We plan for less
//! than the whole bucket, because it is shared with everything else in the account.

use std::collections::BTreeMap;

use super::ec2_api::CloudRequest;
use super::time::Now;

/// Requests that share one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionGroup {
    Describe,
    /// CreateFleet, ModifyFleet, DeleteFleets and the like.
    Mutate,
    Terminate,
    CreateTags,
}

impl ActionGroup {
    #[must_use]
    pub fn of(request: &CloudRequest) -> Self {
        match request {
            CloudRequest::DescribeCluster { .. }
            | CloudRequest::DescribeInstances { .. }
            | CloudRequest::DescribeFleetInstances { .. }
            | CloudRequest::DescribeFleets { .. }
            | CloudRequest::DescribeFleetHistory { .. }
            | CloudRequest::DescribeParts { .. } => Self::Describe,
            CloudRequest::TerminateInstances { .. } => Self::Terminate,
            CloudRequest::CreateTags { .. } => Self::CreateTags,
            CloudRequest::CreateFleet(_)
            | CloudRequest::ModifyFleet { .. }
            | CloudRequest::DeleteFleets { .. }
            | CloudRequest::CancelSpotInstanceRequests { .. }
            | CloudRequest::RunInstance(_)
            | CloudRequest::StopInstance { .. }
            | CloudRequest::StartInstance { .. }
            | CloudRequest::AttachVolume { .. }
            | CloudRequest::DetachVolume { .. }
            | CloudRequest::DeleteVolume { .. }
            | CloudRequest::SetVolumeDeletion { .. }
            | CloudRequest::SetInterfaceDeletion { .. }
            | CloudRequest::CreateCapacityReservation(_)
            | CloudRequest::CancelCapacityReservation { .. } => Self::Mutate,
        }
    }

    /// (burst, refill per second): half of what EC2 grants.
    fn size(self) -> (f64, f64) {
        match self {
            Self::Describe => (50.0, 10.0),
            Self::Mutate => (25.0, 2.5),
            Self::Terminate => (50.0, 2.5),
            Self::CreateTags => (50.0, 5.0),
        }
    }
}

/// A token bucket that becomes slower when EC2 says "too many", and recovers.
#[derive(Clone, Debug)]
struct Bucket {
    tokens: f64,
    burst: f64,
    full_rate: f64,
    rate: f64,
    at: u64,
    closed_until: u64,
    throttles: u32,
}

impl Bucket {
    fn new(group: ActionGroup, now: Now) -> Self {
        let (burst, rate) = group.size();
        Self { tokens: burst, burst, full_rate: rate, rate, at: now.mono_ms, closed_until: 0, throttles: 0 }
    }

    #[allow(clippy::cast_precision_loss)]
    fn refill(&mut self, now: Now) {
        let seconds = now.since(self.at) as f64 / 1000.0;
        self.at = self.at.max(now.mono_ms);
        self.tokens = (self.tokens + seconds * self.rate).min(self.burst);
        // A minute without a complaint restores the full rate.
        self.rate = (self.rate + seconds * self.full_rate / 60.0).min(self.full_rate);
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn ready_at(&self, reserve: f64) -> u64 {
        let missing = 1.0 + reserve - self.tokens;
        let wait = if missing > 0.0 { (missing / self.rate * 1000.0).ceil() as u64 } else { 0 };
        (self.at + wait).max(self.closed_until)
    }
}

/// The buckets of one account.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    buckets: BTreeMap<ActionGroup, Bucket>,
}

/// Low-priority requests leave this many tokens for the others.
const LOW_PRIORITY_RESERVE: f64 = 20.0;

impl Budget {
    fn bucket(&mut self, group: ActionGroup, now: Now) -> &mut Bucket {
        self.buckets.entry(group).or_insert_with(|| Bucket::new(group, now))
    }

    /// Take one token, or say from when (`mono_ms`) it is worth asking again.
    ///
    /// # Errors
    /// The moment at which a token will be there.
    pub fn take(&mut self, group: ActionGroup, low_priority: bool, now: Now) -> Result<(), u64> {
        let reserve = if low_priority { LOW_PRIORITY_RESERVE } else { 0.0 };
        let bucket = self.bucket(group, now);
        bucket.refill(now);
        let ready = bucket.ready_at(reserve);
        if ready > now.mono_ms {
            return Err(ready);
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// EC2 said `RequestLimitExceeded` or `Throttling`: halve the rate and close the bucket for a while.
    pub fn throttled(&mut self, group: ActionGroup, now: Now, rng: &mut fastrand::Rng) {
        let bucket = self.bucket(group, now);
        bucket.refill(now);
        bucket.tokens = bucket.tokens.min(1.0);
        bucket.rate = (bucket.rate / 2.0).max(bucket.full_rate / 16.0);
        bucket.throttles += 1;
        bucket.closed_until = bucket.closed_until.max(now.mono_ms + backoff_ms(bucket.throttles, rng));
    }

    /// A request went through.
    pub fn passed(&mut self, group: ActionGroup, now: Now) {
        self.bucket(group, now).throttles = 0;
    }
}

/// Milliseconds before attempt `attempt` + 1: from 0.25 s doubling to 20 s, with jitter over its upper half.
pub fn backoff_ms(attempt: u32, rng: &mut fastrand::Rng) -> u64 {
    let full = 250u64.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(20_000);
    full / 2 + rng.u64(0..=full / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, unix_ms: ms }
    }

    #[test]
    fn a_burst_passes_and_then_the_refill_rate_holds() {
        let mut budget = Budget::default();
        let mut passed = 0;
        for ms in 0..10_000 {
            if budget.take(ActionGroup::Terminate, false, at(ms)).is_ok() {
                passed += 1;
            }
        }
        // 50 at once and 2.5 a second for ten seconds.
        assert!((74..=75).contains(&passed), "{passed}");
    }

    #[test]
    fn the_promised_moment_is_when_a_token_is_there() {
        let mut budget = Budget::default();
        let mut now = at(0);
        while budget.take(ActionGroup::Mutate, false, now).is_ok() {}
        let ready = budget.take(ActionGroup::Mutate, false, now).unwrap_err();
        assert!(budget.take(ActionGroup::Mutate, false, at(ready - 1)).is_err());
        now = at(ready);
        assert!(budget.take(ActionGroup::Mutate, false, now).is_ok());
    }

    #[test]
    fn low_priority_leaves_tokens_for_the_rest() {
        let mut budget = Budget::default();
        while budget.take(ActionGroup::CreateTags, true, at(0)).is_ok() {}
        for _ in 0..20 {
            assert!(budget.take(ActionGroup::CreateTags, false, at(0)).is_ok());
        }
        assert!(budget.take(ActionGroup::CreateTags, false, at(0)).is_err());
    }

    #[test]
    fn throttling_slows_and_a_quiet_minute_restores() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut budget = Budget::default();
        for _ in 0..3 {
            budget.throttled(ActionGroup::Describe, at(0), &mut rng);
        }
        let ready = budget.take(ActionGroup::Describe, false, at(0)).unwrap_err();
        assert!(ready >= 500, "{ready}");
        budget.take(ActionGroup::Describe, false, at(120_000)).unwrap();
        assert!((budget.buckets[&ActionGroup::Describe].rate - 10.0).abs() < 1e-9);
    }
}

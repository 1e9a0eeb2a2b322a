// SPDX-License-Identifier: GPL-3.0-or-later
//! The emulator's clock: milliseconds since the Unix epoch, and the events waiting for their moment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time in milliseconds since the Unix epoch.
pub type Millis = i64;

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;

/// `2025-01-31T23:59:59.000Z`, the form of EC2's XML.
pub fn iso(at: Millis) -> String {
    stamp(at).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// `2025-01-31T23:59:59Z`, the form of instance metadata.
pub fn iso_seconds(at: Millis) -> String {
    stamp(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2025-01-31 23:59:59 GMT`, the form inside EC2's state transition reasons.
pub fn gmt(at: Millis) -> String {
    stamp(at).strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
}

fn stamp(at: Millis) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MAX)
}

/// Reads an ISO 8601 time with zone.
pub fn parse(text: &str) -> Option<Millis> {
    text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
}

/// Events by due time; those of one moment come in the order in which they were set.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<E> {
    due: Millis,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0 }
    }
}

impl<E> Agenda<E> {
    pub fn set(&mut self, due: Millis, event: E) {
        self.heap.push(Reverse(Entry { due, order: self.next, event }));
        self.next += 1;
    }

    pub fn next_due(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// The first event that is due at `now`, with its due time.
    pub fn pop_due(&mut self, now: Millis) -> Option<(Millis, E)> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.due, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_ec2_does() {
        assert_eq!(iso(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(gmt(1_700_000_000_123), "2023-11-14 22:13:20 GMT");
        assert_eq!(parse("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn events_come_by_time_then_by_order_of_setting() {
        let mut agenda = Agenda::default();
        agenda.set(20, "late");
        agenda.set(10, "first");
        agenda.set(10, "second");
        assert_eq!(agenda.pop_due(5), None);
        assert_eq!(agenda.pop_due(30), Some((10, "first")));
        assert_eq!(agenda.pop_due(30), Some((10, "second")));
        assert_eq!(agenda.pop_due(30), Some((20, "late")));
        assert_eq!(agenda.next_due(), None);
    }
}

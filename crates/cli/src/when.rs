// SPDX-License-Identifier: GPL-3.0-or-later
//! Times and durations as people read and write them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::error::{CliError, ErrorKind};

/// Milliseconds since 1970.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn local(unix_ms: u64) -> Option<Zoned> {
    let ms = i64::try_from(unix_ms).ok()?;
    Some(Timestamp::from_millisecond(ms).ok()?.to_zoned(TimeZone::system()))
}

/// Local time to the second, as Slurm prints it: `2026-01-31T08:00:00`.
#[must_use]
pub fn clock(unix_ms: u64) -> String {
    local(unix_ms).map_or_else(|| "-".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%S").to_string())
}

/// Local time to the millisecond.
#[must_use]
pub fn clock_ms(unix_ms: u64) -> String {
    local(unix_ms).map_or_else(|| "-".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string())
}

/// `850ms`, `42s`, `3m12s`, `2h05m`, `4d03h`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 if ms > 0 => format!("{ms}ms"),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long ago, or `-` if never.
#[must_use]
pub fn ago(now_unix_ms: u64, then_unix_ms: Option<u64>) -> String {
    match then_unix_ms {
        None | Some(0) => "never".into(),
        Some(then) => format!("{} ago", duration(now_unix_ms.saturating_sub(then))),
    }
}

/// A moment in the past: a duration (`90s`, `10m`, `2h`, `1d`, `1h30m`) or a local time.
///
/// # Errors
/// When it is neither.
pub fn since(text: &str, now_unix_ms: u64) -> Result<u64, CliError> {
    if let Some(ms) = parse_duration(text) {
        return Ok(now_unix_ms.saturating_sub(ms));
    }
    let text = text.trim();
    let zoned = text.parse::<Timestamp>().or_else(|_| {
        text.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::system())).map(|z| z.timestamp())
    });
    match zoned.map(|time| u64::try_from(time.as_millisecond())) {
        Ok(Ok(ms)) => Ok(ms),
        _ => Err(CliError::new(ErrorKind::Usage, format!("\"{text}\" is no time."))
            .hint("Write a duration (90s, 10m, 2h, 1d) or a local time (2026-01-31T08:00).")),
    }
}

fn parse_duration(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut number = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1_000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        let value: u64 = number.parse().ok()?;
        total = total.checked_add(value.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && !text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_and_rounded_down() {
        for (ms, text) in [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (59_999, "59s"),
            (60_000, "1m00s"),
            (3_599_000, "59m59s"),
            (3_600_000, "1h00m"),
            (86_399_000, "23h59m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn moments() {
        let now = 1_800_000_000_000;
        for (text, then) in [
            ("90s", now - 90_000),
            ("10m", now - 600_000),
            ("1h30m", now - 5_400_000),
            ("2d", now - 172_800_000),
            ("2026-01-31T08:00:00Z", 1_769_846_400_000),
            ("2026-01-31 08:00:00+01:00", 1_769_842_800_000),
        ] {
            assert_eq!(since(text, now).expect(text), then, "{text}");
        }
        for text in ["", "10", "m", "10x", "yesterday", "2026-13-01T00:00"] {
            assert_eq!(since(text, now).expect_err(text).kind, ErrorKind::Usage, "{text}");
        }
        assert!(since("2026-01-31T08:00", now).is_ok(), "a local time");
    }
}

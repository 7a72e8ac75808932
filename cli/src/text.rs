//! How spans, times, numbers and names are written for people and read from them. Pure functions; looks at the clock only
//! for a time that is said from now. Called by every renderer and by the reader of job files.

use std::time::Duration;

use trainyard_core::{failure::FailureClass, job::JobState, time::Timestamp};
use trainyard_proto::{convert, v1};

use crate::clock;

/// Units of a span, longest first, in seconds.
const UNITS: [(&str, f64); 5] = [
    ("d", 86_400.0),
    ("h", 3_600.0),
    ("ms", 0.001),
    ("m", 60.0),
    ("s", 1.0),
];

/// Reads `1h30m`, `90s`, `1.5h`, `2d`, `500ms` or a number of seconds.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a span of time; write for example 1h30m, 90s or 2d");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_out_of_range| bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(bad)?;
        let (unit, seconds) = UNITS
            .into_iter()
            .find(|(unit, _)| tail.starts_with(unit))
            .ok_or_else(bad)?;
        let number: f64 = number.parse().ok().ok_or_else(bad)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_too_long| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail.strip_prefix(unit).unwrap_or_default().trim_start();
    }
    if text.trim().is_empty() {
        return Err(bad());
    }
    Ok(total)
}

/// Reads a time such as `2027-01-31T18:00:00Z`, or `+2h` from now.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    match text.strip_prefix('+') {
        Some(span) => Ok(clock::now().plus(parse_span(span)?)),
        None => Timestamp::parse_rfc3339(text).ok_or_else(|| {
            format!("'{text}' is no time; write for example 2027-01-31T18:00:00Z, or +2h from now")
        }),
    }
}

/// Writes a span with its two longest units: `1h30m`, `2d4h`, `4.2s`, `350ms`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds == 0 && !span.is_zero() {
        return format!("{}ms", span.as_millis());
    }
    if seconds < 10 && span.subsec_millis() >= 50 {
        return format!("{:.1}s", span.as_secs_f64());
    }
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let told: Vec<_> = units
        .into_iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if told.is_empty() {
        "0s".to_owned()
    } else {
        told.concat()
    }
}

/// How long ago, with one unit: `3m`.
pub(crate) fn age(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else {
        return "-".to_owned();
    };
    let seconds = now.since(convert::time(at)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        172_800.. => format!("{}d", seconds / 86_400),
    }
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn rfc3339(at: &prost_types::Timestamp) -> String {
    format!("{}Z", convert::time(at).to_naive_iso())
}

/// The time between two stamps, when both are there.
pub(crate) fn between(
    from: Option<&prost_types::Timestamp>,
    to: Option<&prost_types::Timestamp>,
) -> Option<Duration> {
    Some(convert::time(to?).since(convert::time(from?)))
}

/// A metric with about four significant digits; very small ones in scientific form.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size > 0.0 && size < 0.001 {
        format!("{value:.2e}")
    } else if size >= 1_000_000.0 {
        format!("{value:.3e}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.4}")
    }
}

/// The state's name in tables and JSON.
pub(crate) fn state(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Unspecified => "unknown",
        v1::JobState::Pending => JobState::Pending.name(),
        v1::JobState::Queued => JobState::Queued.name(),
        v1::JobState::Starting => JobState::Starting.name(),
        v1::JobState::Running => JobState::Running.name(),
        v1::JobState::Finishing => JobState::Finishing.name(),
        v1::JobState::Completed => JobState::Completed.name(),
        v1::JobState::Failed => JobState::Failed.name(),
        v1::JobState::Cancelled => JobState::Cancelled.name(),
    }
}

/// Whether a job in this state has ended.
pub(crate) fn has_ended(state: v1::JobState) -> bool {
    match state {
        v1::JobState::Completed | v1::JobState::Failed | v1::JobState::Cancelled => true,
        v1::JobState::Unspecified
        | v1::JobState::Pending
        | v1::JobState::Queued
        | v1::JobState::Starting
        | v1::JobState::Running
        | v1::JobState::Finishing => false,
    }
}

/// The class's name in tables and JSON; none when the job completed.
pub(crate) fn class(class: v1::FailureClass) -> Option<&'static str> {
    match class {
        v1::FailureClass::Unspecified => None,
        v1::FailureClass::User => Some(FailureClass::User.name()),
        v1::FailureClass::OutOfMemory => Some(FailureClass::OutOfMemory.name()),
        v1::FailureClass::Infrastructure => Some(FailureClass::Infrastructure.name()),
        v1::FailureClass::Lost => Some(FailureClass::Lost.name()),
        v1::FailureClass::Preempted => Some(FailureClass::Preempted.name()),
        v1::FailureClass::Cancelled => Some(FailureClass::Cancelled.name()),
        v1::FailureClass::Timeout => Some(FailureClass::Timeout.name()),
    }
}

/// The stream's name in JSON.
pub(crate) fn stream(stream: v1::LogStream) -> &'static str {
    match stream {
        v1::LogStream::Unspecified => "unknown",
        v1::LogStream::Stdout => "stdout",
        v1::LogStream::Stderr => "stderr",
        v1::LogStream::System => "system",
        v1::LogStream::Callback => "callback",
    }
}

/// The node's state in tables and JSON.
pub(crate) fn node_state(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Ready => "ready",
        v1::NodeState::Suspect => "suspect",
        v1::NodeState::Lost => "lost",
    }
}

/// What a node does, as far as operators have a say.
pub(crate) fn node_duty(duty: v1::NodeDuty) -> &'static str {
    match duty {
        v1::NodeDuty::Unspecified => "unknown",
        v1::NodeDuty::Open => "open",
        v1::NodeDuty::Draining => "draining",
        v1::NodeDuty::Vacating => "vacating",
        v1::NodeDuty::Drained => "drained",
    }
}

/// What becomes of jobs at the deadline of a drain; none where there is no deadline.
pub(crate) fn at_deadline(then: v1::AtDeadline) -> Option<&'static str> {
    match then {
        v1::AtDeadline::Unspecified => None,
        v1::AtDeadline::Preempt => Some("preempt"),
        v1::AtDeadline::Wait => Some("wait"),
    }
}

/// The known name that is most like `name`.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> &'n str {
    known
        .into_iter()
        .min_by_key(|other| strsim::osa_distance(name, other))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, millis) in [
            ("1h30m", 5_400_000),
            ("90s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2d", 172_800_000),
            ("10", 10_000),
            ("1h 5s", 3_605_000),
            ("0", 0),
        ] {
            assert_eq!(
                parse_span(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn nonsense_is_no_span_and_the_error_shows_how_to_write_one() {
        for text in ["", "soon", "1x", "h", "-5", "-5s", "1..5h", "inf", "1e300h"] {
            let error = parse_span(text).unwrap_err();
            assert!(error.contains("1h30m"), "{text}: {error}");
        }
    }

    #[test]
    fn spans_are_written_with_two_units_at_most() {
        for (millis, text) in [
            (0, "0s"),
            (350, "350ms"),
            (4_200, "4.2s"),
            (59_900, "59s"),
            (5_400_000, "1h30m"),
            (3_600_000, "1h"),
            (187_200_000, "2d4h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp(1_000_000 * 1_000_000);
        for (ago, text) in [(5, "5s"), (200, "3m"), (7_200, "2h"), (200_000, "2d")] {
            assert_eq!(age(Some(&at(1_000_000 - ago)), now), text);
        }
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn metrics_keep_about_four_digits() {
        assert_eq!(number(0.123_456), "0.1235");
        assert_eq!(number(0.000_012_3), "1.23e-5");
        assert_eq!(number(0.0), "0.0000");
        assert_eq!(number(12_345.678), "12345.7");
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn times_are_rfc3339_in_utc() {
        assert_eq!(rfc3339(&at(0)), "1970-01-01T00:00:00.000000Z");
    }
}

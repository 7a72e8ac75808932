//! Points in time as the core is told them: microseconds since the Unix epoch, UTC.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `span` later; stops at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time `span` earlier; stops at the beginning of time.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// How long ago `earlier` was; zero when it lies ahead, as after a clock jump.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// A calendar time in UTC, for the HTTP API's naive timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
}

impl Timestamp {
    /// Renders naive ISO-8601 UTC with microseconds and no zone: `2026-11-23T01:20:22.543843`.
    #[must_use]
    pub fn to_naive_iso(self) -> String {
        let seconds = self.0.div_euclid(1_000_000);
        let micros = self.0.rem_euclid(1_000_000);
        let Civil { year, month, day } = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}",
            of_day / 3_600,
            of_day / 60 % 60,
            of_day % 60
        )
    }

    /// For people, in UTC to the minute or the second. The day is left out where it is that of `now`, and seconds where
    /// there are none.
    #[must_use]
    pub fn moment(self, now: Self) -> String {
        let (then, now) = (self.to_naive_iso(), now.to_naive_iso());
        let day = then.get(..10).unwrap_or_default();
        let end = if then.get(17..19) == Some("00") {
            16
        } else {
            19
        };
        let time = then.get(11..end).unwrap_or_default();
        match now.starts_with(day) {
            true => format!("{time} UTC"),
            false => format!("{day} {time} UTC"),
        }
    }

    /// Reads RFC 3339: `2026-11-23T01:20:22Z`, with a fraction or an offset such as `+02:00` if need be.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (day, time) = text.split_once(['T', 't', ' '])?;
        let (clock, zone) = time.split_at_checked(time.find(['Z', 'z', '+', '-'])?)?;
        let [year, month, day] = digits(day, '-', [4, 2, 2])?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [hour, minute, second] = digits(clock, ':', [2, 2, 2])?;
        let days = days_from_civil(Civil { year, month, day })?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let whole = fraction.bytes().all(|one| one.is_ascii_digit()) && !fraction.is_empty();
        let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let micros: i64 = six.parse().ok().filter(|_| whole)?;
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset(zone)?;
        Some(Self(seconds * 1_000_000 + micros))
    }
}

/// Numbers of so many digits each, with `mark` between.
fn digits(text: &str, mark: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(mark);
    let mut read = [0; 3];
    for (slot, length) in read.iter_mut().zip(lengths) {
        let part = parts.next()?;
        let sound = part.len() == length && part.bytes().all(|one| one.is_ascii_digit());
        *slot = part.parse().ok().filter(|_| sound)?;
    }
    parts.next().is_none().then_some(read)
}

/// By how many seconds a zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let [hours, minutes, _] = digits(&format!("{rest}:00"), ':', [2, 2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days since the epoch; none for a day that is in no calendar.
fn days_from_civil(civil: Civil) -> Option<i64> {
    let Civil { year, month, day } = civil;
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    // What the calendar does not have comes back as another day.
    (civil_from_days(days) == civil).then_some(days)
}

/// Days since the epoch to the proleptic Gregorian calendar, counting in years that start in March
/// so that the leap day comes last.
fn civil_from_days(days: i64) -> Civil {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil { year, month, day }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_the_http_contract_shows_it() {
        assert_eq!(
            Timestamp(1_795_396_822_543_843).to_naive_iso(),
            "2026-11-23T01:20:22.543843"
        );
        assert_eq!(Timestamp(0).to_naive_iso(), "1970-01-01T00:00:00.000000");
        assert_eq!(
            Timestamp(951_782_400_000_000).to_naive_iso(),
            "2000-02-29T00:00:00.000000"
        );
    }

    #[test]
    fn a_clock_that_jumped_back_gives_no_negative_span() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }

    #[test]
    fn rfc_3339_is_read_in_every_zone_and_nothing_else_is() {
        let noon = Timestamp(1_795_608_000_000_000);
        for text in [
            "2026-11-25T12:00:00Z",
            "2026-11-25t14:00:00.000+02:00",
            "2026-11-25 07:30:00-04:30",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), Some(noon), "{text}");
        }
        let read = Timestamp::parse_rfc3339("2000-02-29T00:00:00.000001Z");
        assert_eq!(read, Some(Timestamp(951_782_400_000_001)));
        for text in [
            "",
            "soon",
            "2026-11-25",
            "2026-11-25T12:00Z",
            "2026-11-25T12:00:00",
            "2026-11-25T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-25T12:00:00.Z",
            "2026-11-25T12:00:00+2",
            "+026-11-25T12:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }
}

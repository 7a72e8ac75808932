//! The span in which a project's GPU-hours are counted: a day, a week from Monday, or a month, by the calendar in UTC.

use serde::{Deserialize, Serialize};

use super::config::Seconds;
use crate::time::{Timestamp, month_of};

const DAY: Seconds = 86_400;
/// The first of January 1970 was a Thursday.
const MONDAY: Seconds = 3;

/// How often what a project has used up is its own again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    #[default]
    Month,
}

impl Period {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// When the one began that a moment lies in, and when the next one does.
    #[must_use]
    pub fn around(self, now: Seconds) -> (Seconds, Seconds) {
        let day = now.div_euclid(DAY);
        let (first, next) = match self {
            Self::Day => (day, day + 1),
            Self::Week => {
                let monday = day - (day + MONDAY).rem_euclid(7);
                (monday, monday + 7)
            }
            Self::Month => month_of(day),
        };
        (first * DAY, next * DAY)
    }

    /// When the next one begins, for people.
    #[must_use]
    pub fn renewal(self, now: Seconds) -> String {
        let (_, next) = self.around(now);
        let text = Timestamp(next.saturating_mul(1_000_000)).to_naive_iso();
        let day = text.split('T').next().unwrap_or_default();
        format!("{day} at 00:00 UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Seconds {
        Timestamp::parse_rfc3339(text).unwrap().0 / 1_000_000
    }

    #[test]
    fn days_weeks_and_months_begin_by_the_calendar() {
        // A Thursday.
        let now = at("2026-11-26T19:00:00Z");
        for (period, first, next) in [
            (Period::Day, "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z"),
            (Period::Week, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (
                Period::Month,
                "2026-11-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
        ] {
            assert_eq!(period.around(now), (at(first), at(next)), "{period:?}");
            assert_eq!(period.around(at(first)), (at(first), at(next)));
            assert_eq!(period.around(at(next) - 1), (at(first), at(next)));
        }
        let leap = at("2028-02-29T12:00:00Z");
        let (first, next) = Period::Month.around(leap);
        assert_eq!((next - first) / DAY, 29);
        let (_, next) = Period::Month.around(at("2026-12-31T23:59:59Z"));
        assert_eq!(next, at("2027-01-01T00:00:00Z"));
        assert_eq!(Period::Month.renewal(leap), "2028-03-01 at 00:00 UTC");
    }
}

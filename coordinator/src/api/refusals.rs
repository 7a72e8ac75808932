//! Which refused submissions are noted: few, for whoever asks in a loop must not push all else out of what is kept.
//!
//! Owns the pace, in memory: a coordinator that was started again notes a refusal once more. Never writes. Part of the
//! service.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use trainyard_core::time::Timestamp;

/// A user's refusals for one reason are one note in so long.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Users and reasons that are known at once; what comes beyond them is not noted.
const MOST: usize = 1_000;

/// When each user was refused for each reason, as far as it was noted.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    noted: Mutex<BTreeMap<(u64, String), Timestamp>>,
}

impl Refusals {
    /// Whether the refusal of this user's submission for this field is to be noted. Whoever asks notes it.
    pub(super) fn is_news(&self, user: u64, field: &str, now: Timestamp) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not silence it.
        noted.retain(|_, at| *at <= now && now.since(*at) < AGAIN);
        let key = (user, field.to_owned());
        if noted.len() >= MOST || noted.contains_key(&key) {
            return false;
        }
        noted.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_noted_once_an_hour_for_a_reason_and_all_users_together_within_bounds() {
        let refusals = Refusals::default();
        let at = |second: i64| Timestamp(second * 1_000_000);
        assert!(refusals.is_news(1, "resources", at(10_000)));
        assert!(!refusals.is_news(1, "resources", at(13_599)));
        assert!(refusals.is_news(1, "nodes", at(10_001)));
        assert!(refusals.is_news(2, "resources", at(10_001)));
        assert!(refusals.is_news(1, "resources", at(13_600)));
        assert!(
            refusals.is_news(1, "resources", at(5)),
            "the clock was set back"
        );
        let noted = (10..5_000).filter(|user| refusals.is_news(*user, "nodes", at(6)));
        assert_eq!(noted.count(), MOST - 1);
    }
}

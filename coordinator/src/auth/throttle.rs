//! How many failures somebody may have in a window of time.
//!
//! The generic cell rate algorithm: one point in time for each key, at which all its failures are
//! forgotten. An attempt is charged before it is made, so that many at once do not slip through, and
//! given back when it was right. (The `governor` crate has the algorithm, but gives nothing back.)
//! Never reads a clock. Called by `api::users`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use trainyard_core::time::Timestamp;

/// Keys remembered at most; about 60 bytes each.
const MOST: usize = 65_536;

/// Counts failures by key.
#[derive(Debug)]
pub struct Throttle<K> {
    /// When each key's failures are forgotten.
    clear_at: Mutex<BTreeMap<K, Timestamp>>,
    /// The time after which one failure is forgotten.
    each: Duration,
    /// Failures at once.
    burst: u32,
}

impl<K: Ord + Clone> Throttle<K> {
    /// Allows `burst` failures at once, and as many again over `window`.
    #[must_use]
    pub fn new(burst: u32, window: Duration) -> Self {
        let burst = burst.max(1);
        Self {
            clear_at: Mutex::default(),
            each: window / burst,
            burst,
        }
    }

    /// Charges an attempt.
    ///
    /// # Errors
    /// How long to wait when there were too many; nothing is charged then.
    pub fn charge(&self, key: &K, now: Timestamp) -> Result<(), Duration> {
        let mut clear_at = self.clear_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = clear_at.get(key).copied().unwrap_or(now).max(now);
        let allowed = now.plus(self.each * (self.burst - 1));
        if from > allowed {
            return Err(from.since(allowed));
        }
        if clear_at.len() >= MOST {
            make_room(&mut clear_at, now);
        }
        clear_at.insert(key.clone(), from.plus(self.each));
        Ok(())
    }

    /// Gives an attempt back: it was right.
    pub fn give_back(&self, key: &K) {
        let mut clear_at = self.clear_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = clear_at.get_mut(key) {
            let each = i64::try_from(self.each.as_micros()).unwrap_or(i64::MAX);
            at.0 = at.0.saturating_sub(each);
        }
    }
}

/// Forgets what is over, and if that is not enough the quarter that would be over soonest.
fn make_room<K: Ord>(clear_at: &mut BTreeMap<K, Timestamp>, now: Timestamp) {
    clear_at.retain(|_, at| *at > now);
    if clear_at.len() < MOST {
        return;
    }
    let mut times: Vec<_> = clear_at.values().copied().collect();
    let (_, cut, _) = times.select_nth_unstable(MOST / 4);
    let cut = *cut;
    clear_at.retain(|_, at| *at > cut);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn after_the_allowed_failures_one_waits_and_is_let_in_again() {
        let throttle = Throttle::new(3, MINUTE);
        for _ in 0..3 {
            assert_eq!(throttle.charge(&"ada", NOW), Ok(()));
        }
        assert_eq!(throttle.charge(&"ada", NOW), Err(MINUTE / 3));
        assert_eq!(throttle.charge(&"bob", NOW), Ok(()));
        let later = NOW.plus(MINUTE / 3);
        assert_eq!(throttle.charge(&"ada", later), Ok(()));
        assert!(throttle.charge(&"ada", later).is_err());
        let much_later = NOW.plus(MINUTE * 3);
        for _ in 0..3 {
            assert_eq!(throttle.charge(&"ada", much_later), Ok(()));
        }
    }

    #[test]
    fn what_was_right_does_not_count() {
        let throttle = Throttle::new(2, MINUTE);
        for _ in 0..100 {
            assert_eq!(throttle.charge(&1, NOW), Ok(()));
            throttle.give_back(&1);
        }
    }

    #[test]
    fn memory_is_bounded_however_many_keys_come() {
        let throttle = Throttle::new(5, MINUTE);
        for key in 0..(MOST as u64 * 2) {
            throttle
                .charge(&key, NOW.plus(Duration::from_micros(key)))
                .unwrap();
        }
        let kept = throttle.clear_at.lock().unwrap();
        assert!(kept.len() <= MOST, "{}", kept.len());
        assert!(kept.contains_key(&(MOST as u64 * 2 - 1)));
    }
}

//! When jobs are expected to start that wait for maintenance windows to be over.

use super::*;

#[test]
fn the_start_that_is_expected_heeds_windows_that_are_on_and_those_to_come() {
    let expected = |planner: &Planner, job| planner.explain(NOW, JobId(job)).unwrap().expected;
    let mut planner = planner(&["n1"]);
    planner.set_windows(NOW, vec![on_n1((2, 4))]);
    planner.queued(NOW, job(1, Some(3 * HOUR)));
    assert_eq!(starts(&mut planner, NOW), []);
    let [_, middle, _] = expected(&planner, 1).unwrap();
    assert_eq!(middle, after(4), "its limit reaches into it");
    // One of two windows is on, and so short a time is left to the next one that only who ends in it starts between.
    let windows = vec![on_n1((0, 1)), on_n1((2, 5))];
    planner.set_windows(NOW, windows);
    set(&mut planner, NOW, "n1", false);
    planner.queued(NOW, job(2, Some(HOUR / 2)));
    assert_eq!(starts(&mut planner, NOW), []);
    let middles = [1, 2].map(|job| expected(&planner, job).unwrap()[1]);
    assert_eq!(middles, [after(5), after(1)]);
    // Closed by an operator it does not open by itself.
    planner.set_windows(NOW, vec![on_n1((2, 5))]);
    assert_eq!(expected(&planner, 2), None);
}

#[test]
fn a_limit_beyond_all_time_reaches_into_every_window() {
    let mut planner = planner(&["n1"]);
    planner.set_windows(NOW, vec![on_n1((2, 4))]);
    let ever = Duration::from_secs(i64::MAX.unsigned_abs());
    planner.queued(NOW, job(1, Some(ever)));
    assert_eq!(starts(&mut planner, NOW), []);
    let expected = planner.explain(NOW, JobId(1)).unwrap().expected;
    assert_eq!(expected.map(|[_, middle, _]| middle), Some(after(4)));
}

#[test]
fn windows_that_overlap_or_touch_are_one_to_whoever_is_expected_to_start_after_them() {
    // Somebody runs who has to go when the first begins; jobs 1 and 2 wait for the node, one behind the other.
    let expected = |windows: &[(u32, u32)]| {
        let mut planner = planner(&["n1"]);
        let long = job(9, Some(8 * HOUR));
        (0..40).for_each(|_| planner.learn(&long, 8 * HOUR));
        planner.queued(NOW, long);
        assert_eq!(starts(&mut planner, NOW), on(9, "n1"));
        let rows = windows.iter().copied().map(on_n1);
        planner.set_windows(NOW, rows.collect());
        for id in [1, 2] {
            planner.queued(NOW, job(id, Some(HOUR / 2)));
        }
        assert_eq!(starts(&mut planner, NOW), []);
        [1, 2].map(|job| planner.explain(NOW, JobId(job)).unwrap().expected.unwrap()[1])
    };
    let half = HOUR / 2;
    let one = expected(&[(1, 6)]);
    assert_eq!(one, [after(6), after(6).plus(half)]);
    for windows in [
        vec![(1, 4), (2, 6)],
        vec![(1, 6), (2, 3), (4, 5)],
        vec![(1, 2), (2, 6)],
        vec![(3, 6), (1, 3), (1, 4), (2, 3)],
    ] {
        assert_eq!(expected(&windows), one, "{windows:?}");
    }
    // Where none touches the other the first of them starts in between.
    assert_eq!(expected(&[(1, 2), (4, 6)])[0], after(2));
}

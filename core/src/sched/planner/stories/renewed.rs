//! When GPU-hours are a project's own again, whatever becomes of the clock.

use super::*;

/// From the start of these stories to the next midnight in UTC.
const MIDNIGHT: i64 = 80_000;
const HOUR: i64 = 3_600;

#[test]
fn after_a_clock_was_set_back_gpu_hours_are_renewed_at_midnight_and_not_before() {
    let mut config = Config::default();
    let own = policy::ProjectRule {
        gpu_hours: Some(1.0),
        gpu_hours_per: policy::Period::Day,
        borrow: false,
        ..policy::ProjectRule::default()
    };
    config.projects.insert("7".into(), own);
    let mut planner = nodes_of(Planner::new(config), 1);
    planner.has_used(at(0), 7, 4_000.0);
    let asked = QueuedJob {
        project: Some(7),
        ..job(1, 1, 1)
    };
    planner.queued(at(0), asked);
    assert_eq!(solve(&mut planner, MIDNIGHT - HOUR), (vec![], vec![]));
    // Three hours back: to the policy time goes on from where it was.
    for now in [MIDNIGHT - 4 * HOUR, MIDNIGHT - 2 * HOUR, MIDNIGHT - 1] {
        assert_eq!(solve(&mut planner, now), (vec![], vec![]), "{now}");
        let words = planner.reason(at(now), JobId(1)).unwrap();
        let told = "which are its own again on 2001-09-10 at 00:00 UTC";
        assert!(words.contains(told), "{words}");
    }
    assert!(planner.wake(at(MIDNIGHT - 1)) <= Some(at(MIDNIGHT)));
    assert_eq!(solve(&mut planner, MIDNIGHT).0, [1]);
}

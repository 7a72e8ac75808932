//! Shares, quotas and GPU-hours of projects alone.

use super::*;
use crate::sched::policy::Period;

fn projects(config: &Config) -> (Projects, ProjectIx, ProjectIx) {
    let mut projects = Projects::default();
    let one = projects.number("one", config);
    let two = projects.number("two", config);
    (projects, one, two)
}

#[test]
fn who_used_more_than_its_share_ranks_behind_until_it_is_forgotten() {
    let config = Config {
        fairness: 1.0,
        ..Config::default()
    };
    let (mut projects, one, two) = projects(&config);
    projects.hold(one, Change::Take(8), 0, config.half_life);
    projects.queue(two, true);
    projects.weigh(3_600, &config);
    assert!(projects.factor(one) > 1.9 && projects.factor(two) < 0.3);
    projects.hold(one, Change::Give(8), 3_600, config.half_life);
    projects.hold(two, Change::Take(8), 3_600, config.half_life);
    projects.weigh(3_600 + 20 * config.half_life, &config);
    assert!(projects.factor(two) > projects.factor(one));
}

#[test]
fn gpu_hours_are_counted_in_their_span_and_renewed_with_the_next() {
    const DAY: Seconds = 86_400;
    let mut config = Config::default();
    let own = ProjectRule {
        gpu_hours: Some(10.0),
        gpu_hours_per: Period::Day,
        borrow: false,
        ..ProjectRule::default()
    };
    config.projects.insert("one".into(), own);
    let (mut projects, one, two) = projects(&config);
    projects.has_used(one, 8.0 * 3_600.0, 3_600);
    assert!(projects.may_start(one, 4));
    projects.hold(one, Change::Take(4), 3_600, config.half_life);
    projects.meter(3_600 + 1_799, config.half_life);
    assert!(projects.may_start(one, 1));
    projects.meter(3_600 + 1_800, config.half_life);
    assert!(!projects.may_start(one, 1) && projects.may_start(one, 0));
    assert!(projects.may_start(two, 900), "nobody counts it");
    let words = projects.limit(one, 1).unwrap();
    let wanted = "its project has used 10.0 of its 10 GPU-hours of this day, which are its own again on 1970-01-02 at 00:00 UTC";
    assert!(words.starts_with(wanted), "{words}");
    assert_eq!(projects.renewal(5_400), None, "nobody waits");
    projects.queue(one, true);
    assert_eq!(projects.renewal(5_400), Some(DAY));
    // What runs over midnight counts from midnight on.
    projects.meter(DAY + 900, config.half_life);
    assert!(projects.may_start(one, 1));
    projects.meter(DAY + 9_000, config.half_life);
    assert!(!projects.may_start(one, 1));
}

#[test]
fn gpu_hours_are_renewed_by_the_calendar_though_the_clock_that_is_told_is_ahead_of_it() {
    const DAY: Seconds = 86_400;
    const HOUR: Seconds = 3_600;
    let mut config = Config::default();
    let own = ProjectRule {
        gpu_hours: Some(1.0),
        gpu_hours_per: Period::Day,
        borrow: false,
        ..ProjectRule::default()
    };
    config.projects.insert("one".into(), own);
    let (mut projects, one, _) = projects(&config);
    projects.queue(one, true);
    let spent = |projects: &mut Projects, now| {
        projects.meter(now, config.half_life);
        !projects.may_start(one, 1)
    };
    projects.has_used(one, 4_000.0, DAY - HOUR);
    // The clock was set back by three hours: by the calendar it is 20:00.
    projects.ahead = 3 * HOUR;
    assert!(spent(&mut projects, DAY - HOUR));
    assert!(spent(&mut projects, DAY + HOUR), "it is 22:00 of that day");
    assert!(projects.limit(one, 1).unwrap().contains("on 1970-01-02 at"));
    assert_eq!(projects.renewal(DAY + HOUR), Some(DAY + 3 * HOUR));
    assert!(spent(&mut projects, DAY + 3 * HOUR - 1));
    assert!(!spent(&mut projects, DAY + 3 * HOUR));
    projects.has_used(one, 4_000.0, DAY + 3 * HOUR);
    assert!(projects.limit(one, 1).unwrap().contains("on 1970-01-03 at"));
}

#[test]
fn a_project_has_its_own_and_borrows_the_rest() {
    let mut config = Config::default();
    let own = ProjectRule {
        gpus: Some(8),
        borrow: false,
        running: Some(2),
        queued: Some(1),
        ..ProjectRule::default()
    };
    config.projects.insert("one".into(), own);
    let (mut projects, one, two) = projects(&config);
    assert!(projects.may_start(one, 8) && !projects.may_start(one, 9));
    assert!(projects.may_start(two, 900), "nobody limits it");
    projects.hold(one, Change::Take(1), 0, config.half_life);
    projects.hold(one, Change::Take(1), 0, config.half_life);
    assert!(!projects.may_start(one, 1), "two run");
    projects.queue(one, true);
    assert!(!projects.may_submit("one") && projects.may_submit("two"));
}

//! Each part of the policy, left out or replaced.

use super::*;
use crate::sched::policy::RankBy;

/// One node that job 1 has had since the beginning, and 40 jobs of its user that ended after a second each.
fn long_one(config: Config) -> Scheduler {
    let mut scheduler = scheduler(config, 1);
    let history = &mut scheduler.history;
    let class = history.class("", "", "", 8);
    history.join(class);
    for _ in 0..40 {
        history.ended(class, 1);
    }
    scheduler.submit(0, &job(1, 8));
    assert_eq!(settle(&mut scheduler, 0), (vec![1], vec![]));
    scheduler
}

#[test]
fn without_preemption_nobody_goes_for_anybody() {
    for (preempt, goes) in [(true, vec![1]), (false, vec![])] {
        let mut scheduler = long_one(Config {
            preempt,
            ..Config::default()
        });
        let urgent = Submission {
            priority: 9,
            ..job(2, 8)
        };
        scheduler.submit(10_000, &urgent);
        assert_eq!(settle(&mut scheduler, 10_000).1, goes);
        assert_eq!(scheduler.wake(10_000).is_some(), preempt);
    }
}

#[test]
fn by_arrival_nobody_goes_for_a_better_rank_and_the_older_goes_first() {
    for (rank, goes) in [
        (RankBy::Gittins, vec![1]),
        (RankBy::Attained, vec![1]),
        (RankBy::Arrival, vec![]),
    ] {
        let mut scheduler = long_one(Config {
            rank,
            ..Config::default()
        });
        scheduler.submit(50_000, &job(2, 8));
        assert_eq!(settle(&mut scheduler, 50_000).1, goes, "{rank:?}");
    }
    // Job 2 is wider, and was there first.
    for (rank, first) in [(RankBy::Gittins, 3), (RankBy::Arrival, 2)] {
        let mut scheduler = long_one(Config {
            rank,
            preempt: false,
            ..Config::default()
        });
        scheduler.submit(1, &job(2, 8));
        scheduler.submit(2, &job(3, 7));
        scheduler.finished(3, 1);
        assert_eq!(settle(&mut scheduler, 3).0, [first], "{rank:?}");
        let words = scheduler.place(3, 5 - first).unwrap().because();
        let said = words.contains("in the order in which they were submitted");
        assert_eq!(said, rank == RankBy::Arrival, "{words}");
    }
}

#[test]
fn by_arrival_it_does_not_matter_either_what_projects_have_had() {
    for (rank, goes) in [(RankBy::Attained, vec![1]), (RankBy::Arrival, vec![])] {
        let mut scheduler = long_one(Config {
            rank,
            ..Config::default()
        });
        let of = |project: &str, number| Submission {
            project: project.into(),
            ..job(number, 8)
        };
        // Job 1 is of nobody's project, which has had all so far.
        scheduler.submit(40_000, &of("", 2));
        scheduler.submit(50_000, &of("b", 3));
        let (_, gone) = settle(&mut scheduler, 50_000);
        assert_eq!(gone, goes, "{rank:?}");
        let place = scheduler.place(50_000, 3);
        let ahead = place.map_or(0, |place| place.ahead);
        assert_eq!(ahead, usize::from(rank == RankBy::Arrival), "{rank:?}");
    }
}

#[test]
fn by_what_was_attained_it_does_not_matter_what_is_known_of_jobs_like_it() {
    let mut scheduler = long_one(Config {
        rank: RankBy::Attained,
        ..Config::default()
    });
    scheduler.submit(1, &job(2, 8));
    let place = scheduler.place(1, 2).unwrap();
    assert!(place.known_by.is_some());
    let words = place.because();
    assert!(
        words.contains("how long it has run, times its GPUs"),
        "{words}"
    );
}

//! Who goes before it has saved anything is left alone for longer the next time, also after a restart.

use super::*;

/// It has a checkpoint of long ago, and has gone so often since.
fn vain(id: u64, in_vain: u32) -> QueuedJob {
    QueuedJob {
        has_run: Duration::from_secs(60),
        in_vain,
        ..job(id, 1, 4)
    }
}

#[test]
fn two_that_save_nothing_new_between_two_ends_do_not_take_turns_for_ever() {
    let mut planner = cluster(1);
    let mut in_vain = BTreeMap::from([(1u64, 0u32), (2, 0)]);
    planner.queued(at(0), vain(1, 0));
    planner.queued(at(0), vain(2, 0));
    let (mut since, mut longest) = (0, 0);
    for now in (0..100_000).step_by(60) {
        let (places, leaving) = solve(&mut planner, now);
        if !places.is_empty() {
            since = now;
        }
        for (gone, _) in leaving {
            let times = in_vain.get_mut(&gone).unwrap();
            *times += 1;
            let again = QueuedJob {
                queued_at: at(now),
                ..vain(gone, *times)
            };
            planner.queued(at(now), again);
        }
        longest = longest.max(now - since);
    }
    assert!(longest > 20_000, "{longest} s at most, after {in_vain:?}");
}

#[test]
fn one_that_went_in_vain_before_a_restart_is_left_alone_for_as_long_after_it() {
    let story = |in_vain| {
        let mut planner = cluster(1);
        planner.queued(at(0), vain(1, in_vain));
        let place = planner.solve(at(0)).placements.remove(0);
        let mut after = cluster(1);
        after.holds(at(100), held(vain(1, in_vain), &place, Some(0)));
        let better = QueuedJob {
            user: "ann".into(),
            ..vain(2, 0)
        };
        after.queued(at(100), better);
        let goes = |now: &i64| !solve(&mut after, *now).1.is_empty();
        (100..90_000).step_by(60).find(goes)
    };
    let (first, third) = (story(0).unwrap(), story(6).unwrap());
    assert!(third >= 300 << 6 && first < third, "{first} and {third}");
}

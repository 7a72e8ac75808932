//! What projects own, what they borrow, and how they get their own back.

use super::*;

#[test]
fn jobs_that_run_once_the_gpu_hours_of_their_project_are_used_up_make_room_whatever_their_rank() {
    const HOUR: Seconds = 3_600;
    let rule = ProjectRule {
        gpu_hours: Some(8.0),
        ..ProjectRule::default()
    };
    // Nobody goes for a better rank.
    let mut config = Config {
        margin: 1.0e9,
        ..Config::default()
    };
    config.projects.insert("a".into(), rule);
    let mut scheduler = scheduler(config, 1);
    scheduler.submit(0, &of_project("a", job(1, 8)));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &of_project("b", job(2, 8)));
    assert_eq!(settle(&mut scheduler, HOUR - 60), (vec![], vec![]));
    assert_eq!(settle(&mut scheduler, HOUR + 1), (vec![2], vec![1]));
}

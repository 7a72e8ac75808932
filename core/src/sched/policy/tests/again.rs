//! What a pass leaves to the next one at the same moment: nothing.

use super::*;

#[test]
fn what_fits_once_nodes_are_kept_elsewhere_starts_in_the_same_pass() {
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut scheduler = racks(config, &[1, 1]);
    let on = |rack: u32, gpus| Ask {
        labels: [format!("rack={rack}")].into(),
        ..Ask::packed(gpus)
    };
    let both = Ask {
        gang: Gang::Each { nodes: 2, gpus: 4 },
        ..Ask::packed(0)
    };
    let mut submit = |now, number, limit, ask| {
        let limit = Some(limit);
        let asked = Submission {
            limit,
            ask,
            ..job(number, 0)
        };
        scheduler.submit(now, &asked);
    };
    submit(0, 1, 90_000, on(0, 2));
    submit(0, 2, 90_000, on(1, 1));
    submit(0, 3, 1_000, both);
    // The first node will have six free, the other seven: the first is kept for it.
    submit(1, 4, 1_000, Ask::packed(5));
    // One of these starts on the other, which is the fuller one from then on, so it is that one which is kept.
    submit(2, 5, 80_000, Ask::packed(2));
    submit(3, 6, 70_000, Ask::packed(2));
    let plan = scheduler.pass(3);
    assert_eq!(started(&plan), [1, 2, 3, 5, 6]);
    assert_eq!(
        plan.reservation.map(|kept| (kept.job, kept.then)),
        Some((4, 1_003))
    );
    assert!(scheduler.pass(3).is_empty());
    scheduler.finished(1_003, 3);
    assert_eq!(started(&scheduler.pass(1_003)), [4]);
}

#[test]
fn nothing_is_kept_for_one_whose_project_comes_to_its_limit_by_who_starts_beside_it() {
    let mut config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let one = ProjectRule {
        running: Some(1),
        ..ProjectRule::default()
    };
    config.projects.insert("a".into(), one);
    let mut scheduler = racks(config, &[1]);
    let mut submit = |now, number, (project, gpus), limit| {
        let limit = Some(limit);
        let asked = Submission {
            limit,
            ..job(number, gpus)
        };
        scheduler.submit(now, &of_project(project, asked));
    };
    submit(0, 1, ("b", 4), 1_000);
    // It would start when that one ends, and the next is gone by then; the last is not.
    submit(1, 2, ("a", 8), 1_000);
    submit(2, 3, ("a", 2), 500);
    submit(3, 4, ("b", 2), 9_000);
    assert_eq!(started(&scheduler.pass(3)), [1, 3, 4]);
    assert!(scheduler.pass(3).is_empty());
}

#[test]
fn who_may_not_have_the_nodes_that_it_finds_has_others_once_those_are_taken() {
    let own = ProjectRule {
        gpus: Some(4),
        borrow: false,
        ..ProjectRule::default()
    };
    let mut config = Config::default();
    config.projects.insert("a".into(), own);
    let mut scheduler = Scheduler::new(config);
    for (memory_bytes, gpus) in [(40, 8), (80, 4)] {
        let class = GpuClass {
            memory_bytes,
            model: String::new(),
        };
        scheduler.add_node(NodeOffer {
            gpus: [(class, gpus)].into(),
            ..NodeOffer::of_gpus(0)
        });
    }
    let alone = Submission {
        ask: Ask {
            exclusive: true,
            ..Ask::packed(1)
        },
        ..job(1, 1)
    };
    scheduler.submit(0, &of_priority(9, of_project("a", alone)));
    scheduler.submit(1, &of_project("b", job(2, 8)));
    // The smallest GPUs go first, and those of that node are more than its project owns.
    assert_eq!(started(&scheduler.pass(1)), [2, 1]);
    assert!(scheduler.pass(1).is_empty());
}

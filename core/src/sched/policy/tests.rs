//! The policy as a whole, told small stories.

mod again;
mod anything;
mod broken;
mod exchange;
mod guesses;
mod parts;
mod projects;
mod room;
mod spread;
mod waits;

use super::{
    ask::{Ask, Gang, GpuWish},
    cluster::{GpuClass, NodeOffer},
    config::{Config, ProjectRule, Rule, Seconds},
    job::Submission,
    plan::Plan,
    scheduler::Scheduler,
};

fn scheduler(config: Config, nodes: u32) -> Scheduler {
    let mut scheduler = Scheduler::new(config);
    for _ in 0..nodes {
        scheduler.add_node(NodeOffer::of_gpus(8));
    }
    scheduler
}

fn started(plan: &Plan) -> Vec<u64> {
    plan.starts.iter().map(|start| start.job).collect()
}

fn gone(plan: &Plan) -> Vec<u64> {
    plan.preempts.iter().map(|preempt| preempt.job).collect()
}

/// Nodes of eight GPUs and eight CPUs, in racks of so many.
fn racks(config: Config, racks: &[u32]) -> Scheduler {
    let mut scheduler = Scheduler::new(config);
    for (rack, nodes) in racks.iter().enumerate() {
        for _ in 0..*nodes {
            scheduler.add_node(NodeOffer {
                cpus: 8,
                labels: [format!("rack={rack}")].into(),
                ..NodeOffer::of_gpus(8)
            });
        }
    }
    scheduler
}

/// Carries plans out at once until there is nothing to do; who started and who went.
fn settle(scheduler: &mut Scheduler, now: Seconds) -> (Vec<u64>, Vec<u64>) {
    let (mut starts, mut goes) = (Vec::new(), Vec::new());
    loop {
        let plan = scheduler.pass(now);
        assert_eq!(plan.broken, None);
        if plan.is_empty() {
            return (starts, goes);
        }
        starts.extend(started(&plan));
        goes.extend(gone(&plan));
        for preempt in &plan.preempts {
            scheduler.released(now, preempt.job);
        }
    }
}

fn job(number: u64, gpus: u32) -> Submission {
    Submission::packed(number, gpus)
}

/// Rules of projects that own so many GPUs.
fn owned(rules: &[(&str, u32)]) -> Config {
    let mut config = Config::default();
    for (name, gpus) in rules {
        let rule = ProjectRule {
            gpus: Some(*gpus),
            ..ProjectRule::default()
        };
        config.projects.insert((*name).into(), rule);
    }
    config
}

fn of_project(project: &str, asked: Submission) -> Submission {
    Submission {
        project: project.into(),
        ..asked
    }
}

fn of_priority(priority: u32, asked: Submission) -> Submission {
    Submission { priority, ..asked }
}

#[test]
fn a_small_job_goes_where_little_is_left_so_that_whole_nodes_stay_whole() {
    let mut scheduler = scheduler(Config::default(), 2);
    for (number, gpus) in [(1, 5), (2, 2), (3, 8)] {
        scheduler.submit(0, &job(number, gpus));
    }
    assert_eq!(settle(&mut scheduler, 0).0.len(), 3, "5 and 2 share a node");
}

#[test]
fn a_gang_of_twelve_takes_a_whole_node_and_half_of_another() {
    let mut scheduler = scheduler(Config::default(), 2);
    scheduler.submit(0, &job(1, 12));
    let plan = scheduler.pass(0);
    let gpus: Vec<u32> = plan.starts[0]
        .pieces
        .iter()
        .map(|piece| piece.gpus)
        .collect();
    assert_eq!(gpus, [8, 4]);
}

#[test]
fn a_job_that_ranks_behind_makes_room_once_it_has_run_for_what_its_restart_costs() {
    let mut scheduler = scheduler(Config::default(), 1);
    scheduler.submit(0, &job(1, 8));
    settle(&mut scheduler, 0);
    scheduler.submit(100, &job(2, 8));
    assert_eq!(
        settle(&mut scheduler, 100),
        (vec![], vec![]),
        "they are alike"
    );
    assert_eq!(settle(&mut scheduler, 10_000), (vec![2], vec![1]));
    scheduler.finished(10_100, 2);
    assert_eq!(settle(&mut scheduler, 10_100).0, [1], "it goes on");
    scheduler.submit(10_200, &job(3, 8));
    let soon = settle(&mut scheduler, 10_200);
    assert_eq!(soon, (vec![], vec![]), "it has just started");
    assert_eq!(settle(&mut scheduler, 10_500), (vec![3], vec![1]));
}

#[test]
fn two_that_save_nothing_before_they_have_to_go_do_not_take_turns_for_ever() {
    let mut scheduler = scheduler(Config::default(), 1);
    for number in [1, 2] {
        let unsaved = Submission {
            saved: false,
            ..job(number, 8)
        };
        scheduler.submit(0, &unsaved);
    }
    let mut ran = Vec::new();
    let mut in_vain = [0; 3];
    let (mut began, mut now) = (0, 0);
    scheduler.pass(now);
    while now < 100_000 {
        now += 60;
        let plan = scheduler.pass(now);
        for preempt in plan.preempts {
            ran.push(now - began);
            began = now;
            let times = &mut in_vain[usize::try_from(preempt.job).unwrap()];
            *times += 1;
            scheduler.released_with(now, preempt.job, 0, *times);
        }
    }
    ran.push(now - began);
    let longest = ran.iter().max().unwrap();
    assert!(*longest > 20_000, "each goes for the other: {ran:?}");
}

#[test]
fn a_job_that_cannot_save_its_work_is_left_alone() {
    let mut scheduler = scheduler(Config::default(), 1);
    let pinned = Submission {
        preemptible: false,
        ..job(1, 8)
    };
    scheduler.submit(0, &pinned);
    settle(&mut scheduler, 0);
    scheduler.submit(10_000, &job(2, 8));
    assert_eq!(settle(&mut scheduler, 10_000), (vec![], vec![]));
}

/// Two nodes since 1,000 s, one half of each free: nothing is whole.
fn half_full(config: Config) -> Scheduler {
    let mut scheduler = scheduler(config, 2);
    for number in 1..=4 {
        scheduler.submit(0, &job(number, 4));
    }
    settle(&mut scheduler, 0);
    scheduler.finished(1_000, 1);
    scheduler.finished(1_000, 3);
    scheduler
}

#[test]
fn small_jobs_move_together_so_that_a_gang_fits() {
    let mut scheduler = half_full(Config::default());
    let old = Submission {
        priority: 0,
        ..job(9, 8)
    };
    scheduler.submit(1_000, &old);
    let (starts, goes) = settle(&mut scheduler, 2_000);
    assert_eq!(goes.len(), 1, "one of the two moves");
    assert!(
        starts.contains(&9) && starts.contains(&goes[0]),
        "and goes on at once"
    );
}

#[test]
fn nobody_goes_when_the_gang_would_not_fit_all_the_same() {
    let mut scheduler = scheduler(Config::default(), 2);
    let pinned = Submission {
        preemptible: false,
        ..job(1, 1)
    };
    scheduler.submit(0, &pinned);
    settle(&mut scheduler, 0);
    scheduler.submit(1, &job(2, 8));
    settle(&mut scheduler, 1);
    scheduler.submit(10_000, &job(3, 16));
    assert_eq!(settle(&mut scheduler, 10_000), (vec![], vec![]));
}

#[test]
fn priority_goes_before_rank_and_pushes_out() {
    let mut scheduler = scheduler(Config::default(), 1);
    scheduler.submit(0, &job(1, 8));
    settle(&mut scheduler, 0);
    let urgent = Submission {
        priority: 10,
        ..job(3, 8)
    };
    scheduler.submit(400, &job(2, 8));
    scheduler.submit(400, &urgent);
    assert_eq!(settle(&mut scheduler, 400), (vec![3], vec![1]));
}

#[test]
fn who_has_waited_for_two_days_goes_before_all_others() {
    const HOUR: Seconds = 3_600;
    let config = Config {
        patience: 0,
        ..Config::default()
    };
    let pinned = |number| Submission {
        preemptible: false,
        ..job(number, 8)
    };
    // It has run for ten hours already, so it ranks behind whoever has not.
    let worse = |number| Submission {
        done: 10 * HOUR,
        ..job(number, 8)
    };
    let first = |later: Seconds| {
        let mut scheduler = scheduler(config.clone(), 1);
        scheduler.submit(0, &pinned(1));
        settle(&mut scheduler, 0);
        scheduler.submit(1, &worse(2));
        scheduler.submit(later - 60, &job(3, 8));
        settle(&mut scheduler, later);
        scheduler.finished(later + 1, 1);
        settle(&mut scheduler, later + 1).0
    };
    assert_eq!(first(47 * HOUR), [3]);
    // What it has run is no waiting.
    assert_eq!(first(57 * HOUR), [3]);
    assert_eq!(first(59 * HOUR), [2]);
}

#[test]
fn who_has_waited_for_two_days_pushes_out_one_that_ranks_better() {
    const HOUR: Seconds = 3_600;
    let config = Config {
        patience: 0,
        ..Config::default()
    };
    let mut scheduler = scheduler(config, 1);
    let worse = Submission {
        done: 10 * HOUR,
        ..job(2, 8)
    };
    scheduler.submit(0, &job(1, 8));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &worse);
    scheduler.finished(57 * HOUR, 1);
    scheduler.submit(57 * HOUR, &job(3, 8));
    assert_eq!(settle(&mut scheduler, 57 * HOUR).0, [3], "it ranks better");
    assert_eq!(settle(&mut scheduler, 57 * HOUR + 400), (vec![], vec![]));
    assert_eq!(settle(&mut scheduler, 59 * HOUR), (vec![2], vec![3]));
}

#[test]
fn easy_backfills_what_ends_in_time_and_nothing_else() {
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut scheduler = scheduler(config, 2);
    let limited = |number, gpus, limit| Submission {
        limit: Some(limit),
        ..job(number, gpus)
    };
    scheduler.submit(0, &limited(1, 8, 1_000));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &limited(2, 16, 1_000));
    scheduler.submit(2, &limited(3, 8, 5_000));
    scheduler.submit(3, &limited(4, 8, 500));
    let plan = scheduler.pass(4);
    assert_eq!(started(&plan), [4]);
    let kept = plan.reservation.unwrap();
    assert_eq!((kept.job, kept.then), (2, 1_000));
}

#[test]
fn easy_keeps_nodes_for_the_first_where_no_job_has_a_time_limit() {
    let config = Config {
        rule: Rule::Easy,
        ..Config::default()
    };
    let mut scheduler = scheduler(config, 2);
    scheduler.submit(0, &job(1, 8));
    settle(&mut scheduler, 0);
    scheduler.submit(1, &job(2, 16));
    scheduler.submit(2, &job(3, 8));
    let plan = scheduler.pass(3);
    assert_eq!(started(&plan), [] as [u64; 0], "nobody knows when it ends");
    let kept = plan.reservation.unwrap();
    assert_eq!((kept.job, kept.known()), (2, None));
    let limited = Submission {
        limit: Some(100),
        ..job(4, 8)
    };
    scheduler.submit(4, &limited);
    assert_eq!(started(&scheduler.pass(4)), [4], "that one does end");
    scheduler.finished(50, 1);
    assert_eq!(started(&scheduler.pass(50)), [] as [u64; 0]);
    scheduler.finished(100, 4);
    assert_eq!(started(&scheduler.pass(100)), [2]);
}

#[test]
fn for_throughput_all_run_by_turns_and_then_the_longest_goes_first() {
    const HOUR: Seconds = 3_600;
    let config = Config {
        rule: Rule::Throughput,
        ..Config::default()
    };
    let mut scheduler = scheduler(config, 1);
    for (name, hours) in [("short", 22), ("long", 90)] {
        let class = scheduler.history.class("", "", name, 8);
        (0..40).for_each(|_| scheduler.history.ended(class, hours * HOUR));
    }
    let after = |number, name: &str, hours| Submission {
        name: name.into(),
        done: hours * HOUR,
        ..job(number, 8)
    };
    scheduler.submit(0, &after(1, "short", 19));
    scheduler.submit(0, &after(2, "long", 19));
    scheduler.submit(0, &after(3, "long", 7));
    scheduler.submit(0, &after(4, "short", 5));
    let mut order = Vec::new();
    for now in 0..4 {
        let starts = settle(&mut scheduler, now).0;
        starts.iter().for_each(|job| scheduler.finished(now, *job));
        order.extend(starts);
    }
    assert_eq!(order, [4, 3, 2, 1]);

    // Whoever has run for several turns makes room for one that has not.
    scheduler.submit(10, &after(5, "long", 7));
    assert_eq!(settle(&mut scheduler, 10).0, [5]);
    scheduler.submit(11, &after(6, "long", 0));
    assert_eq!(settle(&mut scheduler, 10 + HOUR).0, [6]);
}

#[test]
fn a_job_starts_only_on_nodes_that_are_as_it_asks() {
    let mut scheduler = Scheduler::new(Config::default());
    let class = |memory_bytes| GpuClass {
        memory_bytes,
        model: "H100".into(),
    };
    for (memory, rack) in [(40, "a"), (80, "a"), (80, "b"), (80, "b")] {
        scheduler.add_node(NodeOffer {
            cpus: 64,
            memory_bytes: 512,
            gpus: [(class(memory), 8)].into(),
            labels: [format!("rack={rack}")].into(),
            open: true,
        });
    }
    let ask = Ask {
        gang: Gang::Each { nodes: 2, gpus: 4 },
        gpu: GpuWish {
            model: "h100".into(),
            at_least: 80,
            ..GpuWish::default()
        },
        cpus: 32,
        fabric: Some("rack".into()),
        ..Ask::packed(0)
    };
    let wanted = |number| Submission {
        ask: ask.clone(),
        ..job(number, 0)
    };
    scheduler.submit(0, &wanted(1));
    let plan = scheduler.pass(0);
    let nodes: Vec<u32> = plan.starts[0]
        .pieces
        .iter()
        .map(|piece| piece.node.0)
        .collect();
    assert_eq!(nodes, [2, 3], "the rack with two such nodes");
    assert!(scheduler.could_ever(&ask));
    let too_much = Ask {
        gang: Gang::Each { nodes: 3, gpus: 4 },
        ..ask.clone()
    };
    assert!(!scheduler.could_ever(&too_much));
    let alone = Ask {
        exclusive: true,
        fabric: None,
        ..ask.clone()
    };
    scheduler.submit(
        1,
        &Submission {
            ask: alone,
            ..job(2, 0)
        },
    );
    assert_eq!(
        settle(&mut scheduler, 1).0,
        [] as [u64; 0],
        "one idle node of such"
    );
}

#[test]
fn a_total_is_gathered_from_nodes_of_several_sizes_where_no_equal_parts_will_do() {
    let mut scheduler = Scheduler::new(Config::default());
    for gpus in [4, 8, 4] {
        scheduler.add_node(NodeOffer::of_gpus(gpus));
    }
    scheduler.submit(0, &job(1, 16));
    let plan = scheduler.pass(0);
    let gpus: Vec<u32> = plan.starts[0]
        .pieces
        .iter()
        .map(|piece| piece.gpus)
        .collect();
    assert_eq!(gpus, [8, 4, 4]);
    scheduler.submit(0, &job(2, 1));
    assert!(scheduler.pass(0).starts.is_empty(), "nothing is left");
}

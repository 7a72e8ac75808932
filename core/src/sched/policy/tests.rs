//! The policy as a whole, told small stories.

mod broken;
mod projects;
mod room;

use proptest::prelude::*;

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

#[test]
fn small_jobs_move_together_so_that_a_gang_fits() {
    let mut scheduler = scheduler(Config::default(), 2);
    for number in 1..=4 {
        scheduler.submit(0, &job(number, 4));
    }
    settle(&mut scheduler, 0);
    // One half of each node is free: nothing is whole.
    scheduler.finished(1_000, 1);
    scheduler.finished(1_000, 3);
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
fn of_equal_jobs_those_of_the_project_that_had_least_of_its_share_start_first() {
    const HOUR: Seconds = 3_600;
    let start = |fairness, rich: f64| {
        let mut config = Config {
            fairness,
            ..Config::default()
        };
        let rule = ProjectRule {
            share: rich,
            ..ProjectRule::default()
        };
        config.projects.insert("busy".into(), rule);
        let mut scheduler = scheduler(config, 1);
        scheduler.submit(0, &of_project("busy", job(1, 8)));
        scheduler.submit(0, &of_project("idle", job(2, 1)));
        settle(&mut scheduler, 0);
        scheduler.finished(10 * HOUR, 1);
        assert_eq!(settle(&mut scheduler, 10 * HOUR).0, [2]);
        scheduler.submit(10 * HOUR, &of_project("busy", job(3, 8)));
        scheduler.submit(10 * HOUR + 1, &of_project("idle", job(4, 8)));
        settle(&mut scheduler, 10 * HOUR + 120);
        scheduler.finished(10 * HOUR + 121, 2);
        settle(&mut scheduler, 10 * HOUR + 121).0
    };
    assert_eq!(start(0.25, 1.0), [4]);
    assert_eq!(start(0.0, 1.0), [3], "in the order of submission");
    assert_eq!(start(0.25, 1.0e9), [3], "its share is as large");
}

#[test]
fn what_a_project_has_borrowed_is_given_back_first() {
    // Fair share says nothing here, and b's job ranks behind those of a.
    let config = Config {
        fairness: 0.0,
        ..owned(&[("a", 8), ("b", 8)])
    };
    let mut scheduler = scheduler(config, 2);
    let of = |number, project| of_project(project, job(number, 8));
    let worse = Submission {
        done: 36_000,
        ..of(3, "b")
    };
    scheduler.submit(0, &of(1, "a"));
    scheduler.submit(0, &of(2, "a"));
    assert_eq!(settle(&mut scheduler, 0).0.len(), 2, "b has nobody");
    scheduler.submit(400, &worse);
    let (starts, goes) = settle(&mut scheduler, 400);
    assert_eq!((starts, goes.len()), (vec![3], 1));
    scheduler.submit(900, &of(4, "b"));
    assert_eq!(
        settle(&mut scheduler, 900),
        (vec![], vec![]),
        "a has no more than its own"
    );
}

#[test]
fn who_goes_gives_back_what_was_borrowed_until_its_project_has_only_its_own() {
    let mut config = Config::default();
    for (name, gpus) in [("a", 8), ("b", 16)] {
        let rule = ProjectRule {
            gpus: Some(gpus),
            ..ProjectRule::default()
        };
        config.projects.insert(name.into(), rule);
    }
    let mut scheduler = scheduler(config, 2);
    let of = |number, project: &str, gpus| Submission {
        project: project.into(),
        ..job(number, gpus)
    };
    scheduler.submit(0, &of(1, "a", 8));
    scheduler.submit(0, &of(2, "a", 8));
    settle(&mut scheduler, 0);
    scheduler.submit(400, &of(3, "b", 16));
    let plan = scheduler.pass(400);
    let gone = plan.preempts.iter().map(|gone| (gone.job, gone.borrowed));
    // The second has no more than is its project's own, and goes since it ranks behind.
    assert_eq!(gone.collect::<Vec<_>>(), [(1, true), (2, false)]);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_gangs_are_whole_nodes_are_not_overdrawn_and_a_second_pass_adds_nothing(
        jobs in prop::collection::vec((0u32..30, 0i64..2_000, 1i64..5_000, any::<bool>(), 0u32..3), 1..60),
        rule in prop::sample::select(vec![Rule::Gittins, Rule::Fifo, Rule::Easy, Rule::Throughput]),
        (restart_cost, settled) in (0i64..900, 0i64..900),
    ) {
        let config = Config { rule, restart_cost, settled, ..Config::default() };
        let least = config.left_alone();
        let mut scheduler = scheduler(config, 4);
        let mut now = 0;
        let mut running: Vec<(u64, Seconds)> = Vec::new();
        let mut runs = std::collections::BTreeMap::new();
        for (number, (gpus, gap, lasts, preemptible, priority)) in (1u64..).zip(jobs) {
            now += gap;
            running.retain(|(job, end)| {
                let ends = *end <= now;
                if ends {
                    scheduler.finished(now, *job);
                }
                !ends
            });
            let limit = Some(lasts);
            scheduler.submit(now, &Submission { preemptible, priority, limit, ..job(number, gpus) });
            runs.insert(number, (lasts, preemptible, now));
            loop {
                let plan = scheduler.pass(now);
                prop_assert_eq!(&plan.broken, &None);
                if plan.is_empty() {
                    break;
                }
                for start in &plan.starts {
                    let run = runs.get_mut(&start.job).unwrap();
                    run.2 = now;
                    running.push((start.job, now + run.0));
                }
                for preempt in &plan.preempts {
                    let (_, preemptible, since) = runs[&preempt.job];
                    prop_assert!(preemptible, "it cannot save its work");
                    prop_assert!(now - since >= least, "it has run for less than its restart costs");
                    running.retain(|(job, _)| *job != preempt.job);
                    scheduler.released(now, preempt.job);
                }
            }
            let again = scheduler.pass(now);
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }
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

#[test]
fn room_for_a_total_is_gathered_from_nodes_of_several_sizes_too() {
    let mut scheduler = Scheduler::new(Config::default());
    for gpus in [4, 8, 4, 4] {
        scheduler.add_node(NodeOffer::of_gpus(gpus));
    }
    for (number, gpus, preemptible) in [(1, 8, true), (2, 4, true), (3, 4, false), (4, 3, true)] {
        let one = Submission {
            preemptible,
            ..job(number, gpus)
        };
        scheduler.submit(0, &one);
        settle(&mut scheduler, 0);
    }
    let urgent = |number, gpus| Submission {
        priority: 9,
        ..job(number, gpus)
    };
    scheduler.submit(10, &urgent(8, 17));
    assert_eq!(settle(&mut scheduler, 1_000), (vec![], vec![]), "3 stays");
    scheduler.submit(2_000, &urgent(9, 16));
    let (starts, mut goes) = settle(&mut scheduler, 2_000);
    goes.sort_unstable();
    assert_eq!((starts, goes), (vec![9], vec![1, 2, 4]));
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

/// So many whole nodes of one rack.
fn within_a_rack(number: u64, nodes: u32) -> Submission {
    let ask = Ask {
        gang: Gang::Each { nodes, gpus: 8 },
        fabric: Some("rack".into()),
        ..Ask::packed(0)
    };
    Submission {
        ask,
        ..job(number, 0)
    }
}

#[test]
fn room_for_a_gang_of_one_fabric_is_made_within_the_one_where_least_is_lost() {
    let mut scheduler = racks(Config::default(), &[2, 2]);
    for number in 1..=4 {
        let preemptible = number != 4;
        let one = Submission {
            preemptible,
            ..job(number, 8)
        };
        scheduler.submit(0, &one);
    }
    settle(&mut scheduler, 0);
    // 1 and 3 rank worst, and are of two racks: together they are no room.
    scheduler.finished(50_000, 2);
    scheduler.submit(50_000, &job(5, 8));
    settle(&mut scheduler, 50_000);
    let urgent = Submission {
        priority: 9,
        ..within_a_rack(9, 2)
    };
    scheduler.submit(60_000, &urgent);
    let (starts, mut goes) = settle(&mut scheduler, 60_000);
    goes.sort_unstable();
    assert_eq!((starts, goes), (vec![9], vec![1, 5]), "4 stays");
}

#[test]
fn room_for_one_alone_is_a_node_from_which_all_have_gone_and_none_where_one_stays() {
    let mut scheduler = racks(Config::default(), &[1, 1]);
    let on = |number, rack: u32, gpus, cpus, preemptible| Submission {
        preemptible,
        ask: Ask {
            labels: [format!("rack={rack}")].into(),
            cpus,
            ..Ask::packed(gpus)
        },
        ..job(number, 0)
    };
    for one in [
        on(1, 0, 1, 1, true),
        on(2, 0, 0, 1, false),
        on(3, 1, 6, 1, true),
        on(4, 1, 0, 1, true),
    ] {
        scheduler.submit(0, &one);
    }
    settle(&mut scheduler, 0);
    let alone = Submission {
        priority: 9,
        ask: Ask {
            exclusive: true,
            cpus: 1,
            ..Ask::packed(2)
        },
        ..job(9, 0)
    };
    scheduler.submit(10, &alone);
    let (starts, mut goes) = settle(&mut scheduler, 1_000);
    goes.sort_unstable();
    assert_eq!(starts.first(), Some(&9));
    assert_eq!(goes, [3, 4], "who holds only CPUs goes too; 2 stays");
}

#[test]
fn who_is_alone_on_its_nodes_is_charged_for_all_of_them() {
    let mut config = Config::default();
    let own = ProjectRule {
        gpus: Some(10),
        borrow: false,
        ..ProjectRule::default()
    };
    config.projects.insert("one".into(), own);
    let mut scheduler = racks(config, &[3]);
    let of_one = |asked: Submission| Submission {
        project: "one".into(),
        ..asked
    };
    let alone = |number| {
        of_one(Submission {
            ask: Ask {
                exclusive: true,
                cpus: 1,
                ..Ask::packed(1)
            },
            ..job(number, 0)
        })
    };
    scheduler.submit(0, &alone(1));
    scheduler.submit(0, &alone(2));
    assert_eq!(settle(&mut scheduler, 0).0, [1], "two would have 16 of 10");
    let words = scheduler.limit(2).unwrap();
    assert!(words.contains("8 of its own 10 GPUs"), "{words}");
    scheduler.submit(0, &of_one(job(3, 2)));
    scheduler.submit(0, &of_one(job(4, 1)));
    assert_eq!(settle(&mut scheduler, 0).0, [3]);
    scheduler.finished(100, 1);
    assert_eq!(settle(&mut scheduler, 100).0, [2]);
}

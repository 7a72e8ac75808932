//! The planner over time: who makes room, who waits for them, and what becomes of it when nodes and clocks do what they do.

mod alone;
mod labels;
mod large;
mod leaving;
mod property;
mod renewed;
mod shunned;
mod starts;
mod told;
mod totals;
mod vain;

use std::time::Duration;

use super::*;
use crate::{
    resources::{Capacity, Gpu, ResourceRequest},
    sched::{
        Change,
        policy::{self, Rule},
    },
};

const START: i64 = 1_000_000_000 * SECOND;

fn at(seconds: i64) -> Timestamp {
    Timestamp(START + seconds * SECOND)
}

fn name(node: u32) -> NodeName {
    NodeName(format!("n{node}"))
}

fn set(planner: &mut Planner, now: i64, node: u32, gpus: u32, open: bool) {
    let gpu = |index: u32| Gpu {
        uuid: format!("{node}-{index}"),
        model: "T4".into(),
        memory_bytes: 16 << 30,
    };
    let capacity = Capacity {
        cpus: 8,
        memory_bytes: 64 << 30,
        gpus: (0..gpus).map(gpu).collect(),
    };
    planner.set_node(at(now), &name(node), capacity, open);
    planner.set_address(at(now), &name(node), format!("10.0.0.{node}"));
}

fn cluster(nodes: u32) -> Planner {
    nodes_of(Planner::default(), nodes)
}

fn nodes_of(mut planner: Planner, nodes: u32) -> Planner {
    for node in 0..nodes {
        set(&mut planner, 0, node, 4, true);
    }
    planner
}

fn job(id: u64, nodes: u32, gpus: u32) -> QueuedJob {
    let request = ResourceRequest {
        gpus,
        ..ResourceRequest::default()
    };
    QueuedJob {
        nodes,
        preemptible: true,
        ..QueuedJob::plain(JobId(id), request, at(0))
    }
}

fn urgent(id: u64, nodes: u32, gpus: u32) -> QueuedJob {
    QueuedJob {
        priority: 500,
        ..job(id, nodes, gpus)
    }
}

/// The jobs that get a place, and run at once, and those that are to go.
fn solve(planner: &mut Planner, now: i64) -> (Vec<u64>, Vec<(u64, u64)>) {
    let waiting = planner.queue().iter().cloned();
    let waiting: BTreeMap<JobId, QueuedJob> = waiting.map(|queued| (queued.job, queued)).collect();
    let decisions = planner.solve(at(now));
    assert_eq!(
        (planner.ledger().violated(), &decisions.broken),
        (None, &None)
    );
    for placement in &decisions.placements {
        let asked = waiting[&placement.job].clone();
        planner.holds(at(now), held(asked, placement, Some(now)));
    }
    let places = decisions.placements.iter().map(|placement| placement.job.0);
    let leaving = decisions.leaving.iter();
    let leaving = leaving.map(|gone| (gone.job.0, gone.for_job.0));
    (places.collect(), leaving.collect())
}

/// As the store says it once the job has its place.
fn held(asked: QueuedJob, placement: &Placement, runs_since: Option<i64>) -> Held {
    Held {
        asked,
        allocations: placement.allocations.clone(),
        since: placement.queued_at,
        runs_since: runs_since.map(at),
        saved: true,
        leaves_for: None,
        leaves_since: None,
        grace: Duration::from_secs(10),
    }
}

#[test]
fn of_a_plan_that_breaks_what_must_hold_nothing_is_carried_out() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 2));
    solve(&mut planner, 0);
    planner.policy.take_again(1);
    planner.queued(at(1), job(2, 1, 4));
    let decisions = planner.solve(at(1));
    assert_eq!(decisions.placements, []);
    let words = decisions.broken.unwrap();
    assert!(words.starts_with("INV-02: of node"), "{words}");
}

#[test]
fn an_urgent_job_starts_on_the_very_gpus_of_whoever_made_room_once_they_are_gone() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    assert_eq!(solve(&mut planner, 0), (vec![1], vec![]));
    planner.queued(at(100), urgent(2, 1, 2));
    assert_eq!(
        solve(&mut planner, 100),
        (vec![], vec![]),
        "it has just started"
    );
    assert_eq!(solve(&mut planner, 400), (vec![], vec![(1, 2)]));
    assert_eq!(planner.leaves_for(JobId(1)), Some(JobId(2)));
    let words = planner.chosen(JobId(2)).unwrap();
    assert_eq!(
        words,
        "has a place on n0 as soon as job 1 has saved its work and gone"
    );
    // What is left over of the room is somebody's too, and not before it is free.
    planner.queued(at(401), urgent(3, 1, 2));
    assert_eq!(solve(&mut planner, 401), (vec![], vec![]));
    assert_eq!(planner.ledger().held_by(JobId(1)).len(), 1);
    planner.queued(at(410), job(1, 1, 4));
    assert_eq!(solve(&mut planner, 410), (vec![2, 3], vec![]));
    planner.gone(at(500), JobId(2), Some(Duration::from_secs(60)));
    planner.gone(at(500), JobId(3), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, 500), (vec![1], vec![]), "it goes on");
}

#[test]
fn a_job_that_does_not_allow_it_makes_room_for_nobody() {
    let mut planner = cluster(1);
    let pinned = QueuedJob {
        preemptible: false,
        ..job(1, 1, 4)
    };
    planner.queued(at(0), pinned);
    solve(&mut planner, 0);
    planner.queued(at(100), urgent(2, 1, 1));
    assert_eq!(solve(&mut planner, 10_000), (vec![], vec![]));
    assert_eq!(planner.chosen(JobId(2)), None);
}

#[test]
fn who_waits_beside_nodes_that_are_kept_is_told_for_whom_and_the_gang_when() {
    let mut planner = Planner::new(policy::Config {
        reserve: policy::Reserve::Top,
        ..policy::Config::default()
    });
    for node in 1..=2 {
        set(&mut planner, 0, node, 8, true);
    }
    let of = |id, gpus: u32, nodes: u32, hours: u64| {
        let mut queued = job(id, nodes, gpus);
        queued.preemptible = false;
        queued.limit = Some(Duration::from_secs(hours * 3_600));
        queued
    };
    planner.queued(at(0), of(1, 8, 1, 1));
    assert_eq!(planner.solve(at(0)).placements.len(), 1);
    let mut gang = of(2, 8, 2, 1);
    gang.priority = 9;
    planner.queued(at(10), gang);
    planner.queued(at(10), of(3, 8, 1, 2));
    assert_eq!(planner.solve(at(10)).placements, []);
    let gang = planner.reason(at(10), JobId(2)).unwrap();
    assert!(gang.contains("; nodes n1, n2 are kept for it"), "{gang}");
    let beside = planner.reason(at(10), JobId(3)).unwrap();
    let told = "waits beside another: nodes n1, n2 are kept for job 2 from ";
    assert!(beside.starts_with(told), "{beside}");
    // Fewer GPUs would not do, but to be gone before the gang starts.
    let changes = planner.explain(at(10), JobId(3)).unwrap().changes;
    let change = Change {
        field: "time_limit",
        from: "7200 s".into(),
        to: "3540 s".into(),
    };
    assert_eq!(changes, [change]);
    planner.gone(at(11), JobId(3), None);
    let mut shorter = of(4, 8, 1, 2);
    shorter.limit = Some(Duration::from_secs(3_540));
    planner.queued(at(11), shorter);
    assert_eq!(solve(&mut planner, 11).0, [4]);
}

#[test]
fn a_gang_is_cleared_for_as_a_whole_or_not_at_all() {
    let mut planner = cluster(2);
    let pinned = QueuedJob {
        preemptible: false,
        ..job(1, 1, 4)
    };
    planner.queued(at(0), pinned);
    planner.queued(at(0), job(2, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(3, 2, 4));
    assert_eq!(
        solve(&mut planner, 1_000),
        (vec![], vec![]),
        "one node is not to be had"
    );
    planner.gone(at(1_100), JobId(1), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, 1_100), (vec![], vec![(2, 3)]));
    planner.queued(at(1_110), job(2, 1, 4));
    assert_eq!(solve(&mut planner, 1_110), (vec![3], vec![]));
    assert_eq!(planner.ledger().held_by(JobId(3)).len(), 2);
}

#[test]
fn a_node_that_closes_while_it_is_cleared_for_a_job_keeps_nobody_waiting_for_it() {
    let mut planner = cluster(2);
    planner.queued(at(0), job(1, 1, 4));
    let pinned = QueuedJob {
        preemptible: false,
        ..job(2, 1, 4)
    };
    planner.queued(at(0), pinned);
    solve(&mut planner, 0);
    let home = planner.ledger().held_by(JobId(1))[0].node.clone();
    planner.queued(at(10), urgent(3, 1, 4));
    assert_eq!(solve(&mut planner, 1_000).1, [(1, 3)]);
    let index = u32::from(home == name(1));
    set(&mut planner, 1_001, index, 4, false);
    assert_eq!(planner.chosen(JobId(3)), None);
    planner.gone(at(1_002), JobId(2), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, 1_002), (vec![3], vec![]), "elsewhere");
    // Whoever made room in vain waits with the others.
    planner.queued(at(1_010), job(1, 1, 4));
    planner.gone(at(1_020), JobId(3), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, 1_020).0, [1]);
}

#[test]
fn what_a_start_from_the_store_finds_goes_on_as_it_was() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    let place = planner.solve(at(0)).placements.remove(0);
    let mut after = cluster(1);
    let held = Held {
        asked: job(1, 1, 4),
        allocations: place.allocations,
        since: at(0),
        runs_since: Some(at(0)),
        saved: true,
        leaves_for: Some(JobId(2)),
        leaves_since: None,
        grace: Duration::from_secs(10),
    };
    after.queued(at(450), urgent(2, 1, 4));
    after.holds(at(450), held.clone());
    // Nobody else is told to go for it, and it takes nothing that is held.
    assert_eq!(solve(&mut after, 450), (vec![], vec![]));
    assert_eq!(after.leaves_for(JobId(1)), Some(JobId(2)));
    after.holds(at(455), held);
    after.queued(at(460), job(1, 1, 4));
    assert_eq!(solve(&mut after, 460), (vec![2], vec![]));
}

#[test]
fn a_clock_that_is_set_back_stops_neither_rounds_nor_starts() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(2, 1, 4));
    assert_eq!(solve(&mut planner, 200), (vec![], vec![]));
    // An hour back: what has passed has passed.
    let back = 200 - 3_600;
    assert_eq!(solve(&mut planner, back), (vec![], vec![]));
    let wake = planner.wake(at(back)).unwrap();
    assert!(wake <= at(back + 60), "{wake:?}");
    assert_eq!(solve(&mut planner, back + 200).1, [(1, 2)]);
}

#[test]
fn in_strict_order_the_first_that_does_not_fit_holds_up_the_rest() {
    let config = Config {
        rule: Rule::Fifo,
        ..Config::default()
    };
    let mut planner = Planner::new(config);
    set(&mut planner, 0, 0, 4, true);
    planner.queued(at(0), job(1, 1, 3));
    planner.queued(at(0), job(2, 1, 2));
    planner.queued(at(0), job(3, 1, 1));
    assert_eq!(solve(&mut planner, 0), (vec![1], vec![]));
    planner.gone(at(1), JobId(1), Some(Duration::from_secs(60)));
    assert_eq!(solve(&mut planner, 1), (vec![2, 3], vec![]));
}

#[test]
fn a_job_that_names_a_model_has_room_made_on_nodes_of_that_model() {
    let mut planner = cluster(1);
    let h100 = |index: u32| Gpu {
        uuid: format!("h-{index}"),
        model: "H100".into(),
        memory_bytes: 80 << 30,
    };
    let capacity = Capacity {
        cpus: 8,
        memory_bytes: 64 << 30,
        gpus: (0..4).map(h100).collect(),
    };
    planner.set_node(at(0), &name(9), capacity, true);
    let wants = |queued: QueuedJob| {
        let mut queued = queued;
        queued.request.gpu_model = "h100".into();
        queued
    };
    planner.queued(at(0), wants(job(1, 1, 4)));
    solve(&mut planner, 0);
    planner.queued(at(10), wants(urgent(2, 1, 4)));
    assert_eq!(
        solve(&mut planner, 1_000).1,
        [(1, 2)],
        "the others are free, and will not do"
    );
}

#[test]
fn what_was_chosen_and_is_not_free_yet_stays_chosen_when_its_agent_comes_back() {
    let mut planner = cluster(1);
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(2, 1, 2));
    planner.queued(at(11), job(3, 1, 2));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    assert_eq!(
        solve(&mut planner, 401),
        (vec![], vec![]),
        "3 has what is left over"
    );
    planner.block(at(402), &name(0), ["0-9".to_owned()].into());
    planner.set_address(at(402), &name(0), "10.0.0.99".into());
    let more = urgent(4, 1, 4);
    planner.queued(at(403), more);
    solve(&mut planner, 403);
    planner.queued(at(410), job(1, 1, 4));
    assert_eq!(solve(&mut planner, 410).0, [2, 3]);
}

/// Of project 7 one job runs at a time.
fn one_at_a_time() -> Planner {
    let mut config = Config::default();
    let rule = policy::ProjectRule {
        running: Some(1),
        ..policy::ProjectRule::default()
    };
    config.projects.insert("7".into(), rule);
    Planner::new(config)
}

#[test]
fn a_project_is_charged_no_more_once_its_job_has_ended_on_a_node_with_a_blocked_gpu() {
    let mut planner = one_at_a_time();
    set(&mut planner, 0, 0, 4, true);
    planner.block(at(0), &name(0), ["0-3".to_owned()].into());
    let of_project = |id| QueuedJob {
        project: Some(7),
        ..job(id, 1, 1)
    };
    for id in 1..=3 {
        planner.queued(at(0), of_project(id));
        assert_eq!(solve(&mut planner, 0).0, [id]);
        planner.queued(at(0), of_project(id + 10));
        assert_eq!(solve(&mut planner, 0).0, [0; 0]);
        let words = planner.reason(at(0), JobId(id + 10)).unwrap();
        assert_eq!(words, "1 jobs of its project run, which is its limit");
        planner.gone(at(1), JobId(id + 10), None);
        planner.gone(at(1), JobId(id), Some(Duration::from_secs(1)));
    }
}

#[test]
fn who_has_run_already_is_not_asked_again_for_what_it_waited_for() {
    let mut planner = cluster(1);
    let mut again = job(2, 1, 1);
    again.gate.after = vec![JobId(1)];
    planner.queued(at(0), again.clone());
    assert_eq!(
        solve(&mut planner, 0).0,
        [0; 0],
        "job 1 is not known to have succeeded"
    );
    again.passed = Some(at(2));
    again.queued_at = at(5);
    planner.queued(at(5), again);
    assert_eq!(solve(&mut planner, 5).0, [2]);
}

#[test]
fn what_a_job_waited_behind_its_gate_does_not_count_after_a_start_anew_either() {
    const HOUR: i64 = 3_600;
    let mut planner = cluster(1);
    let pinned = QueuedJob {
        preemptible: false,
        ..job(1, 1, 4)
    };
    planner.queued(at(0), pinned);
    solve(&mut planner, 0);
    // One was let through before the start and has no place yet, the other had one and is tried again.
    let mut fresh = job(5, 1, 4);
    fresh.gate.after = vec![JobId(2)];
    let mut again = QueuedJob {
        passed: Some(at(49 * HOUR + 60)),
        ..job(6, 1, 4)
    };
    again.gate.after = vec![JobId(2)];
    planner.queued(at(50 * HOUR), fresh);
    planner.queued(at(50 * HOUR), again);
    solve(&mut planner, 50 * HOUR);
    let guarded = |planner: &Planner, now, job| {
        let place = planner.policy().place(planner.seconds(at(now)), job);
        place.map(|place| place.guarded)
    };
    assert_eq!(guarded(&planner, 50 * HOUR, 6), Some(true), "not known yet");
    planner.stands(JobId(2), Standing::Succeeded, Some(at(49 * HOUR)));
    solve(&mut planner, 50 * HOUR + 1);
    assert_eq!(guarded(&planner, 50 * HOUR + 1, 5), Some(false));
    assert_eq!(guarded(&planner, 50 * HOUR + 1, 6), Some(false));
    let late = (49 + 48) * HOUR;
    solve(&mut planner, late);
    assert_eq!(guarded(&planner, late, 5), Some(true));
    assert_eq!(guarded(&planner, late, 6), Some(true));
}

//! Jobs before, in and after a maintenance window.

mod expected;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    resources::{Capacity, ResourceRequest},
    sched::policy::Rule,
    service::{self, Scope, Window},
};

const NOW: Timestamp = Timestamp(1_795_608_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn after(hours: u32) -> Timestamp {
    NOW.plus(HOUR * hours)
}

fn name(node: &str) -> NodeName {
    NodeName(node.into())
}

fn set(planner: &mut Planner, now: Timestamp, node: &str, open: bool) {
    let capacity = Capacity {
        cpus: 2,
        ..Capacity::default()
    };
    planner.set_node(now, &name(node), capacity, open);
}

/// Nodes of two CPUs each.
fn planner(nodes: &[&str]) -> Planner {
    let mut planner = Planner::default();
    for node in nodes {
        set(&mut planner, NOW, node, true);
    }
    planner
}

fn window(scope: Scope, (from, until): (u32, u32)) -> Window {
    Window {
        id: 1,
        scope,
        from: after(from),
        until: after(until),
        why: "new fan".into(),
        made_by: "o@example.com".into(),
        made_at: NOW,
    }
}

fn on_n1(hours: (u32, u32)) -> Window {
    window(Scope::Nodes([name("n1")].into()), hours)
}

fn job(id: u64, limit: Option<Duration>) -> QueuedJob {
    let request = ResourceRequest {
        cpus: 2,
        ..ResourceRequest::default()
    };
    QueuedJob {
        limit,
        ..QueuedJob::plain(JobId(id), request, NOW)
    }
}

/// Who starts where.
fn starts(planner: &mut Planner, now: Timestamp) -> Vec<(u64, String)> {
    let placements = planner.solve(now).placements.into_iter();
    let starts = placements.map(|placed| (placed.job.0, placed.allocations[0].node.0.clone()));
    starts.collect()
}

fn on(job: u64, node: &str) -> Vec<(u64, String)> {
    vec![(job, node.to_owned())]
}

#[test]
fn a_job_whose_limit_reaches_into_a_window_waits_until_it_is_over_and_is_told_why() {
    let mut planner = planner(&["n1"]);
    planner.set_windows(NOW, vec![on_n1((2, 4))]);
    planner.queued(NOW, job(1, Some(3 * HOUR)));
    assert_eq!(starts(&mut planner, NOW), []);
    let words = planner.reason(NOW, JobId(1)).unwrap();
    let told = "waits for the maintenance of node n1 from 14:00 UTC until 16:00 UTC (new fan) to be over: its time limit of 10800 s reaches into it";
    assert_eq!(words, told);
    let why = planner.explain(NOW, JobId(1)).unwrap();
    let shown = "maintenance from 14:00 UTC until 16:00 UTC (new fan)";
    assert_eq!(why.short[0].lacks, shown);
    let limit = why
        .changes
        .iter()
        .find(|change| change.field == "time_limit");
    assert_eq!(limit.unwrap().to, "7080 s");
    // What ends before it starts.
    planner.queued(NOW, job(2, Some(2 * HOUR - Duration::from_secs(60))));
    assert_eq!(starts(&mut planner, NOW), on(2, "n1"));
    planner.gone(after(1), JobId(2), Some(HOUR));
    // It begins: its node is closed, which others tell.
    set(&mut planner, after(2), "n1", false);
    assert_eq!(starts(&mut planner, after(2)), []);
    let words = planner.reason(after(2), JobId(1)).unwrap();
    let told = "; maintenance of node n1 until 16:00 UTC (new fan)";
    assert!(words.ends_with(told), "{words}");
    set(&mut planner, after(4), "n1", true);
    assert_eq!(starts(&mut planner, after(4)), on(1, "n1"));
}

#[test]
fn who_waits_already_has_fewer_nodes_when_the_time_until_a_window_is_too_short_for_it() {
    let mut planner = planner(&["n1", "n2"]);
    planner.set_windows(NOW, vec![on_n1((4, 5))]);
    for (id, node) in [(1, "n1"), (2, "n2")] {
        planner.queued(NOW, job(id, Some(HOUR)));
        assert_eq!(starts(&mut planner, NOW), on(id, node));
    }
    planner.queued(NOW, job(3, Some(3 * HOUR)));
    planner.queued(NOW, job(4, None));
    assert_eq!(starts(&mut planner, NOW), []);
    // Both are free at a time when job 3 would not end on n1 before it closes.
    planner.gone(after(2), JobId(1), Some(HOUR));
    planner.gone(after(2), JobId(2), Some(HOUR));
    let mut placed = starts(&mut planner, after(2));
    placed.sort();
    assert_eq!(placed, [(3, "n2".to_owned()), (4, "n1".to_owned())]);
}

#[test]
fn a_job_without_a_limit_starts_until_a_restart_costs_more_than_is_left() {
    let mut planner = planner(&["n1"]);
    planner.set_windows(NOW, vec![window(Scope::All, (1, 2))]);
    let late = after(1).minus(Duration::from_secs(59));
    planner.queued(late, job(1, None));
    assert_eq!(starts(&mut planner, late), []);
    let words = planner.reason(late, JobId(1)).unwrap();
    assert!(words.ends_with("it would have to go at once"), "{words}");
    // The clock is set back: there is time enough.
    let early = after(1).minus(Duration::from_secs(61));
    assert_eq!(starts(&mut planner, early), on(1, "n1"));
}

#[test]
fn who_asks_hears_of_windows_as_they_are_at_that_moment_though_nothing_has_happened_since() {
    let mut planner = planner(&["n1"]);
    planner.set_windows(NOW, vec![on_n1((1, 2))]);
    planner.queued(NOW, job(1, Some(3 * HOUR)));
    assert_eq!(starts(&mut planner, NOW), []);
    let told = |now| {
        let why = planner.explain(now, JobId(1)).unwrap();
        let mut limit = why.changes.iter();
        let limit = limit.find(|change| change.field == "time_limit");
        (why.words, why.short.len(), limit.map(|to| to.to.clone()))
    };
    let half = NOW.plus(HOUR / 2);
    let words = "waits for the maintenance of node n1 from 13:00 UTC until 14:00 UTC (new fan) to be over: its time limit of 10800 s reaches into it";
    assert_eq!(told(half), (words.into(), 1, Some("1680 s".into())));
    let words = "waits for the maintenance of node n1 until 14:00 UTC (new fan) to be over: its time limit of 10800 s reaches into it";
    assert_eq!(told(after(1)), (words.into(), 1, None));
    assert_eq!(told(after(2)), ("waits for its turn".into(), 0, None));
}

#[test]
fn a_window_that_is_taken_back_or_whose_label_goes_holds_nobody_back() {
    let mut planner = planner(&["n1"]);
    planner.set_labels(NOW, &name("n1"), ["rack=1".to_owned()].into());
    let of_rack = window(Scope::Labels(["rack=1".to_owned()].into()), (1, 2));
    planner.set_windows(NOW, vec![of_rack]);
    planner.queued(NOW, job(1, Some(5 * HOUR)));
    assert_eq!(starts(&mut planner, NOW), []);
    let mut other = planner.clone();
    other.set_windows(NOW, Vec::new());
    assert_eq!(starts(&mut other, NOW), on(1, "n1"));
    planner.set_labels(NOW, &name("n1"), BTreeSet::new());
    assert_eq!(starts(&mut planner, NOW), on(1, "n1"));
}

#[test]
fn a_place_that_is_free_only_when_its_node_is_about_to_close_is_not_taken() {
    let mut planner = planner(&["n1"]);
    let old = QueuedJob {
        preemptible: true,
        ..job(1, None)
    };
    planner.queued(NOW, old.clone());
    assert_eq!(starts(&mut planner, NOW), on(1, "n1"));
    let held = Held {
        asked: old.clone(),
        allocations: planner
            .ledger()
            .held_by(JobId(1))
            .into_iter()
            .cloned()
            .collect(),
        since: NOW,
        runs_since: Some(NOW),
        saved: true,
        leaves_for: None,
        leaves_since: None,
        grace: Duration::from_secs(10),
    };
    planner.holds(NOW, held);
    let urgent = QueuedJob {
        priority: 500,
        ..job(2, Some(HOUR))
    };
    planner.queued(NOW, urgent);
    let later = NOW.plus(Duration::from_secs(600));
    assert_eq!(planner.solve(later).leaving.len(), 1);
    planner.set_windows(later, vec![on_n1((1, 2))]);
    planner.queued(
        later,
        QueuedJob {
            queued_at: later,
            ..old
        },
    );
    assert_eq!(starts(&mut planner, later), on(1, "n1"), "it has no limit");
    let words = planner.reason(later, JobId(2)).unwrap();
    assert!(words.contains("node n1"), "{words}");
}

/// What happens next, in hours where it takes time.
#[derive(Clone, Debug)]
enum Happens {
    Submits(Option<u32>),
    Ends(usize),
    Plans(bool, u32, u32),
    TakesBack(usize),
    Waits(u32),
    SetsBack,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => prop::option::of(1u32..6).prop_map(Happens::Submits),
        2 => (0usize..8).prop_map(Happens::Ends),
        2 => (any::<bool>(), 0u32..8, 1u32..5)
            .prop_map(|(all, from, long)| Happens::Plans(all, from, long)),
        1 => (0usize..4).prop_map(Happens::TakesBack),
        3 => (1u32..4).prop_map(Happens::Waits),
        1 => Just(Happens::SetsBack),
    ]
}

/// Two nodes, which are closed and opened as their duty is.
struct World {
    planner: Planner,
    now: u32,
    windows: Vec<Window>,
    running: Vec<JobId>,
    next: u64,
    limits: BTreeMap<JobId, Option<Duration>>,
}

impl World {
    fn happens(&mut self, what: &Happens) {
        let now = after(self.now);
        match what {
            Happens::Submits(hours) => {
                self.next += 1;
                let limit = hours.map(|hours| HOUR * hours);
                self.limits.insert(JobId(self.next), limit);
                self.planner.queued(now, job(self.next, limit));
            }
            Happens::Ends(which) if !self.running.is_empty() => {
                let ended = self.running.remove(which % self.running.len());
                self.planner.gone(now, ended, Some(HOUR));
            }
            Happens::Plans(all, from, long) => {
                let hours = (self.now + from, self.now + from + long);
                let window = if *all {
                    window(Scope::All, hours)
                } else {
                    on_n1(hours)
                };
                self.windows.push(window);
                self.planner.set_windows(now, self.windows.clone());
            }
            Happens::TakesBack(which) if !self.windows.is_empty() => {
                self.windows.remove(which % self.windows.len());
                self.planner.set_windows(now, self.windows.clone());
            }
            Happens::Waits(hours) => self.now += hours,
            Happens::SetsBack => self.now = self.now.saturating_sub(2),
            Happens::Ends(_) | Happens::TakesBack(_) => {}
        }
    }

    fn solve(&mut self) {
        let now = after(self.now);
        for node in ["n1", "n2"] {
            let mine = self.windows.iter();
            let mine = mine.filter(|window| window.covers(&name(node), &BTreeSet::new()));
            let open = service::duty(now, &name(node), None, mine) == service::Duty::Open;
            set(&mut self.planner, now, node, open);
        }
        for placed in self.planner.solve(now).placements {
            let held = &placed.allocations[0];
            let limit = self.limits.get(&placed.job).copied().flatten();
            for window in &self.windows {
                let mine = window.covers(&held.node, &BTreeSet::new());
                let span = service::span(limit, Duration::from_secs(60));
                assert!(
                    !(mine && window.is_reached(now, span)),
                    "{placed:?} {window:?}"
                );
            }
            self.running.push(placed.job);
        }
        let again = self.planner.solve(now);
        assert_eq!(again, Decisions::default(), "it had something to add");
    }
}

proptest! {
    #![proptest_config(crate::cases::cases(100))]
    #[test]
    fn whatever_is_planned_no_job_starts_where_its_node_closes_before_it_ends_and_all_start_afterwards(
        story in prop::collection::vec(happens(), 1..40),
    ) {
        let mut world = World {
            planner: planner(&["n1", "n2"]),
            now: 2,
            windows: Vec::new(),
            running: Vec::new(),
            next: 0,
            limits: BTreeMap::new(),
        };
        for what in &story {
            world.happens(what);
            world.solve();
        }
        world.now += 100;
        for _ in 0..80 {
            world.solve();
            world.happens(&Happens::Ends(0));
        }
        prop_assert!(world.planner.queue().is_empty() && world.running.is_empty());
    }
}

#[test]
fn nodes_that_close_before_the_first_could_start_and_run_are_not_kept_for_it() {
    let kept = |windows: Vec<Window>| {
        let mut planner = Planner::new(Config {
            rule: Rule::Easy,
            ..Config::default()
        });
        for node in ["n1", "n2"] {
            set(&mut planner, NOW, node, true);
        }
        for (id, hours, node) in [(1, 1, "n1"), (2, 5, "n2")] {
            planner.queued(NOW, job(id, Some(HOUR * hours)));
            assert_eq!(starts(&mut planner, NOW), on(id, node));
        }
        planner.set_windows(NOW, windows);
        planner.queued(NOW, job(3, Some(HOUR * 3 / 2)));
        assert_eq!(starts(&mut planner, NOW), []);
        planner.reason(NOW, JobId(3)).unwrap()
    };
    // It may start on n1 as things are, but not when n1 is free.
    for (windows, node) in [
        (vec![], "n1"),
        (vec![on_n1((2, 9))], "n2"),
        (vec![on_n1((3, 9))], "n1"),
    ] {
        let words = kept(windows);
        let told = format!("nodes {node} are kept for it");
        assert!(words.contains(&told), "{words}");
    }
}

#[test]
fn where_nobody_knows_when_nodes_are_free_that_is_said_instead_of_a_date() {
    let mut planner = Planner::new(Config {
        rule: Rule::Easy,
        ..Config::default()
    });
    for node in ["n1", "n2"] {
        set(&mut planner, NOW, node, true);
    }
    planner.queued(NOW, job(1, None));
    starts(&mut planner, NOW);
    let wide = QueuedJob {
        nodes: 2,
        ..job(2, None)
    };
    for node in ["n1", "n2"] {
        planner.set_address(NOW, &NodeName(node.into()), node.into());
    }
    planner.queued(NOW, wide);
    planner.queued(NOW, job(3, None));
    assert_eq!(starts(&mut planner, NOW), []);
    let words = planner.reason(NOW, JobId(2)).unwrap();
    let told = "are kept for it, and no time limit says when they are free";
    assert!(words.ends_with(told), "{words}");
}

#[test]
fn a_job_that_a_window_shuts_out_everywhere_holds_nobody_else_up_under_any_rule() {
    for rule in [Rule::Fifo, Rule::Easy, Rule::Gittins] {
        let mut planner = Planner::new(Config {
            rule,
            ..Config::default()
        });
        set(&mut planner, NOW, "n1", true);
        planner.set_windows(NOW, vec![on_n1((2, 4))]);
        planner.queued(NOW, job(1, Some(72 * HOUR)));
        planner.queued(NOW, job(2, Some(HOUR)));
        assert_eq!(starts(&mut planner, NOW), on(2, "n1"), "{rule:?}");
    }
}

//! Nodes that are kept for a gang, and who starts beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{
    ask::{Ask, Gang},
    cluster::{NodeIx, NodeOffer},
    config::{Config, Reserve, Rule, Seconds},
    future::Outage,
    job::Submission,
    plan::{Because, Plan},
    scheduler::Scheduler,
};

const HOUR: Seconds = 3_600;

/// Jobs by name, and how long they run, each of them.
const LAST: [(&str, Seconds); 3] = [("short", 100), ("day", 1_000), ("long", 5_000)];
const WIDTHS: [u32; 5] = [1, 4, 8, 16, 24];

/// Nodes of eight GPUs, where it is known how long jobs run.
fn scheduler(reserve: Reserve, nodes: u32) -> Scheduler {
    let mut scheduler = Scheduler::new(Config {
        reserve,
        ..Config::default()
    });
    for _ in 0..nodes {
        scheduler.add_node(NodeOffer::of_gpus(8));
    }
    for (name, lasts) in LAST {
        for gpus in WIDTHS {
            let class = scheduler.history.class("ann", "", name, gpus);
            for _ in 0..30 {
                scheduler.history.ended(class, lasts);
            }
        }
    }
    scheduler
}

/// One that is not to be stopped.
fn job(number: u64, gpus: u32, name: &str) -> Submission {
    Submission {
        user: "ann".into(),
        name: name.into(),
        preemptible: false,
        ..Submission::packed(number, gpus)
    }
}

fn urgent(asked: Submission) -> Submission {
    Submission {
        priority: 9,
        ..asked
    }
}

fn started(plan: &Plan) -> Vec<u64> {
    plan.starts.iter().map(|start| start.job).collect()
}

/// Two nodes, of which one is held for a long time, and a gang of both that comes first.
fn story(reserve: Reserve) -> Scheduler {
    let mut scheduler = scheduler(reserve, 2);
    scheduler.submit(0, &job(1, 8, "long"));
    scheduler.pass(0);
    scheduler.submit(10, &urgent(job(2, 16, "day")));
    scheduler
}

#[test]
fn who_is_gone_before_the_gang_can_start_starts_beside_it_and_who_is_not_waits() {
    let mut scheduler = story(Reserve::Top);
    scheduler.submit(10, &job(3, 8, "long"));
    scheduler.submit(10, &job(4, 4, "day"));
    let plan = scheduler.pass(10);
    assert_eq!(started(&plan), [4]);
    assert_eq!(plan.starts[0].because, Because::Beside(2));
    let kept = plan.reservation.unwrap();
    assert_eq!((kept.job, kept.then, kept.pieces.len()), (2, 5_000, 2));
    scheduler.finished(1_010, 4);
    assert!(scheduler.pass(1_010).starts.is_empty(), "3 would be late");
    scheduler.finished(5_000, 1);
    assert_eq!(started(&scheduler.pass(5_000)), [2]);
}

/// Two nodes: one is held for 1,000 s, the other for 5,000 s; and one that wants a whole node, for 500 s at most.
fn two_held(rule: Rule) -> Scheduler {
    let mut scheduler = scheduler(Reserve::Top, 2);
    scheduler.config.rule = rule;
    let limited = |asked, limit| Submission {
        limit: Some(limit),
        ..asked
    };
    scheduler.submit(0, &limited(job(1, 8, "day"), 1_000));
    scheduler.pass(0);
    scheduler.submit(0, &limited(job(2, 8, "long"), 5_000));
    scheduler.pass(0);
    scheduler.submit(10, &limited(urgent(job(3, 8, "day")), 500));
    scheduler
}

#[test]
fn a_node_that_goes_out_of_service_before_the_gang_could_start_and_run_is_not_kept_for_it() {
    let outage = |node: u32, from, until| Outage {
        node: NodeIx(node),
        from,
        until,
    };
    let kept = |scheduler: &mut Scheduler| {
        let promise = scheduler.pass(10).reservation?;
        Some((promise.pieces[0].node.0, promise.then))
    };
    for rule in [Rule::Gittins, Rule::Easy] {
        let with = |rows: &[Outage]| {
            let mut scheduler = two_held(rule);
            scheduler.set_closures(rows.to_vec());
            kept(&mut scheduler)
        };
        // It is free at 1,000, and the job has to have it for 500 s and what a restart costs.
        let (soon, late) = (Some((0, 1_000)), Some((1, 5_000)));
        assert_eq!(with(&[]), soon, "{rule:?}");
        assert_eq!(with(&[outage(0, 1_560, 9_000)]), soon, "{rule:?}");
        assert_eq!(with(&[outage(0, 1_559, 9_000)]), late, "{rule:?}");
        let again = Some((0, 5_000));
        assert_eq!(with(&[outage(0, 900, 1_001)]), again, "it is open then");
        assert_eq!(with(&[outage(0, 900, 1_000)]), soon, "it is over by then");
        let both = [outage(0, 900, 9_000), outage(1, 5_100, 9_000)];
        assert_eq!(with(&both), None, "{rule:?}: there is no such node");
        // What was promised is given anew when a window is planned.
        let mut scheduler = two_held(rule);
        assert_eq!(kept(&mut scheduler), soon);
        scheduler.set_closures(vec![outage(0, 1_200, 9_000)]);
        assert_eq!(kept(&mut scheduler), late, "{rule:?}");
        scheduler.set_closures(Vec::new());
        assert!(kept(&mut scheduler).is_some());
    }
}

#[test]
fn behind_one_who_would_stay_too_long_stands_one_who_would_not_and_it_starts() {
    let mut scheduler = story(Reserve::Top);
    // Whose rank is better by what its project has had, not by its length.
    let old = Submission {
        since: Some(-200 * HOUR),
        ..job(3, 8, "long")
    };
    scheduler.submit(10, &old);
    scheduler.submit(10, &job(4, 8, "short"));
    assert_eq!(started(&scheduler.pass(10)), [4]);
}

#[test]
fn nothing_is_kept_unless_that_is_asked_for_and_the_gang_is_due() {
    for reserve in [Reserve::Off, Reserve::Guard] {
        let mut scheduler = story(reserve);
        scheduler.submit(10, &job(3, 8, "long"));
        let plan = scheduler.pass(10);
        assert_eq!((started(&plan), plan.reservation), (vec![3], None));
    }
    // What is not wide finds a place soon enough.
    let mut scheduler = scheduler(Reserve::Top, 2);
    for number in 1..=2 {
        scheduler.submit(0, &job(number, 8, "long"));
    }
    scheduler.pass(0);
    scheduler.submit(10, &job(3, 4, "day"));
    assert_eq!(scheduler.pass(10).reservation, None);
}

#[test]
fn past_the_guard_nodes_are_kept_whatever_the_width_and_whatever_the_ranks() {
    let mut scheduler = scheduler(Reserve::Guard, 1);
    scheduler.submit(0, &job(1, 4, "long"));
    scheduler.submit(0, &job(2, 1, "long"));
    scheduler.pass(0);
    let old = Submission {
        since: Some(-49 * HOUR),
        ..job(3, 8, "day")
    };
    scheduler.submit(10, &old);
    scheduler.submit(10, &job(4, 1, "long"));
    scheduler.submit(10, &job(5, 1, "short"));
    let plan = scheduler.pass(10);
    assert_eq!(started(&plan), [5]);
    let kept = plan.reservation.unwrap();
    assert_eq!((kept.job, kept.then), (3, 5_000));
}

#[test]
fn those_whose_nodes_are_all_closed_take_the_promise_from_nobody_behind_them() {
    let mut scheduler = scheduler(Reserve::Guard, 1);
    let mut drained = NodeOffer {
        labels: ["zone=b".to_owned()].into(),
        ..NodeOffer::of_gpus(16)
    };
    drained.open = false;
    let node = scheduler.add_node(drained.clone());
    scheduler.submit(0, &job(1, 8, "long"));
    scheduler.pass(0);
    let old = |asked| Submission {
        since: Some(-49 * HOUR),
        ..asked
    };
    // In nine lanes, more than are tried in vain in a pass.
    for gpus in 1..=9 {
        let there = Ask {
            labels: drained.labels.clone(),
            ..Ask::packed(gpus)
        };
        let asked = urgent(job(10 + u64::from(gpus), gpus, "day"));
        let asked = Submission {
            ask: there,
            ..asked
        };
        scheduler.submit(10, &old(asked));
    }
    scheduler.submit(10, &old(job(2, 8, "day")));
    let kept = scheduler.pass(10).reservation.unwrap();
    assert_eq!((kept.job, kept.then), (2, 5_000));
    // Once their node is open again they are looked at as all others are.
    drained.open = true;
    scheduler.change_node(20, node, drained, &[]);
    let first = started(&scheduler.pass(20));
    assert!(
        first.iter().all(|job| *job > 10) && !first.is_empty(),
        "{first:?}"
    );
}

#[test]
fn who_comes_before_the_gang_is_not_bound_by_what_is_kept_for_it() {
    let mut scheduler = story(Reserve::Top);
    scheduler.pass(10);
    let first = Submission {
        priority: 10,
        ..job(3, 8, "long")
    };
    scheduler.submit(20, &first);
    let plan = scheduler.pass(20);
    assert_eq!(started(&plan), [3]);
    assert_eq!(plan.reservation.unwrap().then, 5_020, "it is told anew");
}

#[test]
fn nobody_is_pushed_out_of_kept_nodes_for_one_who_would_stay_there_too_long() {
    for (reserve, goes) in [(Reserve::Off, 1), (Reserve::Top, 0)] {
        let mut scheduler = scheduler(reserve, 2);
        scheduler.submit(0, &job(1, 8, "day"));
        let low = Submission {
            preemptible: true,
            ..job(2, 8, "short")
        };
        scheduler.submit(0, &low);
        scheduler.pass(0);
        // It may not push anybody: its two nodes are not both to be had.
        scheduler.submit(10, &urgent(job(3, 16, "day")));
        scheduler.submit(
            10,
            &Submission {
                priority: 5,
                ..job(4, 8, "long")
            },
        );
        let plan = scheduler.pass(700);
        assert_eq!(plan.preempts.len(), goes, "{reserve:?} {plan:?}");
    }
}

#[test]
fn what_is_told_to_one_who_asks_for_less_heeds_what_is_kept() {
    let mut scheduler = story(Reserve::Top);
    scheduler.submit(10, &job(3, 16, "long"));
    scheduler.pass(10);
    assert_eq!(scheduler.would_start(3, &Ask::packed(8)), None);
    let mut free = story(Reserve::Off);
    free.submit(10, &job(3, 16, "long"));
    free.pass(10);
    assert!(free.would_start(3, &Ask::packed(8)).is_some());
}

#[test]
fn where_a_new_job_would_start_beside_what_is_kept_goes_by_when_its_limit_ends_it() {
    let mut scheduler = story(Reserve::Top);
    scheduler.submit(10, &job(3, 8, "long"));
    assert!(scheduler.pass(10).starts.is_empty());
    let starts = |ends| {
        scheduler
            .would_start_anew(3, &Ask::packed(8), ends)
            .is_some()
    };
    assert!(starts(5_000), "the gang starts at 5,000");
    assert!(!starts(5_001) && !starts(Seconds::MAX));
}

/// One job of a story: which name, how wide, how long after the one before, and whether it may be stopped.
type Told = (usize, usize, Seconds, bool);

/// Jobs that run exactly as long as the medians say.
struct World {
    scheduler: Scheduler,
    now: Seconds,
    told: u64,
    /// Ends, of those that run.
    ends: BTreeMap<u64, Seconds>,
    /// What each has to do still, and whether it has run before.
    left: BTreeMap<u64, (Seconds, bool)>,
    since: BTreeMap<u64, Seconds>,
    promised: Option<Seconds>,
    gang_started: Option<Seconds>,
}

const GANG: u64 = 1_000;

impl World {
    fn tell(&mut self, (name, wide, gap, preemptible): Told) {
        self.go_on(self.now + gap);
        self.now += gap;
        self.told += 1;
        let (name, lasts) = LAST[name];
        let asked = job(self.told, WIDTHS[wide], name);
        self.submit(
            &Submission {
                preemptible,
                ..asked
            },
            lasts,
        );
    }

    fn submit(&mut self, asked: &Submission, lasts: Seconds) {
        self.left.insert(asked.job, (lasts, false));
        self.scheduler.submit(self.now, asked);
        self.pass(self.now);
    }

    fn pass(&mut self, now: Seconds) {
        loop {
            let plan = self.scheduler.pass(now);
            let kept = plan.reservation.as_ref().filter(|kept| kept.job == GANG);
            if let Some(kept) = kept {
                let before = *self.promised.get_or_insert(kept.then);
                assert!(kept.then <= before, "{} was promised {before}", kept.then);
            }
            if plan.is_empty() {
                return;
            }
            for start in &plan.starts {
                let (left, again) = self.left[&start.job];
                self.since.insert(start.job, now);
                let cost = if again { 60 } else { 0 };
                self.ends.insert(start.job, now + cost + left);
                if start.job == GANG {
                    self.gang_started.get_or_insert(now);
                }
            }
            for gone in &plan.preempts {
                let end = self.ends.remove(&gone.job).unwrap();
                let (left, again) = self.left[&gone.job];
                let cost = if again { 60 } else { 0 };
                let ran = (now - self.since[&gone.job] - cost).max(0);
                assert!(end > now && ran < left);
                self.left.insert(gone.job, (left - ran, true));
                self.scheduler.released(now, gone.job);
            }
        }
    }

    /// All that ends until then.
    fn go_on(&mut self, then: Seconds) {
        while let Some(end) = self.ends.values().min().copied().filter(|end| *end <= then) {
            let ended: Vec<u64> = self
                .ends
                .iter()
                .filter(|(_, at)| **at == end)
                .map(|(job, _)| *job)
                .collect();
            for job in ended {
                self.ends.remove(&job);
                self.scheduler.finished(end, job);
            }
            self.pass(end);
        }
    }
}

proptest! {
    #![proptest_config(crate::cases::cases(48))]
    #[test]
    fn a_gang_starts_no_later_than_it_was_promised_if_all_run_as_the_medians_say_whoever_starts_beside_it(
        before in prop::collection::vec((0usize..3, 0usize..4, 0i64..400, any::<bool>()), 1..12),
        after in prop::collection::vec((0usize..3, 0usize..4, 0i64..400, any::<bool>()), 1..40),
        width in 2usize..5,
        each in any::<bool>(),
    ) {
        let mut world = World {
            scheduler: scheduler(Reserve::Top, 4),
            now: 0,
            told: 0,
            ends: BTreeMap::new(),
            left: BTreeMap::new(),
            since: BTreeMap::new(),
            promised: None,
            gang_started: None,
        };
        for told in before {
            world.tell(told);
        }
        let gpus = WIDTHS[width];
        let mut gang = urgent(job(GANG, gpus, "day"));
        if each {
            gang.ask.gang = Gang::Each { nodes: gpus / 8, gpus: 8 };
        }
        world.submit(&gang, 1_000);
        for told in after {
            world.tell(told);
        }
        world.go_on(Seconds::MAX / 8);
        let started = world.gang_started.unwrap();
        if let Some(promised) = world.promised {
            prop_assert!(started <= promised, "at {started}, and {promised} was promised");
        }
        prop_assert!(world.ends.is_empty());
    }
}

//! What holds whatever is submitted, ends, goes and comes back, under every policy.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Projects of which one may have eight GPUs, one two jobs at once, and one borrows whatever it has beyond four.
fn with_rules(config: Config) -> Config {
    let rules = [
        ProjectRule {
            gpus: Some(8),
            borrow: false,
            ..ProjectRule::default()
        },
        ProjectRule {
            gpus: Some(20),
            running: Some(2),
            ..ProjectRule::default()
        },
        ProjectRule {
            gpus: Some(4),
            ..ProjectRule::default()
        },
    ];
    let names = ["a", "b", "c"].map(str::to_owned);
    Config {
        projects: names.into_iter().zip(rules).collect(),
        ..config
    }
}

/// A job that holds GPUs in the property below.
#[derive(Clone, Debug)]
struct Holds {
    job: u64,
    gpus: u32,
    project: &'static str,
    end: Seconds,
}

/// What is known of a job: how long it runs, whether it may be stopped, since when it runs, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Known {
    lasts: Seconds,
    preemptible: bool,
    since: Seconds,
    project: &'static str,
}

/// What else a job wants.
#[derive(Clone, Copy, Debug)]
enum Wants {
    Nothing,
    /// Nodes of this rack.
    Rack(u32),
    /// Nodes that nobody else is on.
    Alone,
    /// As many GPUs on each of so many nodes.
    Nodes(u32),
}

impl Wants {
    fn ask(self, gpus: u32) -> Ask {
        let plain = Ask {
            cpus: 1,
            ..Ask::packed(gpus)
        };
        match self {
            Self::Nothing => plain,
            Self::Rack(rack) => Ask {
                labels: [format!("rack={rack}")].into(),
                ..plain
            },
            Self::Alone => Ask {
                exclusive: true,
                ..plain
            },
            Self::Nodes(nodes) => Ask {
                gang: Gang::Each {
                    nodes,
                    gpus: (gpus / nodes).min(8),
                },
                ..plain
            },
        }
    }
}

fn wants() -> impl Strategy<Value = Wants> {
    prop_oneof![
        3 => Just(Wants::Nothing),
        4 => (0u32..2).prop_map(Wants::Rack),
        1 => Just(Wants::Alone),
        2 => (2u32..4).prop_map(Wants::Nodes),
    ]
}

/// One job of a story: GPUs, how long after the one before, how long it runs, whether it may be stopped, its priority,
/// its project, and what else it wants.
type Told = (u32, Seconds, Seconds, bool, u32, &'static str, Wants);

fn told() -> impl Strategy<Value = Told> {
    let project = prop::sample::select(vec!["a", "b", "c", "d"]);
    let gap = prop_oneof![2 => Just(0i64), 1 => 0i64..2_000];
    (
        0u32..30,
        gap,
        1i64..5_000,
        any::<bool>(),
        0u32..3,
        project,
        wants(),
    )
}

fn rules() -> impl Strategy<Value = Rule> {
    prop_oneof![
        2 => Just(Rule::Gittins),
        1 => Just(Rule::Fifo),
        3 => Just(Rule::Easy),
        1 => Just(Rule::Throughput),
    ]
}

/// Plans are carried out at once; who is told to go takes its time.
struct World {
    scheduler: Scheduler,
    /// Nobody is told to go who has run for less.
    least: Seconds,
    ruled: bool,
    now: Seconds,
    holds: Vec<Holds>,
    known: BTreeMap<u64, Known>,
}

impl World {
    fn submit(&mut self, number: u64, told: Told) {
        let (gpus, gap, lasts, preemptible, priority, project, wants) = told;
        self.now += gap;
        let (ended, hold) = std::mem::take(&mut self.holds)
            .into_iter()
            .partition(|held: &Holds| held.end <= self.now);
        self.holds = hold;
        for held in ended {
            self.scheduler.finished(self.now, held.job);
        }
        let asked = Submission {
            ask: wants.ask(gpus),
            preemptible,
            priority,
            limit: Some(lasts),
            ..job(number, gpus)
        };
        self.scheduler.submit(self.now, &of_project(project, asked));
        let since = self.now;
        let known = Known {
            lasts,
            preemptible,
            since,
            project,
        };
        self.known.insert(number, known);
    }

    /// One pass; who is to go.
    fn pass(&mut self) -> Plan {
        let plan = self.scheduler.pass(self.now);
        assert_eq!(plan.broken, None);
        for start in &plan.starts {
            let known = self.known.get_mut(&start.job).unwrap();
            known.since = self.now;
            self.holds.push(Holds {
                job: start.job,
                gpus: start.pieces.iter().map(|piece| piece.gpus).sum(),
                project: known.project,
                end: self.now + known.lasts,
            });
        }
        self.limits_hold();
        for preempt in &plan.preempts {
            let known = self.known[&preempt.job];
            assert!(known.preemptible, "it cannot save its work");
            let ran = self.now - known.since;
            assert!(
                ran >= self.least,
                "it has run for less than its restart costs"
            );
        }
        plan
    }

    /// Projects have no more than their rules allow by those who hold something, be they told to go or not.
    fn limits_hold(&self) {
        let of = |project: &'static str| {
            let holds = self.holds.iter();
            holds.filter(move |held| held.project == project)
        };
        let gpus: u32 = of("a").map(|held| held.gpus).sum();
        let held = gpus <= 8 && of("b").count() <= 2;
        assert!(!self.ruled || held, "{:?} at {}", self.holds, self.now);
    }

    /// All that is to be done at this moment.
    fn settle(&mut self) {
        loop {
            let mut goes = gone(&self.pass());
            if goes.is_empty() {
                let again = self.pass();
                assert!(again.is_empty(), "it had this to add: {again:?}");
                return;
            }
            // The pass is asked again before they have gone.
            goes.extend(gone(&self.pass()));
            for job in goes {
                self.holds.retain(|held| held.job != job);
                self.scheduler.released(self.now, job);
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::cases::cases(96))]
    #[test]
    fn whatever_happens_gangs_are_whole_nodes_are_not_overdrawn_limits_hold_and_a_second_pass_adds_nothing(
        story in prop::collection::vec(told(), 1..60),
        ruled in any::<bool>(),
        rule in rules(),
        (restart_cost, settled) in (0i64..900, 0i64..900),
    ) {
        let config = Config { rule, restart_cost, settled, ..Config::default() };
        let least = config.left_alone();
        let config = if ruled { with_rules(config) } else { config };
        let mut world = World {
            scheduler: racks(config, &[2, 2]),
            least,
            ruled,
            now: 0,
            holds: Vec::new(),
            known: BTreeMap::new(),
        };
        for (number, told) in (1u64..).zip(story) {
            world.submit(number, told);
            world.settle();
        }
    }
}

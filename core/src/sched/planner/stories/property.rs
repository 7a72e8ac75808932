//! Whatever happens, in whatever order: nothing is given twice, advice holds, and in the end everything has run.

mod advised;

use proptest::prelude::*;

use super::*;
use crate::{
    sched::{NodeEntry, policy::Reserve},
    service::{Scope, Window},
};

/// What else a job wants.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Nothing,
    Cpus,
    /// As many GPUs on any nodes.
    Total,
    /// The nodes that are so labelled, which are two.
    Label,
    AntiLabel,
    Fabric,
    Alone,
    Memory,
    /// More of a GPU than any has, or less.
    LargeGpu,
    SmallGpu,
    Model,
    Limit,
}

impl Wish {
    fn put(self, queued: &mut QueuedJob) {
        let placement = &mut queued.placement;
        match self {
            Self::Nothing => {}
            Self::Cpus => queued.request.cpus = 5,
            Self::Total => {
                placement.gpus_total = Some(queued.nodes * (queued.request.gpus + 1));
                (queued.nodes, queued.request.gpus) = (1, 0);
            }
            Self::Label => placement.labels = zone(),
            Self::AntiLabel => {
                placement.anti_labels = zone();
                queued.nodes = 1;
            }
            Self::Fabric => placement.fabric = Some("zone".into()),
            Self::Alone => placement.exclusive = true,
            Self::Memory => queued.request.memory_bytes = 40 << 30,
            Self::LargeGpu => queued.request.gpu_memory_bytes = 80 << 30,
            Self::SmallGpu => queued.request.gpu_memory_max_bytes = 8 << 30,
            Self::Model => queued.request.gpu_model = "H100".into(),
            Self::Limit => queued.limit = Some(Duration::from_secs(3_600)),
        }
    }
}

fn zone() -> BTreeSet<String> {
    one_zone(true)
}

fn one_zone(first: bool) -> BTreeSet<String> {
    let zone = if first { "zone=a" } else { "zone=b" };
    [zone.to_owned()].into()
}

/// Three nodes, two of which are in one zone.
fn zones(planner: &mut Planner, now: Timestamp) {
    for node in 0..2 {
        planner.set_labels(now, &name(node), zone());
    }
    planner.set_labels(now, &name(2), one_zone(false));
}

/// What can happen.
#[derive(Clone, Debug)]
enum Happens {
    Submit(u32, u32, bool, i32, Wish),
    Ends(usize),
    /// One that was told to go has gone.
    Leaves(usize),
    /// One that runs has failed, and is tried again elsewhere.
    Fails(usize),
    Node(u32, u32, bool),
    Blocks(u32, bool),
    Waits(i64),
    /// A node is of the first zone from now on, or of the other.
    Labels(u32, bool),
    /// Others reach a node from now on, or do not.
    Reaches(u32, bool),
    /// A node is to be closed for an hour, in so many seconds.
    Window(u32, i64),
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    let wish = prop_oneof![
        3 => Just(Wish::Nothing),
        1 => Just(Wish::Cpus),
        1 => Just(Wish::Total),
        1 => Just(Wish::Label),
        1 => Just(Wish::AntiLabel),
        1 => Just(Wish::Fabric),
        1 => Just(Wish::Alone),
        2 => Just(Wish::Memory),
        1 => Just(Wish::LargeGpu),
        1 => Just(Wish::SmallGpu),
        1 => Just(Wish::Model),
        2 => Just(Wish::Limit),
    ];
    prop_oneof![
        (1u32..3, 0u32..5, any::<bool>(), 0i32..3, wish).prop_map(
            |(nodes, gpus, may, priority, wish)| Happens::Submit(nodes, gpus, may, priority, wish)
        ),
        any::<usize>().prop_map(Happens::Ends),
        any::<usize>().prop_map(Happens::Leaves),
        any::<usize>().prop_map(Happens::Fails),
        (0u32..3, 1u32..5, any::<bool>())
            .prop_map(|(node, gpus, open)| Happens::Node(node, gpus, open)),
        (0u32..3, any::<bool>()).prop_map(|(node, on)| Happens::Blocks(node, on)),
        (-400i64..2_000).prop_map(Happens::Waits),
        (0u32..3, any::<bool>()).prop_map(|(node, first)| Happens::Labels(node, first)),
        (0u32..3, any::<bool>()).prop_map(|(node, on)| Happens::Reaches(node, on)),
        (0u32..3, 0i64..4_000).prop_map(|(node, ahead)| Happens::Window(node, ahead)),
        Just(Happens::Restart),
    ]
}

/// One project has five GPUs and may not borrow, another runs two jobs at once, if there are rules.
fn config((rule, reserve): (Rule, Reserve), ruled: bool) -> Config {
    let mut config = Config {
        rule,
        reserve,
        ..Config::default()
    };
    if ruled {
        let own = policy::ProjectRule {
            gpus: Some(5),
            borrow: false,
            ..policy::ProjectRule::default()
        };
        let two = policy::ProjectRule {
            running: Some(2),
            ..policy::ProjectRule::default()
        };
        config
            .projects
            .extend([("1".to_owned(), own), ("2".to_owned(), two)]);
    }
    config
}

/// A cluster, and jobs as their store knows them.
struct World {
    windows: Vec<Window>,
    planner: Planner,
    config: Config,
    now: i64,
    next: u64,
    waiting: BTreeMap<u64, QueuedJob>,
    running: BTreeMap<u64, Held>,
}

impl World {
    fn happens(&mut self, what: &Happens) {
        let now = at(self.now);
        match what {
            Happens::Submit(nodes, gpus, may, priority, wish) => {
                let mut queued = QueuedJob {
                    preemptible: *may,
                    priority: *priority,
                    queued_at: now,
                    age: now,
                    project: [None, Some(1), Some(2)][usize::try_from(self.next % 3).unwrap()],
                    ..job(self.next, *nodes, *gpus)
                };
                wish.put(&mut queued);
                self.waiting.insert(self.next, queued.clone());
                self.next += 1;
                self.planner.queued(now, queued);
            }
            Happens::Ends(which) => {
                let running = self.running.keys().copied();
                let waiting = self.waiting.keys().copied();
                let jobs: Vec<u64> = running.chain(waiting).collect();
                if let Some(job) = jobs.get(which % jobs.len().max(1)) {
                    self.running.remove(job);
                    self.waiting.remove(job);
                    self.planner
                        .gone(now, JobId(*job), Some(Duration::from_secs(60)));
                }
            }
            Happens::Leaves(which) => {
                let going = self
                    .running
                    .iter()
                    .filter(|(_, held)| held.leaves_for.is_some());
                let going: Vec<u64> = going.map(|(job, _)| *job).collect();
                if let Some(job) = going.get(which % going.len().max(1)) {
                    let mut queued = self.running.remove(job).unwrap().asked;
                    queued.queued_at = now;
                    self.waiting.insert(*job, queued.clone());
                    self.planner.queued(now, queued);
                }
            }
            Happens::Fails(which) => self.fails(*which),
            Happens::Node(node, gpus, open) => {
                set(&mut self.planner, self.now, *node, *gpus, *open)
            }
            Happens::Blocks(node, on) => {
                let one = on.then(|| format!("{node}-0"));
                self.planner
                    .block(now, &name(*node), one.into_iter().collect());
            }
            Happens::Labels(node, first) => {
                self.planner.set_labels(now, &name(*node), one_zone(*first));
            }
            Happens::Reaches(node, on) => {
                let address = if *on { "10.0.0.9" } else { "" };
                self.planner.set_address(now, &name(*node), address.into());
            }
            Happens::Waits(span) => self.now += span,
            Happens::Window(node, ahead) => self.plan(*node, self.now + ahead),
            Happens::Restart => self.restart(),
        }
    }

    /// One of those who run and were not told to go waits again, and shuns the nodes that it had.
    fn fails(&mut self, which: usize) {
        let running = self.running.iter();
        let stay = running.filter(|(_, held)| held.leaves_for.is_none());
        let stay: Vec<u64> = stay.map(|(job, _)| *job).collect();
        if let Some(job) = stay.get(which % stay.len().max(1)) {
            let held = self.running.remove(job).unwrap();
            let mut queued = held.asked;
            queued.queued_at = at(self.now);
            let nodes = held.allocations.into_iter().map(|held| held.node);
            queued.avoid.extend(nodes);
            self.waiting.insert(*job, queued.clone());
            self.planner.queued(at(self.now), queued);
        }
    }

    /// A window of an hour on a node.
    fn plan(&mut self, node: u32, from: i64) {
        let now = at(self.now);
        self.windows.push(Window {
            id: self.next,
            scope: Scope::Nodes([name(node)].into()),
            from: at(from),
            until: at(from + 3_600),
            why: "new fans".into(),
            made_by: "ops@example.com".into(),
            made_at: now,
        });
        self.planner.set_windows(now, self.windows.clone());
    }

    fn restart(&mut self) {
        let now = at(self.now);
        let nodes: Vec<(NodeName, NodeEntry)> = self
            .planner
            .ledger()
            .nodes()
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        self.planner = Planner::new(self.config.clone());
        self.planner.set_windows(now, self.windows.clone());
        for queued in self.waiting.values() {
            self.planner.queued(now, queued.clone());
        }
        for held in self.running.values() {
            self.planner.holds(now, held.clone());
        }
        for (name, entry) in nodes {
            let address = entry.address().to_owned();
            self.planner
                .set_node(now, &name, entry.capacity.clone(), entry.open);
            self.planner.set_address(now, &name, address);
            self.planner.set_labels(now, &name, entry.labels().clone());
        }
    }

    fn solve(&mut self) {
        let now = at(self.now);
        let decisions = self.planner.solve(now);
        assert_eq!(decisions.broken, None);
        for placement in decisions.placements {
            let asked = self.waiting.remove(&placement.job.0).expect("it waited");
            assert_eq!(placement.queued_at, asked.queued_at);
            for held in &placement.allocations {
                let entry = self.planner.ledger().node(&held.node).unwrap();
                assert!(entry.open, "{held:?} of a node that is closed");
            }
            is_as_asked(&asked, &placement.allocations);
            are_labelled_as_asked(self.planner.ledger(), &asked, &placement.allocations);
            let held = Held {
                asked,
                allocations: placement.allocations,
                since: now,
                runs_since: Some(now),
                saved: true,
                leaves_for: None,
                leaves_since: None,
                grace: Duration::from_secs(10),
            };
            self.running.insert(placement.job.0, held);
        }
        for leaving in decisions.leaving {
            let held = self.running.get_mut(&leaving.job.0).expect("it ran");
            assert!(held.asked.preemptible, "{leaving:?}");
            held.leaves_for = Some(leaving.for_job);
        }
        for held in self.running.values() {
            self.planner.holds(now, held.clone());
        }
        assert_eq!(self.planner.ledger().violated(), None);
        self.limits_hold();
        let again = self.planner.solve(now);
        assert_eq!(again, Decisions::default(), "it had something to add");
        self.advice_holds(now);
    }

    /// Projects have no more than their rules allow by those who run, be they told to go or not.
    fn limits_hold(&self) {
        let of = |project| {
            let held = self.running.values();
            held.filter(move |held| held.asked.project == Some(project))
        };
        let allocations = of(1).flat_map(|held| &held.allocations);
        let gpus: usize = allocations.map(|held| held.gpus.len()).sum();
        let running = of(2).count();
        if !self.config.projects.is_empty() {
            assert!(gpus <= 5 && running <= 2, "{:?}", self.running);
        }
    }
}

/// As many nodes, GPUs and CPUs as were asked for; all of its nodes for one who wants them alone.
fn is_as_asked(asked: &QueuedJob, given: &[Allocation]) {
    let gpus = given.iter().map(|held| held.gpus.len());
    if let Some(total) = asked.placement.gpus_total {
        assert_eq!(gpus.sum::<usize>(), usize::try_from(total).unwrap());
        return;
    }
    assert_eq!(given.len(), usize::try_from(asked.nodes).unwrap());
    let each = usize::try_from(asked.request.gpus).unwrap();
    for held in given.iter().filter(|_| !asked.placement.exclusive) {
        assert_eq!((held.gpus.len(), held.cpus), (each, asked.request.cpus));
    }
}

/// Every node has the labels that were asked for, and none that was not wanted; several reach each other, and are of one
/// zone if they have to be.
fn are_labelled_as_asked(ledger: &Ledger, asked: &QueuedJob, given: &[Allocation]) {
    let nodes: BTreeSet<&NodeName> = given.iter().map(|held| &held.node).collect();
    let entries: Vec<&NodeEntry> = nodes
        .iter()
        .map(|name| ledger.node(name).unwrap())
        .collect();
    let mut zones = BTreeSet::new();
    for entry in &entries {
        let labels = entry.labels();
        assert!(asked.placement.labels.is_subset(labels), "{asked:?}");
        assert!(asked.placement.anti_labels.is_disjoint(labels), "{asked:?}");
        assert!(
            entries.len() < 2 || !entry.address().is_empty(),
            "{asked:?}"
        );
        zones.insert(labels.clone());
    }
    let one = asked.placement.fabric.is_none() || zones.len() == 1;
    assert!(one, "{asked:?} over {zones:?}");
}

fn orders() -> impl Strategy<Value = (Rule, Reserve)> {
    prop_oneof![
        2 => Just((Rule::Gittins, Reserve::Off)),
        1 => Just((Rule::Gittins, Reserve::Guard)),
        1 => Just((Rule::Gittins, Reserve::Top)),
        1 => Just((Rule::Fifo, Reserve::Off)),
        3 => Just((Rule::Easy, Reserve::Off)),
        1 => Just((Rule::Throughput, Reserve::Off)),
    ]
}

proptest! {
    #![proptest_config(crate::cases::cases(160))]
    #[test]
    fn whatever_happens_nothing_is_given_twice_and_in_the_end_everything_has_run(
        order in orders(),
        story in prop::collection::vec(happens(), 1..60),
        ruled in any::<bool>(),
    ) {
        let config = config(order, ruled);
        let mut world = World {
            planner: Planner::new(config.clone()),
            config,
            windows: Vec::new(),
            now: 0,
            next: 1,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        for node in 0..3 {
            set(&mut world.planner, 0, node, 4, true);
        }
        zones(&mut world.planner, at(0));
        for what in &story {
            world.happens(what);
            world.solve();
        }
        for node in 0..3 {
            set(&mut world.planner, world.now, node, 4, true);
            world.planner.block(at(world.now), &name(node), BTreeSet::new());
        }
        zones(&mut world.planner, at(world.now));
        world.windows.clear();
        world.planner.set_windows(at(world.now), Vec::new());
        for _ in 0..200 {
            world.solve();
            world.happens(&Happens::Leaves(0));
            world.happens(&Happens::Ends(0));
            world.now += 61;
        }
        prop_assert!(world.waiting.is_empty() && world.running.is_empty());
    }
}

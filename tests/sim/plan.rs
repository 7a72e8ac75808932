//! What happens in a run: cluster, wishes and faults, all drawn from the seed beforehand.
//!
//! Pure. Called by the world.

use std::time::Duration;

use rand::{Rng, SeedableRng as _, rngs::StdRng};

use crate::yard::Script;

/// All faults are over by then.
pub(crate) const CALM: Duration = Duration::from_secs(240);

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// CPUs and GPUs of each node.
    pub(crate) nodes: Vec<(u32, u32)>,
    pub(crate) suspect_after: u32,
    pub(crate) lost_after: u32,
    /// The longest way of a message.
    pub(crate) latency: Duration,
}

/// A job that the user wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) at: Duration,
    pub(crate) script: Script,
    pub(crate) cpus: u32,
    pub(crate) gpus: u32,
    pub(crate) cancel_after: Option<Duration>,
}

/// Something bad, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Neither hears the other.
    Cut(usize),
    /// The node does not hear the coordinator.
    Deaf(usize),
    /// The coordinator does not hear the node.
    Mute(usize),
    /// The network between them is as it should be.
    Mend(usize),
    /// What they say arrives later, all at once.
    Hold(usize),
    /// It arrives now.
    Release(usize),
    /// The agent is killed; its trainers go on.
    KillAgent(usize),
    /// It is started.
    StartAgent(usize),
    /// The machine loses power.
    KillNode(usize),
    /// It comes back with so many GPUs.
    StartNode(usize, u32),
    /// One of the living trainers is killed, with its shim or without.
    KillTrainer(usize, usize, bool),
    /// The coordinator's machine loses power.
    KillCoordinator,
    /// It loses power in the middle of a sync, after so many.
    FailDisk(u32),
    /// Its disk is full.
    FillDisk,
    /// It is started.
    StartCoordinator,
    /// Clocks are set by so many seconds.
    Jump(i64),
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cluster: Cluster,
    pub(crate) wishes: Vec<Wish>,
    /// By time.
    pub(crate) faults: Vec<(Duration, Fault)>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..rng.random_range(1..=3)).map(|_| {
            let gpus = rng.random_range(0..=4);
            (rng.random_range(2..=6), gpus)
        });
        let cluster = Cluster {
            nodes: nodes.collect(),
            suspect_after: 10,
            lost_after: rng.random_range(20..=60),
            latency: Duration::from_millis(rng.random_range(2..=200)),
        };
        let wishes = (0..rng.random_range(2..=10)).map(|_| wish(&mut rng, &cluster));
        let wishes = wishes.collect();
        let mut faults = Vec::new();
        // Some runs are calm: what fails in them is no fault's doing.
        if rng.random_bool(0.9) {
            for _ in 0..rng.random_range(1..=12) {
                fault(&mut rng, &cluster, &mut faults);
            }
        }
        // Nodes that came back with less are repaired, or what was asked of them would wait for ever.
        for (number, node) in cluster.nodes.iter().enumerate() {
            let whole = Fault::StartNode(number, node.1);
            let shrunk = |(_, fault): &(Duration, Fault)| {
                matches!(fault, Fault::StartNode(of, _) if *of == number) && *fault != whole
            };
            if faults.iter().any(shrunk) {
                faults.push((CALM, Fault::KillNode(number)));
                faults.push((CALM, whole));
            }
        }
        // The order of those at one time is theirs of being drawn.
        faults.sort_by_key(|(at, _)| *at);
        Self {
            cluster,
            wishes,
            faults,
        }
    }
}

impl Plan {
    /// Whether clocks are set: then times on them say little.
    pub(crate) fn has_jumps(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|(_, fault)| matches!(fault, Fault::Jump(_)))
    }
}

fn wish(rng: &mut StdRng, cluster: &Cluster) -> Wish {
    // One that some node can hold.
    let node = rng.random_range(0..cluster.nodes.len());
    let (most_cpus, most_gpus) = cluster.nodes.get(node).copied().unwrap_or((1, 0));
    let script = Script {
        epochs: rng.random_range(1..=8),
        millis: rng.random_range(100..=12_000),
        code: if rng.random_bool(0.15) { 3 } else { 0 },
        stubborn: rng.random_bool(0.3),
    };
    let cancel_after = rng.random_bool(0.2);
    Wish {
        at: Duration::from_millis(rng.random_range(500..=120_000)),
        script,
        cpus: rng.random_range(1..=most_cpus.min(3)),
        gpus: rng.random_range(0..=most_gpus.min(2)),
        cancel_after: cancel_after.then(|| Duration::from_millis(rng.random_range(0..=40_000))),
    }
}

/// A fault and its end.
fn fault(rng: &mut StdRng, cluster: &Cluster, faults: &mut Vec<(Duration, Fault)>) {
    let node = rng.random_range(0..cluster.nodes.len());
    let begins = rng.random_range(1_000..=180_000);
    let short = rng.random_bool(0.5);
    let lasts = rng.random_range(100..=if short { 8_000 } else { 100_000 });
    let begin = Duration::from_millis(begins);
    let end = Duration::from_millis(begins + lasts).min(CALM);
    let gpus = cluster.nodes.get(node).map_or(0, |node| node.1);
    let (bad, good) = match rng.random_range(0..11) {
        0 => (Fault::Cut(node), Some(Fault::Mend(node))),
        1 => (Fault::Deaf(node), Some(Fault::Mend(node))),
        2 => (Fault::Mute(node), Some(Fault::Mend(node))),
        3 => (Fault::Hold(node), Some(Fault::Release(node))),
        4 | 5 => (Fault::KillAgent(node), Some(Fault::StartAgent(node))),
        6 => {
            let fewer = rng.random_bool(0.3) && gpus > 0;
            let gpus = if fewer { gpus - 1 } else { gpus };
            (Fault::KillNode(node), Some(Fault::StartNode(node, gpus)))
        }
        7 => {
            let trainer = Fault::KillTrainer(node, rng.random_range(0..3), rng.random_bool(0.5));
            (trainer, None)
        }
        8 => (Fault::KillCoordinator, Some(Fault::StartCoordinator)),
        9 => {
            let syncs = rng.random_range(0..20);
            (Fault::FailDisk(syncs), Some(Fault::StartCoordinator))
        }
        _ if rng.random_bool(0.5) => (Fault::FillDisk, Some(Fault::StartCoordinator)),
        _ => {
            let spans = [-400, -30, 30, 120, 7_200];
            let seconds = spans.get(rng.random_range(0..5)).copied().unwrap_or(30);
            (Fault::Jump(seconds), None)
        }
    };
    faults.push((begin, bad));
    faults.extend(good.map(|good| (end, good)));
}

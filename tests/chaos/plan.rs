//! What happens in a run: the wishes and the faults, all drawn from the seed beforehand.
//!
//! Pure. Called by the world.

use std::time::Duration;

use rand::{Rng, SeedableRng as _, rngs::StdRng};

use crate::network::Way;

/// A node is believed for so long, in seconds: suspect, then lost.
pub(crate) const LEASE: (u32, u32) = (1, 4);

/// Slots of each agent.
pub(crate) const SLOTS: u32 = 4;

/// How a trainer ends when nobody disturbs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completes,
    Exits(i32),
    /// By this signal.
    Dies(i32),
    /// Only by a cancel.
    Never,
}

/// What else a trainer starts and leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Children {
    None,
    Child,
    /// In a session of its own.
    Session,
    /// Forked twice, in a session of its own, deaf to SIGTERM.
    Daemon,
}

impl Children {
    /// As the trainer is told.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Child => "child",
            Self::Session => "session",
            Self::Daemon => "daemon",
        }
    }
}

/// A job that the user wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) at: Duration,
    pub(crate) end: End,
    pub(crate) children: Children,
    pub(crate) epochs: u32,
    pub(crate) pace: Duration,
    /// It writes checkpoints, and goes on from them.
    pub(crate) resumes: bool,
    /// For its node, however long it is away.
    pub(crate) waits: bool,
    pub(crate) gpus: u32,
    /// Two is a gang.
    pub(crate) nodes: u32,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) order: Order,
}

/// What else a user says of a job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub(crate) cpus: u32,
    pub(crate) priority: i32,
    /// It goes when it is told to, and goes on from its last checkpoint.
    pub(crate) preemptible: bool,
    /// It is an array of so many jobs, of which so many may run at once; 0 is none.
    pub(crate) array: (u32, u32),
    /// It waits for the job of that wish, which is before it: for its success, or for any end of it.
    pub(crate) after: Option<(usize, Until)>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Succeeds,
    Ends,
}

impl Order {
    /// How many jobs it makes.
    pub(crate) fn jobs(&self) -> u64 {
        self.array.0.max(1).into()
    }
}

/// Something bad, or its end. Hosts are numbered: 0 is the coordinator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`.
    Kill(usize),
    Start(usize),
    /// SIGSTOP.
    Freeze(usize),
    Thaw(usize),
    Cut(usize, Way),
    Mend(usize),
    /// Its disk is full.
    Fill(usize),
    Free(usize),
    /// One of the living trainers: which one says the number.
    KillTrainer(usize),
    KillShim(usize),
    FreezeTrainer(usize),
    ThawTrainers,
    /// A user cancels one of the jobs.
    Cancel(usize),
    /// A user submits one of the jobs once more, with its key.
    Submit(usize),
}

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) jobs: usize,
    pub(crate) faults: usize,
    pub(crate) agents: usize,
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) wishes: Vec<Wish>,
    /// By time.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// GPUs of each agent.
    pub(crate) gpus: Vec<u32>,
}

impl Plan {
    pub(crate) fn of(seed: u64, size: Size) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let span = Duration::from_secs(1) * u32::try_from(size.faults).unwrap_or(u32::MAX);
        let gpus: Vec<u32> = (0..size.agents).map(|_| rng.random_range(1..=3)).collect();
        let most = gpus.iter().copied().max().unwrap_or(1);
        let wishes = (0..size.jobs).map(|_| wish(&mut rng, span, most));
        let mut wishes: Vec<Wish> = wishes.collect();
        // Of their own numbers, so that a seed of before is what it was otherwise.
        let mut of_gangs = StdRng::seed_from_u64(seed ^ 0x6A46);
        let least = gpus.iter().copied().min().unwrap_or(0);
        for wish in &mut wishes {
            if size.agents > 1 && of_gangs.random_bool(0.15) {
                (wish.nodes, wish.gpus) = (2, wish.gpus.min(least));
            }
        }
        // The same.
        let mut of_orders = StdRng::seed_from_u64(seed ^ 0x0DE5);
        for (number, wish) in wishes.iter_mut().enumerate() {
            order(&mut of_orders, number, wish);
        }
        for part in [2, 3, 4] {
            let number = of_orders.random_range(0..wishes.len().max(1));
            if let Some(wish) = wishes.get_mut(number) {
                *wish = urgent(span * part / 6);
            }
        }
        let mut faults = Vec::new();
        for _ in 0..size.faults {
            fault(&mut rng, size.agents, span, &mut faults);
        }
        faults.sort_by_key(|(at, _)| *at);
        Self {
            wishes,
            faults,
            gpus,
        }
    }

    /// Two jobs that only a cancel ends, each with a node to itself. Both nodes are cut off, and both jobs are cancelled
    /// meanwhile: one node is heard again within its lease, the other is lost.
    pub(crate) fn of_cancels_behind_a_cut() -> Self {
        let second = Duration::from_secs(1);
        let wish = Wish {
            end: End::Never,
            cancel_after: Some(4 * second),
            ..urgent(Duration::ZERO)
        };
        Self {
            wishes: vec![wish.clone(), wish],
            faults: vec![
                (3 * second, Fault::Cut(1, Way::Both)),
                (3 * second, Fault::Cut(2, Way::Both)),
                (5 * second, Fault::Mend(1)),
                (10 * second, Fault::Mend(2)),
            ],
            gpus: vec![1, 1],
        }
    }
}

fn wish(rng: &mut StdRng, span: Duration, most_gpus: u32) -> Wish {
    let end = match rng.random_range(0..10) {
        0 => End::Exits(3),
        1 => End::Dies(11),
        2 => End::Never,
        _ => End::Completes,
    };
    let children = match rng.random_range(0..6) {
        0 => Children::Child,
        1 => Children::Session,
        2 => Children::Daemon,
        _ => Children::None,
    };
    let longest = (span / 6).clamp(Duration::from_secs(4), Duration::from_secs(30));
    let lasts = Duration::from_millis(rng.random_range(1_000..=millis(longest)));
    let epochs = rng.random_range(3..=25);
    let cancelled = end == End::Never || rng.random_bool(0.1);
    let cancel_after = Duration::from_millis(rng.random_range(0..=millis(longest)));
    Wish {
        at: Duration::from_millis(rng.random_range(0..=millis(span) * 4 / 5)),
        end,
        children,
        epochs,
        pace: lasts / epochs,
        resumes: rng.random_bool(0.4),
        waits: rng.random_bool(0.2),
        gpus: rng.random_range(0..=most_gpus.min(2)),
        nodes: 1,
        cancel_after: cancelled.then_some(cancel_after),
        order: Order::default(),
    }
}

fn order(rng: &mut StdRng, number: usize, wish: &mut Wish) {
    wish.order.cpus = 1;
    if rng.random_bool(0.4) {
        wish.order.preemptible = true;
        wish.resumes = true;
    }
    // Those that never end are cancelled, which one of an array would be.
    if wish.end != End::Never && rng.random_bool(0.12) {
        wish.order.array = (rng.random_range(2..=4), rng.random_range(1..=2));
        wish.pace /= 4;
    } else if number > 0 && rng.random_bool(0.2) {
        let until = match rng.random_bool(0.6) {
            true => Until::Succeeds,
            false => Until::Ends,
        };
        wish.order.after = Some((rng.random_range(0..number), until));
    }
}

/// It wants all slots of a node, at once.
fn urgent(at: Duration) -> Wish {
    Wish {
        at,
        end: End::Completes,
        children: Children::None,
        epochs: 3,
        pace: Duration::from_millis(300),
        resumes: false,
        waits: false,
        gpus: 0,
        nodes: 1,
        cancel_after: None,
        order: Order {
            cpus: SLOTS,
            priority: 100,
            ..Order::default()
        },
    }
}

/// A fault and its end.
fn fault(rng: &mut StdRng, agents: usize, span: Duration, all: &mut Vec<(Duration, Fault)>) {
    let agent = rng.random_range(1..=agents);
    let pick = rng.random_range(0..1_000);
    let short = rng.random_bool(0.6);
    // Well below the lease, or well beyond.
    let lasts = rng.random_range(if short { 100..=2_000 } else { 5_500..=8_000 });
    let begin = Duration::from_millis(rng.random_range(500..=millis(span)));
    let end = begin + Duration::from_millis(lasts);
    let soon = begin + Duration::from_millis(rng.random_range(100..=2_500));
    let way = [Way::Both, Way::Out, Way::In];
    let way = way.get(pick % 3).copied().unwrap_or(Way::Both);
    let pairs: &[(Duration, Fault)] = match rng.random_range(0..22) {
        0..=2 => &[(begin, Fault::Kill(agent)), (end, Fault::Start(agent))],
        3 | 4 => &[(begin, Fault::Kill(0)), (soon, Fault::Start(0))],
        5 => &[
            (begin, Fault::Kill(0)),
            (begin, Fault::Kill(agent)),
            (soon, Fault::Start(0)),
            (end, Fault::Start(agent)),
        ],
        6 | 7 => &[(begin, Fault::Freeze(agent)), (end, Fault::Thaw(agent))],
        8 => &[(begin, Fault::Freeze(0)), (soon, Fault::Thaw(0))],
        9 => &[
            (begin, Fault::FreezeTrainer(pick)),
            (end, Fault::ThawTrainers),
        ],
        10 | 11 => &[(begin, Fault::KillShim(pick))],
        12 => &[(begin, Fault::KillTrainer(pick))],
        13..=15 => &[(begin, Fault::Cut(agent, way)), (end, Fault::Mend(agent))],
        16 => &[(begin, Fault::Fill(agent)), (soon, Fault::Free(agent))],
        17 => &[(begin, Fault::Fill(0)), (soon, Fault::Free(0))],
        18 => &[(begin, Fault::Cancel(pick))],
        // Out of room, and of its memory too.
        19 => &[
            (begin, Fault::Fill(agent)),
            (begin, Fault::Kill(agent)),
            (soon, Fault::Start(agent)),
            (end, Fault::Free(agent)),
        ],
        20 => &[(begin, Fault::Kill(0)), (end, Fault::Start(0))],
        _ => &[(begin, Fault::Submit(pick))],
    };
    all.extend_from_slice(pairs);
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

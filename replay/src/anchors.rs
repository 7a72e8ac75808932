//! Simple policies to compare with, some of which know what no policy can: how long each job will run.
//!
//! Written apart from the policy, so that each checks the other; only the finding of nodes is shared, and what the history
//! of a kind says of a rank.

mod easy;
mod past;
mod queue;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};

use trainyard_core::sched::policy::{
    ask::{Ask, Gang},
    cluster::{Cluster, JobIx, Piece},
    dense::Bits,
    place::Shape,
};

use self::{
    queue::{By, InOrder},
    rounds::{Order, Rounds},
};
use crate::{engine::Player, trace::TraceJob};

/// Which anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// In order of submission; the first that does not fit holds up all.
    FifoStrict,
    /// In order of submission; what does not fit is passed over.
    FifoSkip,
    /// Backfill beside a reservation for the first, by the users' limits.
    EasyLimits,
    /// The same, knowing durations.
    EasyOracle,
    /// The shortest first; one that does not fit holds up all.
    SjfStrict,
    /// The shortest first; what does not fit is passed over.
    SjfSkip,
    /// The least service first, as the mean of jobs that have ended says; what does not fit is passed over.
    SsfPredicted,
    /// Least attained service in two queues with the border at 18,000 GPU-seconds.
    Tiresias,
    /// Least attained service in four queues.
    Las,
    /// The same; who has waited for 48 h goes first.
    LasStarve,
    /// The least Gittins index of GPU-seconds, learnt from jobs as they end.
    Gittins,
    /// The same; who has waited for 48 h goes first.
    GittinsStarve,
    /// Shortest remaining time first.
    Srtf,
    /// Shortest remaining service first.
    Srsf,
}

impl Anchor {
    /// All of them, with the names of the traces' README.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::FifoStrict, "FIFO strict"),
        (Self::FifoSkip, "FIFO skip (no reservation)"),
        (Self::EasyLimits, "EASY backfill, walltime est"),
        (Self::EasyOracle, "EASY backfill, oracle"),
        (Self::SjfStrict, "SJF strict oracle"),
        (Self::SjfSkip, "SJF skip oracle"),
        (Self::SsfPredicted, "SSF predicted (history mean), skip"),
        (Self::Tiresias, "Tiresias 2-queue LAS 18000"),
        (Self::Las, "LAS 4-queue"),
        (Self::LasStarve, "LAS 4-queue + starve 48h"),
        (Self::Gittins, "Gittins (online history)"),
        (Self::GittinsStarve, "Gittins + starve 48h"),
        (Self::Srtf, "SRTF oracle"),
        (Self::Srsf, "SRSF oracle"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::ALL.into_iter().find(|(anchor, _)| *anchor == self);
        named.map_or("", |(_, name)| name)
    }

    /// Plays it on an empty cluster. Those who learn from jobs that have ended know of `history` at the start.
    #[must_use]
    pub fn player<'a>(
        self,
        jobs: &'a [TraceJob],
        history: &[TraceJob],
        cluster: Cluster,
        restart_cost: i64,
    ) -> Box<dyn Player + 'a> {
        let floor = Floor::new(jobs, cluster);
        match self {
            Self::FifoStrict => queue(floor, By::Submission, true),
            Self::FifoSkip => queue(floor, By::Submission, false),
            Self::SjfStrict => queue(floor, By::Duration, true),
            Self::SjfSkip => queue(floor, By::Duration, false),
            Self::SsfPredicted => {
                let means = past::Means::of(history);
                queue(floor, By::Predicted(means), false)
            }
            Self::EasyLimits => Box::new(easy::Easy::new(floor, false)),
            Self::EasyOracle => Box::new(easy::Easy::new(floor, true)),
            Self::Tiresias => rounds(floor, Order::Tiresias, restart_cost),
            Self::Las => rounds(floor, Order::Las, restart_cost),
            Self::LasStarve => Box::new(Rounds::new(floor, Order::Las, restart_cost).starving()),
            Self::Gittins => {
                let kinds = past::Kinds::of(history, jobs);
                rounds(floor, Order::Gittins(kinds), restart_cost)
            }
            Self::GittinsStarve => {
                let order = Order::Gittins(past::Kinds::of(history, jobs));
                Box::new(Rounds::new(floor, order, restart_cost).starving())
            }
            Self::Srtf => rounds(floor, Order::TimeLeft, restart_cost),
            Self::Srsf => rounds(floor, Order::ServiceLeft, restart_cost),
        }
    }
}

fn queue<'a>(floor: Floor<'a>, by: By, strict: bool) -> Box<dyn Player + 'a> {
    Box::new(InOrder::new(floor, by, strict))
}

fn rounds<'a>(floor: Floor<'a>, order: Order, restart_cost: i64) -> Box<dyn Player + 'a> {
    Box::new(Rounds::new(floor, order, restart_cost))
}

/// Nodes and who runs where.
#[derive(Clone)]
struct Floor<'a> {
    jobs: &'a [TraceJob],
    cluster: Cluster,
    shapes: BTreeMap<Gang, Shape>,
    held: BTreeMap<usize, Vec<Piece>>,
}

impl<'a> Floor<'a> {
    fn new(jobs: &'a [TraceJob], cluster: Cluster) -> Self {
        let gangs: BTreeSet<Gang> = jobs.iter().map(TraceJob::gang).collect();
        let shapes = gangs.into_iter().map(|gang| {
            let packed = Ask::packed(gang.gpus());
            (gang, Shape::new(&cluster, Ask { gang, ..packed }))
        });
        Self {
            jobs,
            shapes: shapes.collect(),
            cluster,
            held: BTreeMap::new(),
        }
    }

    fn job(&self, job: usize) -> &'a TraceJob {
        self.jobs.get(job).expect("a job of the trace")
    }

    /// Starts a job if nodes are there.
    fn start(&mut self, job: usize) -> bool {
        self.start_within(job, None)
    }

    /// Starts a job if nodes of `within` are there.
    fn start_within(&mut self, job: usize, within: Option<&Bits>) -> bool {
        let shape = self.shapes.get(&self.job(job).gang());
        let found = shape.and_then(|shape| shape.find_but(&self.cluster, within));
        let Some(pieces) = found else {
            return false;
        };
        self.cluster.take(number(job), &pieces);
        self.held.insert(job, pieces);
        true
    }

    fn stop(&mut self, job: usize) {
        if let Some(pieces) = self.held.remove(&job) {
            self.cluster.give(number(job), &pieces);
        }
    }
}

fn number(job: usize) -> JobIx {
    JobIx(u32::try_from(job).unwrap_or(u32::MAX))
}

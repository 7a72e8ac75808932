//! The policy itself, as the engine plays it: what it decides is carried out at once.

use std::collections::BTreeMap;

use trainyard_core::sched::policy::{Config, Scheduler, Submission, ask::Ask, cluster::NodeOffer};

use crate::{
    engine::{Action, Player},
    metrics::Predicted,
    trace::TraceJob,
};

/// The policy and the trace that it is told of.
#[derive(Debug)]
pub struct Real<'a> {
    jobs: &'a [TraceJob],
    scheduler: Scheduler,
    /// From 1 on: jobs that may not be preempted, in thousandths.
    pinned: u64,
    places: BTreeMap<u64, usize>,
}

impl<'a> Real<'a> {
    /// On an empty cluster of nodes with so many GPUs each. Of `jobs`, a share of `preemptible` may be preempted.
    #[must_use]
    pub fn new(
        jobs: &'a [TraceJob],
        history: &[TraceJob],
        nodes: &[u32],
        config: Config,
        preemptible: f64,
    ) -> Self {
        let mut scheduler = Scheduler::new(config);
        for gpus in nodes {
            scheduler.add_node(NodeOffer::of_gpus(*gpus));
        }
        let mut past: Vec<&TraceJob> = history.iter().collect();
        past.sort_by_key(|job| (job.submit + job.duration, job.id));
        for job in past {
            let class = scheduler
                .history
                .class(&job.user, &job.vc, &job.name, job.gpus);
            scheduler.history.ended(class, job.duration);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1000"
        )]
        let pinned = ((1.0 - preemptible.clamp(0.0, 1.0)) * 1_000.0).round() as u64;
        Self {
            jobs,
            scheduler,
            pinned,
            places: BTreeMap::new(),
        }
    }
}

impl Real<'_> {
    /// How often a job's start was predicted, and how often it started between the two.
    #[must_use]
    pub fn coverage(&self) -> Predicted {
        let (jobs, within) = self.scheduler.coverage();
        Predicted { jobs, within }
    }
}

/// The same jobs in every run, whatever their order.
fn lot(job: u64) -> u64 {
    let mut mixed = job.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % 1_000
}

fn number(job: usize) -> u64 {
    u64::try_from(job).unwrap_or(u64::MAX)
}

impl Player for Real<'_> {
    fn submit(&mut self, now: i64, job: usize) {
        let Some(row) = self.jobs.get(job) else {
            return;
        };
        self.places.insert(number(job), job);
        let drawn = lot(row.id) >= self.pinned;
        let packed = Ask::packed(row.gpus);
        let asked = Submission {
            ask: Ask {
                gang: row.gang(),
                ..packed
            },
            priority: Submission::level(row.priority),
            project: row.vc.clone(),
            user: row.user.clone(),
            name: row.name.clone(),
            preemptible: row.preemptible.unwrap_or(drawn),
            limit: (row.limit > 0).then_some(row.limit),
            ..Submission::packed(number(job), row.gpus)
        };
        self.scheduler.submit(now, &asked);
    }

    fn finish(&mut self, now: i64, job: usize) {
        self.scheduler.finished(now, number(job));
        self.places.remove(&number(job));
    }

    fn pass(&mut self, now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let plan = self.scheduler.pass(now);
            if plan.is_empty() {
                return actions;
            }
            let place = |job: &u64| self.places.get(job).copied();
            let starts = plan.starts.iter().filter_map(|start| place(&start.job));
            actions.extend(starts.map(Action::Start));
            let preempts = plan
                .preempts
                .iter()
                .filter_map(|preempt| place(&preempt.job));
            actions.extend(preempts.map(Action::Preempt));
            for preempt in &plan.preempts {
                self.scheduler.released(now, preempt.job);
            }
        }
    }

    fn wake(&self, now: i64) -> Option<i64> {
        self.scheduler.wake(now)
    }
}

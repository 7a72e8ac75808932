//! What the anchors that know no durations learn from jobs that have ended.

use std::collections::BTreeMap;

use trainyard_core::sched::policy::history::{ClassIx, History};

use crate::trace::TraceJob;

/// Ended jobs in the order of their ends, as they became known.
fn by_end(history: &[TraceJob]) -> Vec<&TraceJob> {
    let mut ended: Vec<&TraceJob> = history.iter().collect();
    ended.sort_by_key(|job| (job.submit + job.duration, job.id));
    ended
}

/// Mean durations: of one user's jobs of one width in one virtual cluster; of that width; of all.
pub(super) struct Means(BTreeMap<Kind, (i64, i64)>);

/// User, virtual cluster and GPUs, the finest first; an empty kind is all jobs.
type Kind = (Option<(String, String)>, Option<u32>);

impl Means {
    pub(super) fn of(history: &[TraceJob]) -> Self {
        let mut means = Self(BTreeMap::new());
        for job in by_end(history) {
            means.ended(job);
        }
        means
    }

    fn kinds(job: &TraceJob) -> [Kind; 3] {
        let own = (job.user.clone(), job.vc.clone());
        let gpus = Some(job.gpus);
        [(Some(own), gpus), (None, gpus), (None, None)]
    }

    pub(super) fn ended(&mut self, job: &TraceJob) {
        for kind in Self::kinds(job) {
            let (count, sum) = self.0.entry(kind).or_default();
            *count += 1;
            *sum += job.duration;
        }
    }

    /// GPU-seconds; none while nothing has ended.
    pub(super) fn service(&self, job: &TraceJob) -> i64 {
        let known = Self::kinds(job);
        let mean = known.iter().find_map(|kind| self.0.get(kind));
        let mean = mean.map_or(0, |(count, sum)| sum / (*count).max(1));
        mean * i64::from(job.gpus)
    }
}

/// Gittins indices by kinds of jobs, as the policy's history makes and learns them.
pub(super) struct Kinds {
    history: History,
    of: Vec<ClassIx>,
}

impl Kinds {
    pub(super) fn of(past: &[TraceJob], jobs: &[TraceJob]) -> Self {
        let mut history = History::default();
        let class = |history: &mut History, job: &TraceJob| {
            history.class(&job.user, &job.vc, &job.name, job.gpus)
        };
        let of = jobs.iter().map(|job| {
            let class = class(&mut history, job);
            history.join(class);
            class
        });
        let of = of.collect();
        for job in by_end(past) {
            let class = class(&mut history, job);
            history.ended(class, job.duration);
        }
        Self { history, of }
    }

    pub(super) fn ended(&mut self, job: usize, row: &TraceJob) {
        if let Some(class) = self.of.get(job) {
            self.history.ended(*class, row.duration);
        }
    }

    /// Lower first, in an order that whole numbers keep.
    pub(super) fn rank(&self, job: usize, gpus: u32, ran: i64) -> i64 {
        let rank = self.of.get(job).map_or(f64::MAX, |class| {
            self.history.rank(*class, gpus, ran, true).max(0.0)
        });
        // Of numbers that are not negative the bits are in the order of the numbers.
        i64::try_from(rank.to_bits()).unwrap_or(i64::MAX)
    }
}

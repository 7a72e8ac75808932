//! Keeps nodes for a gang that does not fit yet: those that will be free first.
//!
//! Others may start beside it on other nodes, or on the same ones if they are expected to end before.

use super::{
    cluster::JobIx,
    config::{Rule, Seconds},
    dense::Bits,
    job::Job,
    plan::Reservation,
    scheduler::Scheduler,
};

/// What is kept in a pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) reservation: Option<Reservation>,
    /// All other nodes.
    others: Bits,
}

impl Kept {
    /// Where a job may start that is expected to end then; `None` is everywhere.
    pub(super) fn within(&self, end: impl Fn() -> Seconds) -> Option<&Bits> {
        let reservation = self.reservation.as_ref()?;
        (end() > reservation.then).then_some(&self.others)
    }
}

impl Scheduler {
    /// How long a job is expected to run still.
    pub(super) fn expected_left(&self, now: Seconds, job: &Job) -> Seconds {
        let ran = job.ran(now, self.config.restart_cost);
        // Each run has the whole of its limit.
        let of_this_run = ran - if job.pieces.is_empty() { ran } else { job.done };
        let limit = job.limit.map(|limit| (limit - of_this_run).max(0));
        match self.config.rule {
            Rule::Fifo | Rule::Easy => limit.unwrap_or(NEVER),
            Rule::Gittins | Rule::Throughput => {
                let median = self
                    .history
                    .left(job.class, ran)
                    .map(|[_, mid, _]| whole(mid));
                limit.into_iter().chain(median).min().unwrap_or(NEVER)
            }
        }
    }

    /// Keeps the nodes for `first` that will be free first.
    pub(super) fn reserve(&self, now: Seconds, first: JobIx, kept: &mut Kept) {
        let mut then = self.cluster.clone();
        let running = self.running.iter().map(|ix| (*ix, self.job(*ix)));
        let mut ends: Vec<(Seconds, JobIx)> = running
            .map(|(ix, job)| (now.saturating_add(self.expected_left(now, job)), ix))
            .collect();
        ends.sort_unstable();
        let shape = &self.lanes.shapes[self.job(first).shape];
        for (end, ix) in ends {
            then.give(ix, &self.job(ix).pieces);
            let Some(pieces) = shape.find(&then) else {
                continue;
            };
            kept.others = Bits::default();
            for node in then.keys() {
                kept.others.set(node, true);
            }
            for piece in &pieces {
                kept.others.set(piece.node, false);
            }
            kept.reservation = Some(Reservation {
                job: self.job(first).id,
                pieces,
                then: end.max(now),
            });
            return;
        }
    }
}

/// Nobody knows when.
const NEVER: Seconds = Seconds::MAX / 4;

pub(super) fn whole(seconds: f64) -> Seconds {
    #[expect(clippy::cast_possible_truncation, reason = "rounds, and saturates")]
    let whole = seconds.ceil() as Seconds;
    whole
}

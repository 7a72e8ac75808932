//! Advice holds: what it suggests starts the job, and where one GPU would do there is some.

use std::slice;

use super::*;

/// What becomes of a job that is submitted in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starts {
    Yes,
    No,
    /// A job loses the place that was chosen for it, and that is not free yet.
    ForAnother,
}

/// The number of a job that is submitted in place of another.
const ANEW: u64 = 1_000_000;

/// A new job that asks for what this one does, with those changes: all that a user can do is to cancel and submit anew.
fn changed(queued: &QueuedJob, changes: &[Change], anew: (u64, Timestamp)) -> QueuedJob {
    let (id, now) = anew;
    let mut queued = QueuedJob {
        job: JobId(id),
        queued_at: now,
        age: now,
        not_before: None,
        avoid: BTreeSet::new(),
        has_run: Duration::ZERO,
        passed: None,
        ..queued.clone()
    };
    for change in changes {
        change_one(&mut queued, change);
    }
    queued
}

fn change_one(queued: &mut QueuedJob, change: &Change) {
    let number = || change.to.parse().unwrap();
    match change.field {
        "resources.gpus" => queued.request.gpus = number(),
        "resources.cpus" => queued.request.cpus = number(),
        "nodes" => queued.nodes = number(),
        "resources.gpu_model" => queued.request.gpu_model.clear(),
        "resources.gpu_memory_bytes" => queued.request.gpu_memory_bytes = 0,
        "resources.gpu_memory_max_bytes" => queued.request.gpu_memory_max_bytes = 0,
        "resources.memory_bytes" => queued.request.memory_bytes = change.to.parse().unwrap(),
        "placement.gpus_total" => queued.placement.gpus_total = Some(number()),
        "placement.labels" => queued.placement.labels.clear(),
        "placement.anti_labels" => queued.placement.anti_labels.clear(),
        "placement.fabric" => queued.placement.fabric = None,
        "placement.exclusive" => queued.placement.exclusive = false,
        "time_limit" => {
            let seconds = change.to.strip_suffix(" s").unwrap();
            queued.limit = Some(Duration::from_secs(seconds.parse().unwrap()));
        }
        other => panic!("{other}"),
    }
}

impl World {
    /// Every change that is suggested to a job that waits would start it, once it is cancelled and submitted anew, even if
    /// others are looked at in between.
    pub(super) fn advice_holds(&self, now: Timestamp) {
        for queued in self.waiting.values() {
            let why = self.planner.explain(now, queued.job).expect("it waits");
            for change in &why.changes {
                let anew = changed(queued, slice::from_ref(change), (ANEW, now));
                let starts = self.would_start(now, queued.job, anew);
                assert_ne!(starts, Starts::No, "{change:?} does not start {queued:?}");
            }
            let all = &why.together;
            if !all.is_empty() {
                let anew = changed(queued, all, (ANEW, now));
                let starts = self.would_start(now, queued.job, anew);
                assert_ne!(starts, Starts::No, "{all:?} do not start {queued:?}");
            }
            assert!(why.changes.is_empty() || all.is_empty());
            if why.again {
                let anew = changed(queued, &[], (ANEW, now));
                let starts = self.would_start(now, queued.job, anew);
                assert_ne!(starts, Starts::No, "the same does not start {queued:?}");
                assert!(why.changes.is_empty() && all.is_empty());
            }
            // Under rules that pass over who does not fit, where nothing is kept or about to close, there is advice if one GPU
            // would do.
            let exact = matches!(self.config.rule, Rule::Gittins | Rule::Throughput)
                && self.config.reserve == Reserve::Off
                && self.windows.is_empty();
            let waits = self.planner.chosen(queued.job).is_none() && !why.again;
            if exact && waits && why.changes.is_empty() && all.is_empty() {
                let one = u32::from(queued.request.gpus > 0);
                let total = queued.placement.gpus_total.is_some();
                let one = QueuedJob {
                    project: queued.project,
                    priority: queued.priority,
                    limit: queued.limit,
                    ..job(ANEW, 1, one.max(u32::from(total)))
                };
                let starts = self.would_start(now, queued.job, one);
                // Who would push another out of a place that it has not come to yet is not told so.
                assert_ne!(
                    starts,
                    Starts::Yes,
                    "one GPU would do, and nothing says so to {queued:?}"
                );
            }
        }
    }

    /// Whether a new job starts at once when that one is cancelled, even if others are looked at in between.
    fn would_start(&self, now: Timestamp, old: JobId, anew: QueuedJob) -> Starts {
        let mut after = self.planner.clone();
        after.gone(now, old, None);
        after.solve(now);
        let new = anew.job;
        after.queued(
            now,
            QueuedJob {
                queued_at: now,
                age: now,
                ..anew
            },
        );
        let chosen = after.seats.clone();
        let placements = after.solve(now).placements;
        let starts = placements.iter().any(|placement| placement.job == new);
        let had = |job: &JobId| placements.iter().any(|placement| placement.job == *job);
        let lost = |job: &JobId| !after.seats.contains_key(job) && !had(job);
        match chosen.keys().any(lost) {
            _ if !starts => Starts::No,
            true => Starts::ForAnother,
            false => Starts::Yes,
        }
    }
}

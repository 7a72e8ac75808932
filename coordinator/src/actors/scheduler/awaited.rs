//! Jobs that others wait for: how they stand, as the store says; and those whose wait is in vain.

use trainyard_core::{
    ids::JobId,
    job::{Event, Job},
    sched::Standing,
    time::Timestamp,
};

use super::{JobMsg, SchedulerMsg, SchedulerRef, State};
use crate::store::Store;

/// How a job stands and when it ended; nothing when its row cannot be read.
pub type Stood = Option<(Standing, Option<Timestamp>)>;

fn stands(store: &Store, job: JobId) -> Stood {
    match store.job(job) {
        Ok(found) => {
            let ended_at = found.as_ref().and_then(|found| found.ended_at);
            let state = found.map(|found| found.state);
            Some((Standing::of(state), ended_at))
        }
        Err(error) => {
            tracing::error!(%job, %error, "a job that others wait for cannot be read");
            None
        }
    }
}

impl State {
    /// A job that had ended before the coordinator started.
    pub(super) fn had_ended(&mut self, job: &Job) {
        let limited = job.spec.array.as_ref().filter(|of| of.at_most.is_some());
        // One that was cancelled while it waited gave nobody its place.
        let limited = limited.filter(|_| job.queued().passed.is_some());
        if let (Some(of), Some(at)) = (limited, job.ended_at) {
            self.planner.member_ended(of.id, of.index, at);
        }
        if let Some(ran) = job.ran() {
            self.planner.learn(&job.queued(), ran);
        }
    }

    /// Rows are long: they are read where that holds up nobody.
    pub(super) fn ask_the_store(&mut self, myself: &SchedulerRef) {
        let jobs = std::mem::take(&mut self.unread);
        let jobs: Vec<JobId> = jobs
            .into_iter()
            .filter(|job| !self.reading.contains_key(job) && !self.planner.knows(*job))
            .collect();
        let Some(store) = self.store.clone().filter(|_| !jobs.is_empty()) else {
            return;
        };
        self.asked += 1;
        let number = self.asked;
        self.reading.extend(jobs.iter().map(|job| (*job, number)));
        let myself = myself.clone();
        let read = move || {
            let found = jobs.into_iter().map(|job| (job, stands(&store, job)));
            myself
                .cast(SchedulerMsg::Stood(number, found.collect()))
                .ok();
        };
        drop(trainyard_runtime::blocking(read));
    }

    /// What the store says, unless the job itself has said something since it was asked.
    pub(super) fn stood(&mut self, number: u64, found: Vec<(JobId, Stood)>) {
        self.dirty = true;
        for (job, stood) in found {
            if self.reading.get(&job) != Some(&number) {
                // Somebody may have come to wait for it since.
                self.unread.insert(job);
                continue;
            }
            self.reading.remove(&job);
            match stood {
                Some((standing, ended_at)) => self.planner.stands(job, standing, ended_at),
                None => self.unreadable.extend([job]),
            }
        }
    }

    /// What a job waits for cannot come. It is told so until it says that it has ended.
    pub(super) fn give_up(&self, job: JobId, why: &str) {
        self.tell(job, JobMsg::Event(Event::Hopeless(why.to_owned()), None));
    }
}

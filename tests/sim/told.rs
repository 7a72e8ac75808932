//! What users were told, and what they see of their jobs.
//!
//! Owns which promises of the coordinator are in force. Written by users and by the check, read by both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use trainyard_core::{job::JobState, time::Timestamp};

use crate::plan::Wish;

/// How often a user looks whether a job that another one waits for is known.
const AGAIN: Duration = Duration::from_secs(1);

/// What users were told, and what they see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// The number of each job that was accepted, in the order of the wishes.
    jobs: Vec<Option<u64>>,
    /// Users who want nothing more.
    content: usize,
    /// What was asked and answered of running a job again.
    again: BTreeMap<u64, Again>,
    /// Jobs that somebody has asked to cancel.
    unwanted: BTreeSet<u64>,
    /// Jobs whose cancel was accepted, until one is run again.
    cancelled: BTreeMap<u64, Cancelled>,
    /// Where jobs stand.
    states: BTreeMap<u64, JobState>,
    /// When each was last asked for, and how many times it was seen to be asked for again.
    asked: BTreeMap<u64, (Option<Timestamp>, usize)>,
    /// Jobs that wait, each with the number of its attempts.
    waiting: BTreeSet<(u64, usize)>,
    /// Wishes that were refused, since they wait for a job that had not succeeded.
    refused: BTreeSet<usize>,
}

/// Of running one job again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// Tries that may have done it: those that were accepted, and those that have no answer.
    tries: u32,
    accepted: u32,
}

/// A cancel that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// It was told to end.
    Asked,
    /// It had no place, and has ended by that.
    Ended,
}

impl Accepted {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that are known, each with the number of its wish: an array has several.
    pub(crate) fn all(&self, wishes: &[Wish]) -> Vec<(usize, u64)> {
        let told = self.told();
        let first = told.jobs.iter().enumerate().zip(wishes);
        let all = first.flat_map(|((number, first), wish)| {
            let first = first
                .iter()
                .flat_map(|first| *first..*first + wish.order.jobs());
            first.map(move |job| (number, job))
        });
        all.collect()
    }

    /// The job of a wish; of an array the first.
    pub(crate) fn of(&self, wish: usize) -> Option<u64> {
        self.told().jobs.get(wish).copied().flatten()
    }

    /// How many wishes are jobs, or were refused.
    pub(crate) fn answered(&self) -> usize {
        let told = self.told();
        told.jobs.iter().flatten().count() + told.refused.len()
    }

    /// Whether a wish was refused, since it waits for a job that had not succeeded.
    pub(crate) fn is_refused(&self, wish: usize) -> bool {
        self.told().refused.contains(&wish)
    }

    /// A wish is refused: its user wants nothing more.
    pub(crate) fn refuse(&self, wish: usize) {
        let mut told = self.told();
        told.refused.insert(wish);
        told.content += 1;
    }

    /// The jobs that wait, each with the number of its attempts.
    pub(crate) fn waiting(&self) -> BTreeSet<(u64, usize)> {
        self.told().waiting.clone()
    }

    /// The jobs of the wishes that one waits for, once each is known or refused; none if one was refused.
    pub(crate) async fn awaited(&self, wishes: &[usize]) -> Option<Vec<u64>> {
        let mut jobs = Vec::new();
        for wish in wishes {
            while self.of(*wish).is_none() {
                if self.is_refused(*wish) {
                    return None;
                }
                tokio::time::sleep(AGAIN).await;
            }
            jobs.extend(self.of(*wish));
        }
        Some(jobs)
    }

    /// How many users want nothing more.
    pub(crate) fn content(&self) -> usize {
        self.told().content
    }

    /// One more wants nothing more.
    pub(crate) fn is_content(&self) {
        self.told().content += 1;
    }

    /// How often this job may have been run again.
    pub(crate) fn again(&self, job: u64) -> u32 {
        self.told().again.get(&job).map_or(0, |again| again.tries)
    }

    /// How often that was accepted.
    pub(crate) fn accepted_again(&self, job: u64) -> u32 {
        let told = self.told();
        told.again.get(&job).map_or(0, |again| again.accepted)
    }

    /// It is about to be asked for: from now on nobody is promised that its cancel stands.
    pub(crate) fn tries_again(&self, job: u64) {
        let mut told = self.told();
        told.cancelled.remove(&job);
        told.again.entry(job).or_default().tries += 1;
    }

    /// That try was refused, or accepted. One without an answer may have been either.
    pub(crate) fn is_answered(&self, job: u64, accepted: bool) {
        let mut told = self.told();
        let again = told.again.entry(job).or_default();
        if accepted {
            again.accepted += 1;
        } else {
            again.tries = again.tries.saturating_sub(1);
        }
    }

    /// Somebody is about to ask for its end.
    pub(crate) fn is_unwanted(&self, job: u64) {
        self.told().unwanted.insert(job);
    }

    /// Whether somebody has asked for its end, whatever was answered.
    pub(crate) fn was_unwanted(&self, job: u64) -> bool {
        self.told().unwanted.contains(&job)
    }

    pub(crate) fn cancel(&self, job: u64, how: Cancelled) {
        self.told().cancelled.insert(job, how);
    }

    /// The cancel of it that stands.
    pub(crate) fn cancelled(&self, job: u64) -> Option<Cancelled> {
        self.told().cancelled.get(&job).copied()
    }

    /// What users can see.
    pub(crate) fn shows(&self, job: &trainyard_core::job::Job) {
        let mut told = self.told();
        let (id, state) = (job.id.0, job.state);
        told.states.insert(id, state);
        let asked = told.asked.entry(id).or_insert((job.asked_at, 0));
        if asked.0 != job.asked_at {
            *asked = (job.asked_at, asked.1 + 1);
        }
        told.waiting.retain(|(waits, _)| *waits != id);
        if matches!(state, JobState::Pending | JobState::Queued) {
            told.waiting.insert((id, job.attempts.len()));
        }
    }

    pub(crate) fn state(&self, job: u64) -> Option<JobState> {
        self.told().states.get(&job).copied()
    }

    /// Whether it has ended, and was seen to have run again so many times: while the coordinator is away its state is that of
    /// before the last answer.
    pub(crate) fn has_ended(&self, job: u64, times: usize) -> bool {
        let told = self.told();
        let again = told.asked.get(&job).map_or(0, |(_, times)| *times);
        again >= times
            && told
                .states
                .get(&job)
                .copied()
                .is_some_and(JobState::is_terminal)
    }

    pub(crate) fn set(&self, wish: usize, job: u64) {
        let all = &mut self.told().jobs;
        if all.len() <= wish {
            all.resize(wish + 1, None);
        }
        if let Some(place) = all.get_mut(wish) {
            *place = Some(job);
        }
    }
}

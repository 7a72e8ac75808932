//! One job as the policy knows it.

use super::{
    ask::Ask,
    cluster::Piece,
    config::Seconds,
    history::ClassIx,
    lanes::{LaneIx, ShapeIx, Turn},
    projects::ProjectIx,
};

/// As often is the time doubled for which a job is left alone; it is longer than any job runs then.
const MOST_DOUBLED: u32 = 24;
/// A start that took longer waited for others, fetched what is there the next time, or a clock was set meanwhile.
const LONGEST_START: Seconds = 1_800;

/// What is told of a job when it is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The caller's number.
    pub job: u64,
    /// Nodes and GPUs.
    pub ask: Ask,
    /// Higher first; see [`Submission::level`].
    pub priority: u32,
    /// The project that pays.
    pub project: String,
    /// Who asks.
    pub user: String,
    /// Its name: jobs of like names run for like times.
    pub name: String,
    /// It saves its work when it is told to go, and goes on later.
    pub preemptible: bool,
    /// Its time limit.
    pub limit: Option<Seconds>,
    /// It may not start before.
    pub not_before: Option<Seconds>,
    /// When it was asked for, if that was before now.
    pub since: Option<Seconds>,
    /// For how long it has run already, as far as that was not in vain.
    pub done: Seconds,
    /// It has shown a checkpoint: little is lost when it goes, else all that it ran.
    pub saved: bool,
    /// How often in a row it went for another and had saved nothing since it had begun.
    pub in_vain: u32,
}

impl Submission {
    /// A job's priority as the policy takes it: rows of old versions may have one below 0.
    #[must_use]
    pub fn level(priority: i32) -> u32 {
        u32::try_from(priority.saturating_add(1_000)).unwrap_or(0)
    }

    /// The priority that a job was given, of what the policy makes of it.
    #[must_use]
    pub(super) fn priority_of(level: u32) -> i64 {
        i64::from(level) - 1_000
    }

    /// A job of so many GPUs, and nothing else in particular.
    #[must_use]
    pub fn packed(job: u64, gpus: u32) -> Self {
        Self {
            job,
            ask: Ask::packed(gpus),
            priority: 0,
            project: String::new(),
            user: String::new(),
            name: String::new(),
            preemptible: true,
            limit: None,
            not_before: None,
            since: None,
            done: 0,
            saved: true,
            in_vain: 0,
        }
    }
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not before its time.
    Later,
    /// In its lane, at this turn.
    Waiting(Turn),
    /// Its nodes are chosen, and so many others have to leave them first.
    Promised,
    /// It runs.
    Running,
    /// It was told to go, and has not gone yet; what it held belongs to others already.
    Leaving,
}

/// A job.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) shape: ShapeIx,
    pub(super) lane: LaneIx,
    pub(super) gpus: u32,
    pub(super) priority: u32,
    pub(super) project: ProjectIx,
    pub(super) class: ClassIx,
    pub(super) preemptible: bool,
    pub(super) limit: Option<Seconds>,
    pub(super) submitted: Seconds,
    pub(super) state: State,
    /// Since when it is in this state; of one that runs, since it began to.
    pub(super) since: Seconds,
    /// It has its place, and what it runs in is not ready yet.
    pub(super) prepares: bool,
    /// What it has done in earlier runs, without what restarts cost.
    pub(super) done: Seconds,
    /// It has shown a checkpoint.
    pub(super) saved: bool,
    /// How often it was started.
    pub(super) runs: u32,
    /// How often in a row it went for another and had saved nothing since it had begun.
    pub(super) in_vain: u32,
    /// How long it last took from its place until it ran.
    pub(super) starts_in: Seconds,
    /// What it holds, or is promised.
    pub(super) pieces: Vec<Piece>,
    /// GPUs for which its project is charged, while it is.
    pub(super) charged: Option<u32>,
    /// Those of them that it was told to give back, once it was.
    pub(super) going: Option<u32>,
    /// Those of them that others hold still: they do not count as used.
    pub(super) unused: u32,
    /// A part of it has been given back, or is not there any more.
    pub(super) partial: bool,
    /// When its rank changes by waiting.
    pub(super) next_step: Seconds,
    /// Who has to leave before it starts.
    pub(super) awaits: Vec<super::cluster::JobIx>,
}

impl Job {
    /// Its turn, if it waits.
    pub(super) fn turn(&self) -> Option<Turn> {
        match &self.state {
            State::Waiting(turn) => Some(*turn),
            State::Later | State::Promised | State::Running | State::Leaving => None,
        }
    }

    /// How long it has run in earnest.
    pub(super) fn ran(&self, now: Seconds, restart_cost: Seconds) -> Seconds {
        match self.state {
            State::Running | State::Leaving if !self.prepares => {
                let overhead = if self.runs > 1 { restart_cost } else { 0 };
                self.done + (now - self.since - overhead).max(0)
            }
            State::Running
            | State::Leaving
            | State::Later
            | State::Waiting(_)
            | State::Promised => self.done,
        }
    }

    /// For how long nobody touches it once it runs, where that is `least` for all: never less than its own restart costs, as
    /// far as its last start tells that.
    pub(super) fn untouched(&self, least: Seconds) -> Seconds {
        least.max(self.starts_in.min(LONGEST_START))
    }

    /// For how long none of a better rank pushes it out once it runs, where that is `least` at first: twice as long each time that it had to
    /// go before it had saved anything. Two that save nothing in so much time would else push each other out for ever.
    pub(super) fn left_alone(&self, least: Seconds) -> Seconds {
        let doubled = least.saturating_mul(1 << self.in_vain.min(MOST_DOUBLED));
        self.untouched(doubled)
    }

    /// GPU-seconds that are lost when it goes, beside what its restart costs.
    pub(super) fn at_stake(&self, now: Seconds, restart_cost: Seconds) -> f64 {
        if self.saved {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let ran = self.ran(now, restart_cost) as f64;
        ran * f64::from(self.gpus.max(1))
    }

    /// How long it has not.
    pub(super) fn waited(&self, now: Seconds, restart_cost: Seconds) -> Seconds {
        (now - self.submitted - self.ran(now, restart_cost)).max(0)
    }
}

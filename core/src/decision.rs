//! What was decided, as it is noted to be read back: about a job, a node, or both.
//!
//! Owns the kinds and, of what a step of a job decides, the words. Pure. Called by jobs' actors, which store a note in the
//! transaction of what it is about, and by the scheduler for what has no row of its own.

use serde::{Deserialize, Serialize};

use crate::{
    failure::FailureClass,
    ids::{AttemptNo, JobId, NodeName},
    job::{Attempt, Job, JobState},
    time::Timestamp,
};

/// What sort of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A job was accepted. Told from its row, never stored.
    Accepted,
    /// A request was refused: no nodes could ever meet it, or a limit is reached.
    Refused,
    /// A job waits, for this reason; another one is another note.
    Waits,
    /// What held a job back does not any more: its time, other jobs, its array's limit.
    LetThrough,
    /// Nodes are kept for a job that waits, from others who would not be gone in time.
    Kept,
    /// A job was given nodes.
    Placed,
    /// A job was told to save its work and go, since another needs its place.
    MakesRoom,
    /// A job was told to save its work and go, since one of its nodes goes out of service.
    Vacates,
    /// It has gone, and waits for nodes again.
    Preempted,
    /// All ranks of a gang are ended, by one that failed or was late.
    GangEnded,
    /// An attempt failed or was lost, and the job is tried again.
    Retried,
    /// A user wants it stopped.
    CancelAsked,
    /// It has completed.
    Completed,
    /// It has failed.
    Failed,
    /// It was cancelled, by a user or since it could never start.
    Cancelled,
    /// A user has an ended job run again.
    RunAgain,
    /// A node gets no more jobs: an operator wants it so, or launches failed there.
    Drained,
    /// A node gets jobs again.
    Resumed,
    /// The labels of a node have changed: an operator wants it so, or its agent says so.
    Labelled,
    /// An operator has revoked the agent of a node: it may never be back.
    Revoked,
    /// An operator has planned a window in which nodes are out of service.
    MaintenancePlanned,
    /// An operator has taken one back.
    MaintenanceRemoved,
    /// By a newer program.
    #[serde(other)]
    Unknown,
}

impl Kind {
    /// All of them that are stored or told, by name.
    pub const ALL: [(&'static str, Self); 22] = [
        ("accepted", Self::Accepted),
        ("refused", Self::Refused),
        ("waits", Self::Waits),
        ("let_through", Self::LetThrough),
        ("kept", Self::Kept),
        ("placed", Self::Placed),
        ("makes_room", Self::MakesRoom),
        ("vacates", Self::Vacates),
        ("preempted", Self::Preempted),
        ("gang_ended", Self::GangEnded),
        ("retried", Self::Retried),
        ("cancel_asked", Self::CancelAsked),
        ("completed", Self::Completed),
        ("failed", Self::Failed),
        ("cancelled", Self::Cancelled),
        ("run_again", Self::RunAgain),
        ("drained", Self::Drained),
        ("resumed", Self::Resumed),
        ("labelled", Self::Labelled),
        ("revoked", Self::Revoked),
        ("maintenance_planned", Self::MaintenancePlanned),
        ("maintenance_removed", Self::MaintenanceRemoved),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(_, kind)| *kind == self);
        known.map_or("unknown", |(name, _)| name)
    }

    /// Whether the words are those of a job's own trainers, which may speak of anything.
    const fn has_own_words(self) -> bool {
        matches!(
            self,
            Self::GangEnded | Self::Retried | Self::Completed | Self::Failed
        )
    }
}

/// One decision: a row of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// What sort.
    pub kind: Kind,
    /// About which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// About which attempt of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptNo>,
    /// About which nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeName>,
    /// For which other job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_job: Option<JobId>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
}

/// Nodes of a wide gang that are named.
const NODES: usize = 64;
/// Characters of words; a trainer's last lines may be long.
const WORDS: usize = 500;

impl Decision {
    /// About a job alone.
    #[must_use]
    pub fn of_job(at: Timestamp, kind: Kind, job: JobId, words: impl Into<String>) -> Self {
        Self {
            at,
            kind,
            job: Some(job),
            attempt: None,
            nodes: Vec::new(),
            for_job: None,
            words: cut(words.into()),
        }
    }

    /// About a node alone.
    #[must_use]
    pub fn of_node(at: Timestamp, kind: Kind, node: NodeName, words: impl Into<String>) -> Self {
        Self::of_nodes(at, kind, [node], words)
    }

    /// About some nodes, of which the first are named.
    #[must_use]
    pub fn of_nodes(
        at: Timestamp,
        kind: Kind,
        nodes: impl IntoIterator<Item = NodeName>,
        words: impl Into<String>,
    ) -> Self {
        Self {
            job: None,
            nodes: nodes.into_iter().take(NODES).collect(),
            ..Self::of_job(at, kind, JobId(0), words)
        }
    }

    /// About a job, and nodes of which the first are named.
    #[must_use]
    pub fn of_job_on(
        at: Timestamp,
        kind: Kind,
        job: JobId,
        nodes: impl IntoIterator<Item = NodeName>,
        words: impl Into<String>,
    ) -> Self {
        Self {
            job: Some(job),
            ..Self::of_nodes(at, kind, nodes, words)
        }
    }

    /// About nobody that is in the store.
    #[must_use]
    pub fn refused(at: Timestamp, words: impl Into<String>) -> Self {
        Self {
            job: None,
            ..Self::of_job(at, Kind::Refused, JobId(0), words)
        }
    }

    fn with(mut self, attempt: &Attempt) -> Self {
        self.attempt = Some(attempt.number);
        let nodes = attempt.parts().take(NODES);
        self.nodes = nodes
            .map(|(_, part)| part.allocation.node.clone())
            .collect();
        self
    }

    /// What a step of a job has decided. `why` is told of what somebody else has decided for it: its place, or that it
    /// makes room.
    #[must_use]
    pub fn between(before: &Job, after: &Job, why: Option<&str>, at: Timestamp) -> Vec<Self> {
        let mut found = Vec::new();
        let mut note = |kind, words: &str| found.push(Self::of_job(at, kind, after.id, words));
        if after.cancel_requested && !before.cancel_requested && !after.state.is_terminal() {
            note(Kind::CancelAsked, "a user wants it stopped");
        }
        found.extend(Self::of_attempt(before, after, why, at));
        if before.state != after.state {
            found.extend(Self::of_state(before, after, at));
        }
        found
    }

    /// What has become of the newest attempt, but for its end.
    fn of_attempt(before: &Job, after: &Job, why: Option<&str>, at: Timestamp) -> Vec<Self> {
        let Some(attempt) = after.attempt() else {
            return Vec::new();
        };
        let note = |kind, words: &str| Self::of_job(at, kind, after.id, words).with(attempt);
        let was = before.attempt().filter(|was| was.number == attempt.number);
        let Some(was) = was else {
            return vec![note(Kind::Placed, why.unwrap_or_default())];
        };
        let mut found = Vec::new();
        let room = attempt
            .makes_room_for
            .filter(|_| was.makes_room_for.is_none());
        if let Some(for_job) = room {
            let words = format!("job {for_job} needs its place");
            found.push(Self {
                for_job: Some(for_job),
                ..note(Kind::MakesRoom, why.unwrap_or(&words))
            });
        }
        if let Some(vacates) = attempt.vacates.as_ref().filter(|_| was.vacates.is_none()) {
            found.push(note(Kind::Vacates, &vacates.why));
        }
        if attempt.blame.is_some() && was.blame.is_none() {
            found.push(note(Kind::GangEnded, &after.reason));
        }
        found
    }

    fn of_state(before: &Job, after: &Job, at: Timestamp) -> Option<Self> {
        let outcome = || {
            let outcome = after.outcome.as_ref();
            outcome.map_or("", |outcome| outcome.message.as_str())
        };
        let (kind, words) = match after.state {
            JobState::Completed => (Kind::Completed, outcome()),
            JobState::Failed => (Kind::Failed, outcome()),
            JobState::Cancelled => (Kind::Cancelled, outcome()),
            JobState::Queued if before.state.is_terminal() => {
                (Kind::RunAgain, "a user has it run again")
            }
            JobState::Queued if before.state != JobState::Pending => {
                let end = after.attempt().and_then(Attempt::outcome);
                let preempted = end.and_then(|end| end.class) == Some(FailureClass::Preempted);
                let kind = if preempted {
                    Kind::Preempted
                } else {
                    Kind::Retried
                };
                (kind, after.reason.as_str())
            }
            JobState::Pending
            | JobState::Queued
            | JobState::Starting
            | JobState::Running
            | JobState::Finishing => return None,
        };
        let note = Self::of_job(at, kind, after.id, words);
        // The attempt that has ended, if it is of one; whoever waited had none.
        let ended = after.attempt().filter(|_| before.state.holds_resources());
        Some(match ended {
            Some(attempt) => Self {
                for_job: attempt.makes_room_for.filter(|_| kind == Kind::Preempted),
                ..note.with(attempt)
            },
            None => note,
        })
    }

    /// As it is told to somebody who may not know of the jobs that `hides` names.
    #[must_use]
    pub fn without(mut self, mut hides: impl FnMut(JobId) -> bool) -> Self {
        self.for_job = self.for_job.filter(|job| !hides(*job));
        if self.job.is_some() && !self.kind.has_own_words() {
            self.words = unnamed(&self.words, hides);
        }
        self
    }

    /// Whether two reasons to wait are of one sort: what is short may change in its numbers all the time.
    #[must_use]
    pub fn is_same_wait(one: &str, other: &str) -> bool {
        sort_of(one) == sort_of(other)
    }
}

/// What a reason to wait begins with, without its numbers and the names of nodes.
fn sort_of(words: &str) -> String {
    let head = words.split([':', ';']).next().unwrap_or_default();
    let head = head.split(" on ").next().unwrap_or_default();
    let head = head.split(" of node ").next().unwrap_or_default();
    head.chars().filter(|one| !one.is_ascii_digit()).collect()
}

/// The same words, in which jobs that `hides` says so of have no number.
#[must_use]
pub fn unnamed(words: &str, mut hides: impl FnMut(JobId) -> bool) -> String {
    const NAMES: &str = "job ";
    let mut told = String::new();
    let mut rest = words;
    while let Some((before, behind)) = rest.split_once(NAMES) {
        rest = behind.trim_start_matches(|one: char| one.is_ascii_digit());
        let number = behind.strip_suffix(rest).unwrap_or_default();
        told.push_str(before);
        match number.parse() {
            Ok(id) if hides(JobId(id)) => told.push_str("another job"),
            Ok(_) | Err(_) => told.extend([NAMES, number]),
        }
    }
    told + rest
}

fn cut(words: String) -> String {
    match words.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

#[cfg(test)]
mod tests;

//! One placement and run of a job: its tasks by rank, and how they make one end.
//!
//! A job on one node has one task, rank 0. A gang has one a node: they start together, and one that fails ends all.
//! In the row of a job rank 0 stands where the only task always stood, so that rows of older versions read the same.

use std::{cmp::Reverse, collections::BTreeMap, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{FailureClass, Outcome, StopCause, TaskEnd, judge},
    ids::{AttemptNo, JobId, NodeName, Rank},
    record::Completion,
    sched::Allocation,
    secret::Secret,
    time::Timestamp,
};

/// The task of an attempt on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where and with what.
    pub allocation: Allocation,
    /// When its trainer process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended; records may still be on their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
    /// All its records up to this number are stored.
    #[serde(default)]
    pub stored_seq: u64,
    /// Of a gang: it holds nothing any more. Noted, since a row does not say which records are stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
    /// Of a gang: when its node last said something new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Timestamp>,
    /// Of a gang: what its node said then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Of a gang: it is prepared, and starts when all others are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// What the ranks of a gang may each take of a second with what they say while they prepare.
const A_RANK: Duration = Duration::from_millis(20);

impl Part {
    pub(super) fn placed(allocation: Allocation) -> Self {
        Self {
            allocation,
            started_at: None,
            ended_at: None,
            end: None,
            stored_seq: 0,
            over: false,
            heard_at: None,
            detail: String::new(),
            waits: false,
        }
    }

    /// Whether its node says something new, and not what it said before once more. Of many ranks each is heard the less
    /// often: each time the whole job is written.
    #[must_use]
    pub fn is_news(&self, detail: &str, world_size: u32, now: Timestamp) -> bool {
        let pace = A_RANK.saturating_mul(world_size);
        let is_time = self.heard_at.is_none_or(|heard| now.since(heard) >= pace);
        self.waits || (self.detail != detail && is_time) || self.heard_at.is_none()
    }

    /// Its process is gone and all that it said is stored: it holds nothing any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let end = self.end.as_ref();
        self.over || end.is_some_and(|end| self.stored_seq >= end.last_seq)
    }

    /// The numbers of the records that are waited for since its end was told, and of which `end`, told later, says that
    /// there are none: its node cannot read them any more.
    #[must_use]
    pub fn missing(&self, end: &TaskEnd) -> Option<RangeInclusive<u64>> {
        let awaited = self.end.as_ref()?.last_seq;
        let from = self.stored_seq.max(end.last_seq).saturating_add(1);
        (end.last_seq < awaited && from <= awaited).then_some(from..=awaited)
    }

    /// It ended of itself, and not because another rank did.
    fn own_end(&self) -> Option<&TaskEnd> {
        let own = |end: &&TaskEnd| end.stop_cause != Some(StopCause::PeerFailed);
        self.end.as_ref().filter(own)
    }
}

/// Why a gang is being ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// This rank was the first to fail.
    Failed(Rank),
    /// The others waited in vain for these to be ready.
    Late(Vec<Rank>),
}

/// It was told to leave its nodes, one of which goes out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacates {
    /// Which node and why, for people.
    pub why: String,
    /// Its job allows that: it ends as one that makes room. Of one that does not it is the platform's doing.
    #[serde(default)]
    pub allowed: bool,
}

/// A rank may say the same for so many times as long as it may say nothing.
const SAME_WORDS: u32 = 12;

/// When ranks of the live attempt were last heard of, whatever they said. Not stored: nobody can be heard while nobody
/// listens, and then silence begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    since: Timestamp,
    attempt: Option<AttemptNo>,
    last: BTreeMap<Rank, Timestamp>,
}

impl Heard {
    /// Somebody listens from now on.
    #[must_use]
    pub fn from(now: Timestamp) -> Self {
        Self {
            since: now,
            attempt: None,
            last: BTreeMap::new(),
        }
    }

    /// A rank has said something.
    pub fn note(&mut self, attempt: AttemptNo, rank: Rank, now: Timestamp) {
        if self.attempt != Some(attempt) {
            self.attempt = Some(attempt);
            self.last.clear();
        }
        self.last.insert(rank, now);
    }

    fn of(&self, rank: Rank) -> Timestamp {
        self.last.get(&rank).copied().unwrap_or(self.since)
    }
}

/// What is said of late ranks.
pub(super) const LATE: &str = "was not ready in time while the rest of its gang waited";

/// One placement and run of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: AttemptNo,
    /// The task of rank 0.
    #[serde(flatten)]
    pub lead: Part,
    /// The tasks of ranks 1 and up, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Part>,
    /// Known to this attempt's trainers alone; part of their callback URL.
    pub secret: Secret,
    /// When it was given its place.
    pub placed_at: Timestamp,
    /// Of a gang: where on the node of rank 0 its processes meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Of a gang: all were prepared, and it was told to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go_at: Option<Timestamp>,
    /// Of a gang: it is being ended, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// It was told to make room for this job: it saves its work, and goes on when there is room again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub makes_room_for: Option<JobId>,
    /// When it was told to save its work and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_since: Option<Timestamp>,
    /// It was told to leave its nodes: it saves its work, and goes on elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vacates: Option<Vacates>,
    /// The trainer's own last word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// The epoch of its first report with metrics: what earlier attempts said of it and of later ones is
    /// superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_epoch: Option<u32>,
    /// It begins at the beginning: nothing that was reported before it counts.
    #[serde(default = "anew")]
    pub anew: bool,
    /// The attempt whose checkpoint it goes on from, where that is known: mostly the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_on_from: Option<AttemptNo>,
    /// It failed, and the job was tried again by itself.
    #[serde(default)]
    pub tried_again: bool,
}

/// As attempts were that have no word of it.
fn anew() -> bool {
    true
}

impl Attempt {
    /// One on these nodes, by rank.
    #[must_use]
    pub fn placed(
        number: AttemptNo,
        lead: Allocation,
        others: Vec<Allocation>,
        (secret, placed_at): (Secret, Timestamp),
    ) -> Self {
        Self {
            number,
            lead: Part::placed(lead),
            others: others.into_iter().map(Part::placed).collect(),
            secret,
            placed_at,
            port: None,
            let_go_at: None,
            blame: None,
            makes_room_for: None,
            leaves_since: None,
            vacates: None,
            completion: None,
            first_epoch: None,
            anew: true,
            goes_on_from: None,
            tried_again: false,
        }
    }

    /// Its tasks by rank.
    pub fn parts(&self) -> impl Iterator<Item = (Rank, &Part)> {
        let parts = std::iter::once(&self.lead).chain(&self.others);
        (0..).map(Rank).zip(parts)
    }

    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        std::iter::once(&mut self.lead).chain(&mut self.others)
    }

    /// One of its tasks.
    #[must_use]
    pub fn part(&self, rank: Rank) -> Option<&Part> {
        self.parts()
            .find(|(of, _)| *of == rank)
            .map(|(_, part)| part)
    }

    pub(super) fn part_mut(&mut self, rank: Rank) -> Option<&mut Part> {
        let index = usize::try_from(rank.0).ok()?;
        self.parts_mut().nth(index)
    }

    /// What the store has of a task's records.
    pub fn note_stored(&mut self, rank: Rank, seq: u64) {
        if let Some(part) = self.part_mut(rank) {
            part.stored_seq = seq;
        }
    }

    /// The rank that runs on `node`.
    #[must_use]
    pub fn rank_on(&self, node: &NodeName) -> Option<Rank> {
        let mut parts = self.parts();
        let found = parts.find(|(_, part)| part.allocation.node == *node);
        found.map(|(rank, _)| rank)
    }

    /// Whether it was told to save its work and go, and goes on later.
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.makes_room_for.is_some() || self.vacates.is_some()
    }

    /// How many tasks it has.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        u32::try_from(self.others.len()).map_or(u32::MAX, |others| others.saturating_add(1))
    }

    /// Whether it runs on several nodes.
    #[must_use]
    pub fn is_gang(&self) -> bool {
        !self.others.is_empty()
    }

    /// When the last of its trainer processes started, if all have.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        let started: Option<Vec<_>> = self.parts().map(|(_, part)| part.started_at).collect();
        started?.into_iter().max()
    }

    /// When the last of its tasks was over, if all are.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        let ended: Option<Vec<_>> = self.parts().map(|(_, part)| part.ended_at).collect();
        ended?.into_iter().max()
    }

    /// Whether no trainer process is left.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.parts().all(|(_, part)| part.end.is_some())
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.has_ended().then(|| self.verdict().0)
    }

    /// How one task ended, if it has.
    #[must_use]
    pub fn outcome_of(&self, rank: Rank) -> Option<Outcome> {
        let end = self.part(rank)?.end.as_ref()?;
        Some(self.judged(end, self.word_of(rank)))
    }

    /// A stop says nothing of why the attempt was to go.
    fn judged(&self, end: &TaskEnd, word: Option<&Completion>) -> Outcome {
        let mut outcome = judge(end, word);
        if let Some(vacates) = &self.vacates
            && outcome.class == Some(FailureClass::Preempted)
        {
            outcome.message = format!("stopped: {}", vacates.why);
            if !vacates.allowed {
                outcome.class = Some(FailureClass::Infrastructure);
                // A code of 0 beside a failure would say that all was well.
                outcome.exit_code = outcome.exit_code.filter(|code| *code != 0);
            }
        }
        outcome
    }

    /// The trainer's word is that of rank 0.
    pub(super) fn word_of(&self, rank: Rank) -> Option<&Completion> {
        self.completion.as_ref().filter(|_| rank == Rank(0))
    }

    /// The end of the whole, and the ranks whose fault it is: none when it ended well. Of several ends the one that
    /// explains the others counts, not the first to be heard: where a node is gone, the trainers elsewhere fail of
    /// themselves, and long before it is known to be.
    pub(super) fn verdict(&self) -> (Outcome, Vec<Rank>) {
        if let Some(outcome) = self.through() {
            return (outcome, Vec::new());
        }
        let own = self.parts().filter_map(|(rank, part)| {
            let outcome = self.judged(part.own_end()?, self.word_of(rank));
            Some((outcome, vec![rank]))
        });
        let late = self.late_ranks().map(|ranks| {
            let end = TaskEnd {
                error: Some(LATE.to_owned()),
                infrastructure: true,
                ..TaskEnd::default()
            };
            (judge(&end, None), ranks.to_vec())
        });
        let worst = own.chain(late).max_by_key(|(outcome, ranks)| {
            // Among equals that of the first to fail, then that of the lowest rank.
            let rank = ranks.first().copied();
            let first = rank.map(Blame::Failed) == self.blame;
            (weight(outcome.class), first, Reverse(rank))
        });
        let (mut outcome, ranks) = worst.unwrap_or_else(|| (self.stopped(), Vec::new()));
        if outcome.class.is_none() {
            return (outcome, Vec::new());
        }
        if self.is_gang() {
            outcome.message = format!("{}: {}", self.names(&ranks), outcome.message);
        }
        (outcome, ranks)
    }

    /// Of a gang that was told to make room and was through by then: rank 0 says so, and all ranks ended well.
    fn through(&self) -> Option<Outcome> {
        if !self.leaves() {
            return None;
        }
        let lead = judge(self.lead.end.as_ref()?, self.completion.as_ref());
        let well = |part: &Part| {
            part.end
                .as_ref()
                .is_some_and(|end| end.exit_code == Some(0))
        };
        (lead.class.is_none() && self.others.iter().all(well)).then_some(lead)
    }

    fn late_ranks(&self) -> Option<&[Rank]> {
        match self.blame.as_ref()? {
            Blame::Failed(_) => None,
            Blame::Late(ranks) => Some(ranks),
        }
    }

    /// As its first task ended, for want of anything better to say.
    fn stopped(&self) -> Outcome {
        let end = self.lead.end.clone().unwrap_or_default();
        self.judged(&end, self.completion.as_ref())
    }

    /// Such as `rank 1 on n2`.
    pub(super) fn names(&self, ranks: &[Rank]) -> String {
        let name = |rank: &Rank| {
            let part = self.part(*rank)?;
            Some(format!("{rank} on {}", part.allocation.node))
        };
        let names: Vec<_> = ranks.iter().filter_map(name).collect();
        names.join(", ")
    }

    /// Ranks of a gang that has yet to start whole which have not done their part, and of which nothing was heard for as
    /// long as `patience`, or nothing new for [`SAME_WORDS`] times as long.
    #[must_use]
    pub fn late(&self, now: Timestamp, patience: Duration, heard: &Heard) -> Vec<Rank> {
        if !self.is_gang() || self.blame.is_some() || self.leaves() {
            return Vec::new();
        }
        let open = self.parts().filter(|(_, part)| self.keeps_waiting(part));
        let late = open.filter(|(rank, part)| self.late_at(*rank, part, patience, heard) <= now);
        late.map(|(rank, _)| rank).collect()
    }

    /// When to ask for late ranks next; none when nobody is waited for.
    #[must_use]
    pub fn next_late(&self, patience: Duration, heard: &Heard) -> Option<Timestamp> {
        if !self.is_gang() || self.blame.is_some() || self.leaves() {
            return None;
        }
        let open = self.parts().filter(|(_, part)| self.keeps_waiting(part));
        open.map(|(rank, part)| self.late_at(rank, part, patience, heard))
            .min()
    }

    /// It has yet to do its part.
    fn keeps_waiting(&self, part: &Part) -> bool {
        let done = part.started_at.is_some() || part.end.is_some();
        let waits = part.waits && self.let_go_at.is_none();
        !done && !waits
    }

    fn late_at(&self, rank: Rank, part: &Part, patience: Duration, heard: &Heard) -> Timestamp {
        let news = [part.heard_at, self.let_go_at, Some(self.placed_at)];
        let news = news.into_iter().flatten();
        let news = news.fold(heard.since, Timestamp::max);
        let word = heard.of(rank).max(self.placed_at);
        let silent = word.plus(patience);
        silent.min(news.plus(patience.saturating_mul(SAME_WORDS)))
    }
}

/// What explains more weighs more.
fn weight(class: Option<FailureClass>) -> u8 {
    match class {
        None => 0,
        Some(FailureClass::User) => 1,
        Some(FailureClass::OutOfMemory) => 2,
        Some(FailureClass::Timeout) => 3,
        Some(FailureClass::Cancelled) => 4,
        Some(FailureClass::Infrastructure) => 5,
        Some(FailureClass::Lost) => 6,
        Some(FailureClass::Preempted) => 7,
    }
}

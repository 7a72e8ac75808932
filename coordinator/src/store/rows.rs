//! What goes into the store and what comes out of it.
//!
//! Owns the changes and the rows that are not the core's own. Never touches the file. Built by the
//! actors and handed to the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainyard_core::{
    decision::Decision,
    ids::{AttemptNo, JobId, NodeName, Rank, TaskKey},
    job::Job,
    label,
    record::{LogLine, Progress},
    resources::Capacity,
    service::{Deadline, Drain},
    time::Timestamp,
};

use super::{Sealing, Trimming};

/// One write. The changes of one commit are stored together or not at all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// The whole job as it is now.
    PutJob(Box<Job>),
    /// New points, each given the next row id.
    AppendPoints {
        /// Of which task.
        task: TaskKey,
        /// In order.
        points: Vec<Progress>,
    },
    /// New lines, each given the next row id.
    AppendLogs {
        /// Of which task.
        task: TaskKey,
        /// In order.
        lines: Vec<LogLine>,
    },
    /// The validation results of an epoch; a second one replaces the first.
    PutValidation {
        /// Of which job.
        job: JobId,
        /// Of which epoch.
        epoch: u32,
        /// JSON as it came.
        body: String,
    },
    /// All records of the task up to `seq` are stored.
    PutCursor {
        /// The task.
        task: TaskKey,
        /// The number.
        seq: u64,
    },
    /// A node as it registered.
    PutNode(NodeRow),
    /// A node that is no longer wanted.
    RemoveNode(NodeName),
    /// A user.
    PutUser(UserRow),
    /// A value of the coordinator's own.
    PutMeta {
        /// Its name; names that start with `store.` belong to the store.
        key: String,
        /// Its value.
        value: String,
    },
    /// A row of a kind of its own, made by [`Change::put`].
    PutDocument {
        /// Of which kind.
        kind: &'static str,
        /// Under which key.
        key: String,
        /// JSON.
        body: String,
    },
    /// Made by [`Change::remove`].
    RemoveDocument {
        /// Of which kind.
        kind: &'static str,
        /// Under which key.
        key: String,
    },
    /// The job that a submission with this key became.
    PutRequestKey {
        /// The key, made unique by the caller.
        key: String,
        /// The job.
        job: JobId,
    },
    /// It is forgotten, unless its job is open or it stands for another one by now.
    DropRequestKey {
        /// The key.
        key: String,
        /// The job that it stood for.
        job: JobId,
        /// Of which kind the row is that stands beside it under the same key.
        document: &'static str,
    },
    /// A block in the place of chunks, made by [`Store::sealing`](super::Store::sealing).
    Seal(Box<Sealing>),
    /// What was decided, in order, each given the next number.
    Note(Vec<Decision>),
    /// What was decided up to this number is forgotten, some of it; see [`Store::trim_events`](super::Store::trim_events).
    ForgetEvents(u64),
    /// Rows of a job that has ended are taken out, a bounded number; see [`Store::trim`](super::Store::trim).
    Trim(Box<Trimming>),
}

impl Change {
    /// The job that those who watch it should look at again.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::PutJob(job) => Some(job.id),
            Self::AppendPoints { task, .. } | Self::AppendLogs { task, .. } => Some(task.job),
            Self::PutValidation { job, .. } => Some(*job),
            Self::Trim(what) => Some(what.job),
            Self::PutCursor { .. }
            | Self::PutNode(_)
            | Self::RemoveNode(_)
            | Self::PutUser(_)
            | Self::PutMeta { .. }
            | Self::PutDocument { .. }
            | Self::RemoveDocument { .. }
            | Self::PutRequestKey { .. }
            | Self::DropRequestKey { .. }
            | Self::Note(_)
            | Self::ForgetEvents(_)
            | Self::Seal(_) => None,
        }
    }
}

/// What a commit tells those who asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The number of the commit, from 1 since the store was opened; several requests share one.
    pub commit: u64,
    /// The id of the first row of each append of the request, in order.
    pub first_rows: Vec<u64>,
}

/// Of which task of its job a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Of which attempt.
    pub attempt: AttemptNo,
    /// Of which rank of it.
    pub rank: Rank,
}

/// A point as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    /// Ascending over all jobs, from 1.
    pub id: u64,
    /// Of which attempt.
    pub attempt: AttemptNo,
    /// Of which rank of it.
    pub rank: Rank,
    /// The report.
    pub progress: Progress,
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Of the point.
    pub id: u64,
    /// Of which attempt.
    pub attempt: AttemptNo,
    /// Of which rank of it.
    pub rank: Rank,
    /// The epoch that the point is of.
    pub epoch: u32,
    /// Within the epoch.
    pub step: Option<u64>,
    /// The value; NaN is kept.
    pub value: f64,
}

impl Sample {
    /// What a point says of a metric, if anything.
    pub(super) fn of((id, whose, point): (u64, Whose, Progress), name: &str) -> Option<Self> {
        let value = *point.values.get(name)?;
        Some(Self {
            id,
            attempt: whose.attempt,
            rank: whose.rank,
            epoch: point.epoch,
            step: point.step,
            value,
        })
    }
}

/// A line of a log as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLine {
    /// Ascending over all jobs, from 1.
    pub id: u64,
    /// Of which attempt.
    pub attempt: AttemptNo,
    /// Of which rank of it.
    pub rank: Rank,
    /// The line.
    pub line: LogLine,
}

/// A node as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: NodeName,
    /// What it offers.
    pub capacity: Capacity,
    /// As its agent says.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As operators have set; they go before those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_labels: BTreeMap<String, String>,
    /// The version of its agent.
    #[serde(default)]
    pub agent_version: String,
    /// Drawn by the agent for its data folder: tells two agents of one name apart.
    #[serde(default)]
    pub agent_id: String,
    /// When it registered for the first time.
    #[serde(default)]
    pub registered_at: Timestamp,
    /// When it was last heard of, as of the last write.
    #[serde(default)]
    pub seen_at: Timestamp,
    /// Takes no new work.
    #[serde(default)]
    pub drained: Option<String>,
    /// Until when those that run there may end by themselves; only of one that takes no new work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
    /// Who has drained or resumed it last, by e-mail address; nobody where launches failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ordered_by: String,
    /// Where other nodes reach it.
    #[serde(default)]
    pub address: String,
    /// Its agent was revoked, and none has joined as it since: it may never come back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

impl NodeRow {
    /// One of which nothing but its name is known, for tests.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: NodeName(name.to_owned()),
            capacity: Capacity::default(),
            labels: BTreeMap::new(),
            set_labels: BTreeMap::new(),
            agent_version: String::new(),
            agent_id: String::new(),
            registered_at: Timestamp(0),
            seen_at: Timestamp(0),
            drained: None,
            deadline: None,
            ordered_by: String::new(),
            address: String::new(),
            revoked: false,
        }
    }

    /// What operators want of it, if they want anything.
    #[must_use]
    pub fn drain(&self) -> Option<Drain> {
        let reason = self.drained.clone()?;
        let deadline = self.deadline;
        Some(Drain { reason, deadline })
    }

    /// What jobs see.
    #[must_use]
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        label::merged(&self.labels, &self.set_labels)
    }
}

/// What users tell of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// One of a list.
    pub company: Option<String>,
    /// Where the list has it not.
    pub company_custom: Option<String>,
    /// One of a list.
    pub division: Option<String>,
    /// Where the list has it not.
    pub division_custom: Option<String>,
    /// Of the company.
    pub department: Option<String>,
    /// As they write it.
    pub phone_number: Option<String>,
    /// About themselves.
    pub bio: Option<String>,
    /// For the front end.
    pub badge_color: Option<String>,
    /// For the front end.
    pub avatar_name: Option<String>,
}

/// A user.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// From 1.
    pub id: u64,
    /// Unique; compared as it is stored.
    pub email: String,
    /// As argon2 writes it.
    pub password_hash: String,
    /// For people.
    #[serde(default)]
    pub full_name: String,
    /// What the user may do.
    #[serde(default)]
    pub role: String,
    /// May log in.
    #[serde(default)]
    pub active: bool,
    /// When it was created.
    #[serde(default)]
    pub created_at: Timestamp,
    /// What the user tells of itself.
    #[serde(default)]
    pub profile: Profile,
    /// Of the front end's own.
    #[serde(default)]
    pub organization_id: Option<i64>,
    /// Registered by itself: nobody has looked at whose address it is.
    #[serde(default)]
    pub registered: bool,
    /// A service account: has no password, API keys speak for it.
    #[serde(default)]
    pub service: bool,
}

impl std::fmt::Debug for UserRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRow")
            .field("id", &self.id)
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

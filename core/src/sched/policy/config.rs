//! What of the policy can be chosen. Every number says its reason where it stands.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

use super::period::Period;

/// Seconds; the policy's clock.
pub type Seconds = i64;

const HOUR: Seconds = 3_600;

/// In which order, and how nodes are kept for those who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// By what is known of jobs like it, with preemption.
    #[default]
    Gittins,
    /// In order of submission; the first that does not fit holds up all behind it.
    Fifo,
    /// In order of submission, with backfill by time limits.
    Easy,
    /// Whatever ends the whole batch soonest.
    Throughput,
}

/// What ranks those who wait, and run, under the default policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankBy {
    /// The Gittins index of jobs like it; what it has attained where nothing is known of such jobs.
    #[default]
    Gittins,
    /// The GPU time that it has attained, in four queues, whatever is known of jobs like it.
    Attained,
    /// Nothing: who was submitted first goes first, and none goes for a better rank.
    Arrival,
}

impl FromStr for RankBy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gittins" => Ok(Self::Gittins),
            "attained" => Ok(Self::Attained),
            "arrival" => Ok(Self::Arrival),
            other => Err(format!(
                "'{other}' is not one of gittins, attained and arrival"
            )),
        }
    }
}

/// For whom nodes are kept under the default policy, so that others start beside it only where they do not delay it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reserve {
    /// For nobody.
    Off,
    /// For the first who has waited for longer than the guard, or for what its project owns while others have borrowed.
    #[default]
    Guard,
    /// For the first gang in the order, too, whatever it has waited.
    Top,
}

impl FromStr for Reserve {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "guard" => Ok(Self::Guard),
            "top" => Ok(Self::Top),
            other => Err(format!("'{other}' is not one of off, guard and top")),
        }
    }
}

/// The rules of one project.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectRule {
    /// Its part of the cluster, in proportion to that of the others.
    pub share: f64,
    /// GPUs that are its own: it may always have as many, and more only while nobody claims theirs. None where any other
    /// project has some.
    pub gpus: Option<u32>,
    /// GPU-hours; beyond them it only borrows.
    pub gpu_hours: Option<f64>,
    /// In which span these are counted.
    pub gpu_hours_per: Period,
    /// Whether it may have more than its own.
    pub borrow: bool,
    /// Jobs that run at once.
    pub running: Option<u32>,
    /// Jobs that wait at once; more are refused when they are submitted.
    pub queued: Option<u32>,
}

impl Default for ProjectRule {
    fn default() -> Self {
        Self {
            share: 1.0,
            gpus: None,
            gpu_hours: None,
            gpu_hours_per: Period::default(),
            borrow: true,
            running: None,
            queued: None,
        }
    }
}

/// The policy's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Order and reservations.
    pub rule: Rule,
    /// What ranks jobs, where the rule is the default one.
    pub rank: RankBy,
    /// For whom nodes are kept, where the rule is the default one.
    pub reserve: Reserve,
    /// Whether running jobs are told to make room for others, where the rule does so.
    pub preempt: bool,
    /// What stopping a job and starting it again costs it.
    pub restart_cost: Seconds,
    /// Preemption is decided this often: a job must not be pushed out and let in by every event.
    pub round: Seconds,
    /// A job is left alone so long after each start, and never less than its restart costs.
    pub settled: Seconds,
    /// After so much waiting a job goes before all others of its priority.
    pub guard: Seconds,
    /// In so much waiting a job's rank halves: so long gangs are not put off by ever new short ones. 0 for never.
    pub patience: Seconds,
    /// Whoever pushes another out must be better by this factor: two alike would else take turns.
    pub margin: f64,
    /// The most of the cluster that pushing out may leave idle, if that is not less than a node: a gang as wide as the cluster
    /// does not go for a small job.
    pub most_idle: f64,
    /// How strongly the rank of a project's jobs suffers when it has more than its share: 0 not at all, 1 in proportion.
    pub fairness: f64,
    /// In so much time half of what a project used is forgotten.
    pub half_life: Seconds,
    /// How often the newest job that waits is guessed at, to learn how good guesses are; 0 for never.
    pub forecast_every: Seconds,
    /// Rules of projects.
    pub projects: BTreeMap<String, ProjectRule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rule: Rule::Gittins,
            rank: RankBy::Gittins,
            reserve: Reserve::Guard,
            preempt: true,
            restart_cost: 60,
            round: 60,
            settled: 300,
            guard: 48 * HOUR,
            patience: 10 * HOUR,
            margin: 1.5,
            most_idle: 1.0 / 24.0,
            fairness: 0.25,
            half_life: 24 * HOUR,
            forecast_every: 60,
            projects: BTreeMap::new(),
        }
    }
}

impl Config {
    /// So long nobody may push out a job that has just started; longer, if it has gone before without having saved anything.
    #[must_use]
    pub fn left_alone(&self) -> Seconds {
        self.settled.max(self.restart_cost).max(1)
    }
}

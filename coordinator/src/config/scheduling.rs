//! Settings of the policy: the section `scheduling`.
//!
//! Owns their names, types and checks, and what they are for the policy. Read by `boot`.

use std::collections::BTreeMap;

use serde::Deserialize;
use trainyard_core::sched::policy::{self, Period, ProjectRule, RankBy, Reserve, Rule};

use super::ConfigError;

/// What may stand below the id of a project, by its types.
pub(super) const PROJECT: &str = "
share = 1
gpus = 1
gpu_hours = 1
gpu_hours_per = 'month'
borrow = true
running = 1
queued = 1
";

pub(super) fn policies(text: &str) -> Option<&'static str> {
    let known = ["default", "fifo", "easy", "throughput"];
    (!known.contains(&text)).then_some("'default', 'fifo', 'easy' or 'throughput'")
}

pub(super) fn reserves(text: &str) -> Option<&'static str> {
    (!["off", "guard", "top"].contains(&text)).then_some("'off', 'guard' or 'top'")
}

pub(super) fn ranks(text: &str) -> Option<&'static str> {
    let known = ["gittins", "attained", "arrival"];
    (!known.contains(&text)).then_some("'gittins', 'attained' or 'arrival'")
}

pub(super) fn periods(text: &str) -> Option<&'static str> {
    (!["day", "week", "month"].contains(&text)).then_some("'day', 'week' or 'month'")
}

/// In which order jobs start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// Whatever ends soonest by what is known of jobs like it, with preemption of those that allow it.
    Default,
    /// In order of submission; the first that does not fit holds up all behind it.
    Fifo,
    /// In order of submission, with backfill by time limits.
    Easy,
    /// Whatever ends the whole batch soonest.
    Throughput,
}

/// Who starts where, and who makes room.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduling {
    /// In which order.
    pub policy: PolicyName,
    /// What ranks jobs under the default policy.
    pub rank: RankBy,
    /// Whether running jobs are told to make room for others.
    pub preempt: bool,
    /// For whom nodes are kept under the default policy.
    pub reserve: Reserve,
    /// What stopping a job and starting it again costs it, in seconds.
    pub restart_cost_seconds: u32,
    /// How often it is looked who should make room, in seconds.
    pub round_seconds: u32,
    /// So long after its start a job is left alone, in seconds.
    pub settled_seconds: u32,
    /// After so much waiting a job goes before all others of its priority, in hours.
    pub guard_hours: u32,
    /// In so much waiting the rank of a job halves, in hours; 0 for never.
    pub patience_hours: u32,
    /// Whoever pushes another out must rank better by so many per cent.
    pub margin_percent: u32,
    /// What pushing out leaves idle is at most one in so many GPUs of the cluster, or less than a node.
    pub idle_one_in: u32,
    /// How strongly jobs of a project suffer that has more than its share: 0 not at all, 100 in proportion.
    pub fair_share_percent: u32,
    /// In so much time half of what a project used is forgotten, in hours.
    pub half_life_hours: u32,
    /// What projects may have, by their ids.
    pub projects: BTreeMap<String, ProjectConfig>,
}

/// What one project may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectConfig {
    /// Its part of the cluster, in proportion to that of the others.
    pub share: u32,
    /// GPUs of its own; beyond them it borrows.
    pub gpus: Option<u32>,
    /// GPU-hours of its own in each span; beyond them it borrows.
    pub gpu_hours: Option<u32>,
    /// The span.
    pub gpu_hours_per: Period,
    /// Whether it may borrow.
    pub borrow: bool,
    /// Jobs that run at once.
    pub running: Option<u32>,
    /// Jobs that wait at once; more are refused.
    pub queued: Option<u32>,
}

impl Default for ProjectConfig {
    fn default() -> Self {
        Self {
            share: 1,
            gpus: None,
            gpu_hours: None,
            gpu_hours_per: Period::default(),
            borrow: true,
            running: None,
            queued: None,
        }
    }
}

impl Scheduling {
    /// The same for the policy.
    #[must_use]
    pub fn policy(&self) -> policy::Config {
        let hours = |hours: u32| policy::Seconds::from(hours) * 3_600;
        let projects = self.projects.iter();
        policy::Config {
            rule: match self.policy {
                PolicyName::Default => Rule::Gittins,
                PolicyName::Fifo => Rule::Fifo,
                PolicyName::Easy => Rule::Easy,
                PolicyName::Throughput => Rule::Throughput,
            },
            rank: self.rank,
            preempt: self.preempt,
            reserve: self.reserve,
            restart_cost: self.restart_cost_seconds.into(),
            round: self.round_seconds.into(),
            settled: self.settled_seconds.into(),
            guard: hours(self.guard_hours),
            patience: hours(self.patience_hours),
            margin: 1.0 + f64::from(self.margin_percent) / 100.0,
            most_idle: 1.0 / f64::from(self.idle_one_in),
            fairness: f64::from(self.fair_share_percent) / 100.0,
            half_life: hours(self.half_life_hours),
            projects: projects
                .map(|(id, project)| (id.clone(), project.rule()))
                .collect(),
            ..policy::Config::default()
        }
    }

    /// Jobs that may wait at once, of projects of which that is limited.
    #[must_use]
    pub fn queued(&self) -> BTreeMap<i64, u32> {
        let projects = self.projects.iter();
        projects
            .filter_map(|(id, project)| Some((id.parse().ok()?, project.queued?)))
            .collect()
    }

    /// GPUs that projects may have at once, of those that may not borrow.
    #[must_use]
    pub fn most_gpus(&self) -> BTreeMap<i64, u32> {
        let projects = self.projects.iter().filter(|(_, project)| !project.borrow);
        projects
            .filter_map(|(id, project)| Some((id.parse().ok()?, project.gpus?)))
            .collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Check(words));
        let least = [
            ("round_seconds", self.round_seconds),
            ("guard_hours", self.guard_hours),
            ("half_life_hours", self.half_life_hours),
            ("idle_one_in", self.idle_one_in),
        ];
        if let Some((key, _)) = least.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("scheduling.{key} must be at least 1"));
        }
        if self.fair_share_percent > 100 {
            return refuse(
                "scheduling.fair_share_percent must be at most 100, which is in proportion"
                    .to_owned(),
            );
        }
        for (id, project) in &self.projects {
            // As the policy looks them up: a zero in front would be another project there.
            let number = id.parse::<i64>().ok().filter(|number| *number > 0);
            if number.is_none_or(|number| number.to_string() != *id) {
                return refuse(format!(
                    "scheduling.projects.{id}: projects stand here by their ids, which are numbers from 1 on; `trainyard projects list` shows them"
                ));
            }
            if project.share == 0 {
                return refuse(format!(
                    "scheduling.projects.{id}.share must be at least 1; limit a project by gpus or running"
                ));
            }
            if !project.borrow && project.gpus.is_none() && project.gpu_hours.is_none() {
                return refuse(format!(
                    "scheduling.projects.{id}: borrow = false needs gpus or gpu_hours, beyond which it would borrow"
                ));
            }
        }
        Ok(())
    }
}

impl ProjectConfig {
    fn rule(self) -> ProjectRule {
        ProjectRule {
            share: self.share.into(),
            gpus: self.gpus,
            gpu_hours: self.gpu_hours.map(f64::from),
            gpu_hours_per: self.gpu_hours_per,
            borrow: self.borrow,
            running: self.running,
            queued: self.queued,
        }
    }
}

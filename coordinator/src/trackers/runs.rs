//! What an attempt of a job looks like to a tracker of runs: name, parameters, tags, end.
//!
//! Pure. Knows no tracker's limits and sends nothing. Used by the feed and by MLflow and ClearML.

use serde_json::{Map, Value, json};
use trainyard_core::{
    failure::{FailureClass, Outcome},
    job::{Attempt, Job},
    record::Checkpoint,
    time::Timestamp,
};

/// What of a specification says nothing about the training, or may hold secrets.
const NOT_PARAMETERS: [&str; 9] = [
    "name",
    "environment",
    "tags",
    "notes",
    "session_id",
    "project_id",
    "custom_docker_image",
    "time_limit",
    "grace_period",
];

/// An attempt on its way to a tracker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// The coordinator's store: numbers of jobs are unique within it only.
    pub(super) instance: &'a str,
    /// The name of the job's project, if it has one.
    pub(super) project: Option<&'a str>,
    /// The job.
    pub(super) job: &'a Job,
    /// The attempt.
    pub(super) attempt: &'a Attempt,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Completed,
    Failed,
    Cancelled,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) verdict: Verdict,
    pub(super) at: Timestamp,
    /// One sentence; empty when it completed.
    pub(super) message: String,
}

impl Run<'_> {
    /// For people.
    pub(super) fn name(&self) -> String {
        let job = self.job;
        let name = match job.spec.name.as_str() {
            "" => format!("job-{}", job.id),
            name => format!("{name} (job {})", job.id),
        };
        match self.attempt.number.0 {
            1 => name,
            attempt => format!("{name} attempt {attempt}"),
        }
    }

    /// By which it is found again, whoever created it.
    pub(super) fn label(&self) -> String {
        let instance: String = self.instance.chars().take(16).collect();
        format!(
            "trainyard:{instance}:{}:{}",
            self.job.id, self.attempt.number.0
        )
    }

    /// The experiment, or the project there.
    pub(super) fn group(&self, base: &str) -> String {
        match self.project {
            Some(project) => format!("{base}/{project}"),
            None => base.to_owned(),
        }
    }

    /// What is known when it is created, by name.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let job = self.job;
        let held = || self.attempt.parts().map(|(_, part)| &part.allocation);
        let nodes: Vec<_> = held().map(|held| held.node.to_string()).collect();
        let gpus: Vec<_> = held().flat_map(|held| held.gpus.clone()).collect();
        let mut facts = vec![
            ("trainyard.label", self.label()),
            ("trainyard.job_id", job.id.to_string()),
            ("trainyard.attempt", self.attempt.number.0.to_string()),
            ("trainyard.user", job.submitted_by.clone()),
            ("trainyard.node", nodes.join(",")),
            ("trainyard.gpus", gpus.join(",")),
            ("trainyard.framework", job.spec.framework.clone()),
            ("trainyard.model", job.spec.model_name.clone()),
            ("trainyard.task_type", job.spec.task_type.clone()),
        ];
        if let Some(project) = self.project {
            facts.push(("trainyard.project", project.to_owned()));
        }
        if let Some(tags) = &job.spec.tags {
            facts.push(("trainyard.tags", tags.join(",")));
        }
        facts.retain(|(_, value)| !value.is_empty());
        facts
    }

    /// Every setting that the training has, flat, in order.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        let spec = &self.job.spec;
        let mut whole = serde_json::to_value(spec).unwrap_or(Value::Null);
        if let Some(fields) = whole.as_object_mut() {
            for name in NOT_PARAMETERS {
                fields.remove(name);
            }
            let seconds = spec.time_limit.map(|limit| limit.as_secs());
            fields.insert("time_limit_seconds".to_owned(), json!(seconds));
        }
        flat(&whole)
    }

    /// The checkpoints that are known of it: best and last.
    pub(super) fn checkpoints(&self) -> (Option<String>, Option<String>) {
        let path = |found: Option<&Checkpoint>| found.map(|checkpoint| checkpoint.path.clone());
        if self.is_newest() {
            let job = self.job;
            return (
                path(job.best_checkpoint.as_ref()),
                path(job.last_checkpoint.as_ref()),
            );
        }
        let word = self.attempt.completion.as_ref();
        (
            path(word.and_then(|word| word.best_checkpoint.as_ref())),
            path(word.and_then(|word| word.last_checkpoint.as_ref())),
        )
    }

    /// Its end; none while it is live.
    pub(super) fn end(&self) -> Option<End> {
        let job = self.job;
        if self.is_newest() && job.state.holds_resources() {
            return None;
        }
        let attempt = self.attempt;
        let kept = job.outcome.clone().filter(|_| self.is_newest());
        let lost = || Outcome {
            class: Some(FailureClass::Lost),
            message: "its end is not known".to_owned(),
            ..Outcome::default()
        };
        // A job that was cancelled while it waited for its next attempt has an outcome of its own.
        let outcome = attempt.outcome().or(kept).unwrap_or_else(lost);
        Some(End {
            verdict: match outcome.class {
                None => Verdict::Completed,
                // Somebody has stopped it, and it did not fail.
                Some(FailureClass::Cancelled | FailureClass::Preempted) => Verdict::Cancelled,
                Some(_) => Verdict::Failed,
            },
            at: attempt.ended_at().unwrap_or(job.state_since),
            message: outcome.message,
        })
    }

    /// Metrics of the trainer's last word, by name.
    pub(super) fn final_metrics(&self) -> Vec<(String, f64)> {
        let word = self.attempt.completion.as_ref();
        let metrics = word.map(|word| word.final_metrics.clone());
        metrics.unwrap_or_default().into_iter().collect()
    }

    /// Metrics of its best epoch by the trainer's last word, by name, and which epoch that was.
    pub(super) fn best_metrics(&self) -> (Option<u32>, Vec<(String, f64)>) {
        let word = self.attempt.completion.as_ref();
        let metrics = word.map(|word| word.best_metrics.clone());
        let epoch = word.and_then(|word| word.best_epoch);
        (epoch, metrics.unwrap_or_default().into_iter().collect())
    }

    /// What is known once the trainer has said its last word, by name.
    pub(super) fn last_facts(&self) -> Vec<(&'static str, String)> {
        let Some(word) = &self.attempt.completion else {
            return Vec::new();
        };
        let epoch = word.best_epoch.map(|epoch| epoch.to_string());
        let facts = [
            ("trainyard.best_epoch", epoch),
            ("trainyard.model_artifacts", word.model_artifacts.clone()),
            ("trainyard.trainer_mlflow_run", word.mlflow_run_id.clone()),
        ];
        let known = |(name, value): (&'static str, Option<String>)| Some((name, value?));
        facts.into_iter().filter_map(known).collect()
    }

    /// When it began, as far as is known.
    pub(super) fn began(&self) -> Timestamp {
        self.attempt.started_at().unwrap_or(self.attempt.placed_at)
    }

    pub(super) fn is_newest(&self) -> bool {
        self.job
            .attempt()
            .is_some_and(|newest| newest.number == self.attempt.number)
    }
}

/// Milliseconds since the epoch.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000)
}

/// Leaves by their path with dots; lists as JSON; what is null or empty is left out.
pub(super) fn flat(value: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(fields) = value.as_object() {
        walk(fields, "", &mut found);
    }
    found
}

/// As deep as JSON of a request may be: the parser refuses more than 128 levels.
fn walk(fields: &Map<String, Value>, path: &str, found: &mut Vec<(String, String)>) {
    for (name, value) in fields {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        match value {
            Value::Null => {}
            Value::Object(inner) => walk(inner, &path, found),
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => found.push((path, text.clone())),
            Value::Array(items) if items.is_empty() => {}
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                found.push((path, value.to_string()));
            }
        }
    }
}

/// At most `most` characters, with a mark where something is missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let head: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{head}…")
}

#[cfg(test)]
pub(super) mod tests {
    use trainyard_core::{
        failure::{StopCause, TaskEnd},
        ids::{AttemptNo, JobId, NodeName},
        job::Event,
        record::{Completion, Progress},
        sched::Allocation,
        spec::JobSpec,
    };

    use super::*;
    use crate::store::StoredPoint;

    const T: Timestamp = Timestamp(1_000_000);

    /// A job that runs its first attempt.
    pub(in crate::trackers) fn running(spec: JobSpec) -> Job {
        let accepted = Job::accepted(JobId(7), spec, "ada@example.com".into(), T);
        let mut job = accepted.step(T, Event::Prepared).unwrap().job;
        job = job.step(T, placed(&job)).unwrap().job;
        let task = job.task(AttemptNo(1), trainyard_core::ids::Rank(0));
        job.step(T, Event::Started(task, T)).unwrap().job
    }

    fn placed(job: &Job) -> Event {
        let allocation = Allocation {
            node: NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: vec!["GPU-0".into()],
            address: String::new(),
        };
        Event::Placed {
            queued_at: job.state_since,
            allocations: vec![allocation],
            secret: "hush".into(),
        }
    }

    /// A report of epoch 3 with these metrics, as it is stored.
    pub(in crate::trackers) fn report(values: &[(&str, f64)]) -> StoredPoint {
        let values = values.iter();
        StoredPoint {
            id: 1,
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
            progress: Progress {
                at: Timestamp(1_795_396_822_543_843),
                epoch: 3,
                total_epochs: 5,
                step: None,
                values: values
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect(),
                has_metrics: true,
                checkpoint: None,
                best_checkpoint: None,
            },
        }
    }

    pub(in crate::trackers) fn ended(job: &Job, end: TaskEnd) -> Job {
        let number = job.attempt().unwrap().number;
        let task = job.task(number, trainyard_core::ids::Rank(0));
        job.step(T, Event::Ended(task, end)).unwrap().job
    }

    pub(in crate::trackers) fn run(job: &Job, index: usize) -> Run<'_> {
        Run {
            instance: "0123456789abcdef0123",
            project: None,
            job,
            attempt: &job.attempts[index],
        }
    }

    fn spec() -> JobSpec {
        let config = json!({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}, "mosaic": true,
            "empty": {}, "none": null});
        JobSpec {
            framework: "command".into(),
            command: vec!["sh".into(), "-c".into()],
            advanced_config: Some(config),
            environment: std::collections::BTreeMap::from([(
                "API_KEY".to_owned(),
                "hunter2".to_owned(),
            )])
            .into(),
            time_limit: Some(std::time::Duration::from_secs(60)),
            ..JobSpec::default()
        }
    }

    #[test]
    fn every_setting_is_a_parameter_flat_and_no_variable_is() {
        let job = running(spec());
        let found = run(&job, 0).parameters();
        let value = |name: &str| {
            let found = found.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("advanced_config.optimizer.name"), Some("sgd"));
        assert_eq!(value("advanced_config.optimizer.betas"), Some("[0.9,0.99]"));
        assert_eq!(value("advanced_config.mosaic"), Some("true"));
        assert_eq!(value("epochs"), Some("50"));
        assert_eq!(value("learning_rate"), Some("0.001"));
        assert_eq!(value("time_limit_seconds"), Some("60"));
        assert_eq!(value("command"), Some(r#"["sh","-c"]"#));
        assert!(value("resources.cpus").is_some(), "{found:?}");
        let all = format!("{found:?}");
        assert!(!all.contains("hunter2") && !all.contains("none"), "{all}");
    }

    #[test]
    fn an_end_is_told_by_what_happened_also_of_an_attempt_that_was_superseded() {
        let live = running(spec());
        assert_eq!(run(&live, 0).end(), None);
        let failed = ended(
            &live,
            TaskEnd {
                exit_code: Some(3),
                ..TaskEnd::default()
            },
        );
        let end = run(&failed, 0).end().unwrap();
        assert_eq!(
            (end.verdict, end.message.as_str()),
            (Verdict::Failed, "exit code 3")
        );
        let queued = failed.step(T, Event::RestartRequested).unwrap().job;
        assert_eq!(run(&queued, 0).end().unwrap().verdict, Verdict::Failed);
        let again = queued.step(T, placed(&queued)).unwrap().job;
        assert_eq!(run(&again, 0).end().unwrap().verdict, Verdict::Failed);
        assert_eq!(run(&again, 1).end(), None);
        let stopped = TaskEnd {
            stop_cause: Some(StopCause::Cancelled),
            ..TaskEnd::default()
        };
        let cancelled = ended(&again, stopped);
        let end = run(&cancelled, 1).end().unwrap();
        assert_eq!(end.verdict, Verdict::Cancelled);
        assert_ne!(run(&cancelled, 0).label(), run(&cancelled, 1).label());
    }

    #[test]
    fn a_job_cancelled_while_it_waits_for_its_next_attempt_keeps_the_end_of_the_first() {
        let done = TaskEnd {
            exit_code: Some(0),
            ..TaskEnd::default()
        };
        let completed = ended(&running(spec()), done);
        let queued = completed.step(T, Event::RestartRequested).unwrap().job;
        let cancelled = queued.step(T, Event::CancelRequested).unwrap().job;
        let end = run(&cancelled, 0).end().unwrap();
        assert_eq!(end.verdict, Verdict::Completed);
    }

    #[test]
    fn checkpoints_of_a_superseded_attempt_are_those_of_its_last_word() {
        let mut job = running(spec());
        let checkpoint = |path: &str| {
            Some(Checkpoint {
                path: path.into(),
                size_bytes: None,
            })
        };
        job.best_checkpoint = checkpoint("/new/best.pt");
        assert_eq!(
            run(&job, 0).checkpoints().0.as_deref(),
            Some("/new/best.pt")
        );
        let mut older = job.attempts[0].clone();
        older.completion = Some(Completion {
            best_checkpoint: checkpoint("/old/best.pt"),
            ..Completion::default()
        });
        job.attempts[0].number.0 = 2;
        job.attempts.insert(0, older);
        assert_eq!(
            run(&job, 0).checkpoints().0.as_deref(),
            Some("/old/best.pt")
        );
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}

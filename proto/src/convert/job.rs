//! Jobs: what was asked for comes in, what became of it goes out.

use serde_json::Value;
use trainyard_core::{
    failure::{FailureClass, Outcome},
    job::{Attempt, Job, JobState},
    record::Checkpoint,
    resources::ResourceRequest,
    retry::{OnLost, OnMemory, RetryPolicy},
    spec::{JobSpec, Launcher},
};

use super::{WireError, duration, given, placing, span, timestamp};
use crate::v1;

impl TryFrom<v1::JobSpec> for JobSpec {
    type Error = WireError;

    /// The first of what [`read`] finds is the error.
    fn try_from(wire: v1::JobSpec) -> Result<Self, WireError> {
        let (spec, wrong) = read(wire);
        wrong.into_iter().next().map_or(Ok(spec), Err)
    }
}

/// The specification as far as it can be read, and every part that cannot: of those it has the defaults.
///
/// Zero epochs, batch size and learning rate stand for "not given" on the wire only where the framework is
/// `command`; a training job that says 0 is refused by the core's checks.
#[must_use]
pub fn read(mut wire: v1::JobSpec) -> (JobSpec, Vec<WireError>) {
    let mut wrong = Vec::new();
    let advanced_config = json("spec.advanced_config_json", &wire.advanced_config_json);
    let advanced_config = or_default(advanced_config, &mut wrong);
    let split_strategy = json("spec.split_strategy_json", &wire.split_strategy_json);
    let split_strategy = or_default(split_strategy, &mut wrong);
    let spans = [
        ("spec.time_limit", &wire.time_limit),
        ("spec.grace_period", &wire.grace_period),
    ];
    let [time_limit, grace_period] = spans.map(|(field, given)| {
        let read = given.as_ref().map(|given| span(field, given)).transpose();
        or_default(read, &mut wrong)
    });
    let retry = or_default(retry(wire.retry.unwrap_or_default()), &mut wrong);
    let scheduled = placing::scheduled(&mut wire);
    let defaults = JobSpec::default();
    let mut spec = JobSpec {
        name: wire.name,
        framework: wire.framework,
        model_name: wire.model_name,
        task_type: wire.task_type,
        num_classes: wire.num_classes,
        dataset_id: given(wire.dataset_id),
        dataset_path: given(wire.dataset_path),
        dataset_format: given(wire.dataset_format).unwrap_or(defaults.dataset_format),
        epochs: wire.epochs,
        batch_size: wire.batch_size,
        learning_rate: wire.learning_rate,
        image_size: wire.image_size,
        device: wire.device,
        advanced_config,
        split_strategy,
        primary_metric: given(wire.primary_metric),
        primary_metric_mode: given(wire.primary_metric_mode),
        command: wire.command,
        environment: wire.environment.into(),
        resources: wire.resources.unwrap_or_default().into(),
        priority: wire.priority,
        time_limit,
        grace_period: grace_period.unwrap_or(defaults.grace_period),
        tags: (!wire.tags.is_empty()).then_some(wire.tags),
        notes: given(wire.notes),
        session_id: wire.session_id,
        project_id: wire.project_id,
        custom_docker_image: given(wire.custom_docker_image),
        custom_prompts: (!wire.custom_prompts.is_empty()).then_some(wire.custom_prompts),
        prompt_mode: given(wire.prompt_mode),
        resume_from: given(wire.resume_from),
        resume: wire.resume,
        retry,
        ..scheduled
    };
    settle_command(&mut spec);
    (spec, wrong)
}

/// A command has no use for settings of training, and need not give them.
fn settle_command(spec: &mut JobSpec) {
    if spec.framework == "command" && spec.epochs == 0 && spec.batch_size == 0 {
        (spec.epochs, spec.batch_size) = (1, 1);
        spec.learning_rate = JobSpec::default().learning_rate;
    }
}

/// What was read; what is wrong with it is kept.
fn or_default<T: Default>(read: Result<T, WireError>, wrong: &mut Vec<WireError>) -> T {
    read.unwrap_or_else(|error| {
        wrong.push(error);
        T::default()
    })
}

fn retry(wire: v1::RetryPolicy) -> Result<RetryPolicy, WireError> {
    let defaults = RetryPolicy::default();
    Ok(RetryPolicy {
        limit: wire.limit.unwrap_or(defaults.limit),
        backoff: wire.backoff.as_ref().map_or(Ok(defaults.backoff), |wait| {
            span("spec.retry.backoff", wait)
        })?,
        on_lost: match wire.on_lost() {
            v1::OnLost::Unspecified | v1::OnLost::Retry => OnLost::Retry,
            v1::OnLost::Wait => OnLost::Wait,
        },
        out_of_memory: match wire.out_of_memory() {
            v1::OnMemory::Unspecified | v1::OnMemory::Fail => OnMemory::Fail,
            v1::OnMemory::HalveBatch => OnMemory::HalveBatch,
        },
    })
}

impl From<RetryPolicy> for v1::RetryPolicy {
    fn from(core: RetryPolicy) -> Self {
        let on_lost = match core.on_lost {
            OnLost::Retry => v1::OnLost::Retry,
            OnLost::Wait => v1::OnLost::Wait,
        };
        let out_of_memory = match core.out_of_memory {
            OnMemory::Fail => v1::OnMemory::Fail,
            OnMemory::HalveBatch => v1::OnMemory::HalveBatch,
        };
        Self {
            limit: Some(core.limit),
            backoff: Some(duration(core.backoff)),
            on_lost: on_lost.into(),
            out_of_memory: out_of_memory.into(),
        }
    }
}

impl From<JobSpec> for v1::JobSpec {
    fn from(core: JobSpec) -> Self {
        let text = |value: Option<Value>| value.map(|value| value.to_string()).unwrap_or_default();
        Self {
            name: core.name,
            framework: core.framework,
            model_name: core.model_name,
            task_type: core.task_type,
            num_classes: core.num_classes,
            dataset_id: core.dataset_id.unwrap_or_default(),
            dataset_path: core.dataset_path.unwrap_or_default(),
            dataset_format: core.dataset_format,
            epochs: core.epochs,
            batch_size: core.batch_size,
            learning_rate: core.learning_rate,
            image_size: core.image_size,
            device: core.device,
            advanced_config_json: text(core.advanced_config),
            split_strategy_json: text(core.split_strategy),
            primary_metric: core.primary_metric.unwrap_or_default(),
            primary_metric_mode: core.primary_metric_mode.unwrap_or_default(),
            command: core.command,
            environment: core.environment.into(),
            resources: Some(core.resources.into()),
            priority: core.priority,
            nodes: core.nodes,
            launcher: match core.launcher {
                Launcher::Plain => v1::Launcher::Plain,
                Launcher::Torchrun => v1::Launcher::Torchrun,
            }
            .into(),
            procs_per_node: core.procs_per_node.unwrap_or_default(),
            preemptible: core.preemptible,
            time_limit: core.time_limit.map(duration),
            grace_period: Some(duration(core.grace_period)),
            tags: core.tags.unwrap_or_default(),
            notes: core.notes.unwrap_or_default(),
            session_id: core.session_id,
            project_id: core.project_id,
            custom_docker_image: core.custom_docker_image.unwrap_or_default(),
            custom_prompts: core.custom_prompts.unwrap_or_default(),
            prompt_mode: core.prompt_mode.unwrap_or_default(),
            resume_from: core.resume_from.unwrap_or_default(),
            resume: core.resume,
            retry: Some(core.retry.into()),
            placement: Some(core.placement.into()),
            not_before: core.not_before.map(timestamp),
            after: placing::numbers(core.after),
            after_any: placing::numbers(core.after_any),
            indices: core.indices.unwrap_or_default(),
            array: core.array.map(Into::into),
        }
    }
}

fn json(field: &'static str, text: &str) -> Result<Option<Value>, WireError> {
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(WireError::Json {
            field,
            message: error.to_string(),
        }),
    }
}

impl From<v1::ResourceRequest> for ResourceRequest {
    fn from(wire: v1::ResourceRequest) -> Self {
        Self {
            cpus: wire.cpus.max(1),
            memory_bytes: wire.memory_bytes,
            gpus: wire.gpus,
            gpu_model: wire.gpu_model,
            gpu_memory_bytes: wire.gpu_memory_bytes,
            gpu_memory_max_bytes: wire.gpu_memory_max_bytes,
        }
    }
}

impl From<ResourceRequest> for v1::ResourceRequest {
    fn from(core: ResourceRequest) -> Self {
        Self {
            cpus: core.cpus,
            memory_bytes: core.memory_bytes,
            gpus: core.gpus,
            gpu_model: core.gpu_model,
            gpu_memory_bytes: core.gpu_memory_bytes,
            gpu_memory_max_bytes: core.gpu_memory_max_bytes,
        }
    }
}

impl From<JobState> for v1::JobState {
    fn from(core: JobState) -> Self {
        match core {
            JobState::Pending => Self::Pending,
            JobState::Queued => Self::Queued,
            JobState::Starting => Self::Starting,
            JobState::Running => Self::Running,
            JobState::Finishing => Self::Finishing,
            JobState::Completed => Self::Completed,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<FailureClass> for v1::FailureClass {
    fn from(core: FailureClass) -> Self {
        match core {
            FailureClass::User => Self::User,
            FailureClass::OutOfMemory => Self::OutOfMemory,
            FailureClass::Infrastructure => Self::Infrastructure,
            FailureClass::Lost => Self::Lost,
            FailureClass::Preempted => Self::Preempted,
            FailureClass::Cancelled => Self::Cancelled,
            FailureClass::Timeout => Self::Timeout,
        }
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(core: Outcome) -> Self {
        let class = core.class.map(v1::FailureClass::from).unwrap_or_default();
        Self {
            exit_code: core.exit_code,
            signal: core.signal,
            failure_class: class.into(),
            message: core.message,
            last_lines: core.last_lines,
        }
    }
}

impl From<Attempt> for v1::Attempt {
    fn from(core: Attempt) -> Self {
        let outcome = core.outcome();
        Self {
            outcome: outcome.map(Into::into),
            first_epoch: core.first_epoch,
            number: core.number.0,
            placed_at: Some(timestamp(core.placed_at)),
            started_at: core.started_at().map(timestamp),
            ended_at: core.ended_at().map(timestamp),
            tasks: tasks(&core),
            node: core.lead.allocation.node.0,
            gpu_uuids: core.lead.allocation.gpus,
        }
    }
}

/// Only of a gang: of a single task the attempt says it all.
fn tasks(attempt: &Attempt) -> Vec<v1::AttemptTask> {
    let parts = attempt.parts().filter(|_| attempt.is_gang());
    let task = parts.map(|(rank, part)| v1::AttemptTask {
        rank: rank.0,
        node: part.allocation.node.0.clone(),
        gpu_uuids: part.allocation.gpus.clone(),
        started_at: part.started_at.map(timestamp),
        ended_at: part.ended_at.map(timestamp),
        outcome: attempt.outcome_of(rank).map(Into::into),
    });
    task.collect()
}

impl From<Checkpoint> for v1::Checkpoint {
    fn from(core: Checkpoint) -> Self {
        Self {
            path: core.path,
            size_bytes: core.size_bytes,
        }
    }
}

impl From<v1::Checkpoint> for Checkpoint {
    fn from(wire: v1::Checkpoint) -> Self {
        Self {
            path: wire.path,
            size_bytes: wire.size_bytes,
        }
    }
}

impl From<Job> for v1::Job {
    /// The attempt's secret stays behind.
    fn from(core: Job) -> Self {
        let (primary, _) = core.spec.primary();
        let newest = core.attempts.last();
        let word = newest.and_then(|newest| newest.completion.clone());
        let word = word.unwrap_or_default();
        let progress = core.progress.map(|report| v1::Progress {
            epoch: report.epoch,
            total_epochs: report.total_epochs,
            loss: report.values.get("loss").copied(),
            primary_metric: report.values.get(&primary).copied(),
            reported_at: Some(timestamp(report.at)),
        });
        Self {
            job_id: core.id.0,
            spec: Some(core.spec.into()),
            state: v1::JobState::from(core.state).into(),
            reason: core.reason,
            attempts: core.attempts.into_iter().map(Into::into).collect(),
            progress,
            outcome: core.outcome.map(Into::into),
            best_checkpoint: core.best_checkpoint.map(Into::into),
            last_checkpoint: core.last_checkpoint.map(Into::into),
            final_metrics: core.final_metrics,
            submitted_by: core.submitted_by,
            created_at: Some(timestamp(core.created_at)),
            started_at: core.started_at.map(timestamp),
            ended_at: core.ended_at.map(timestamp),
            snapshot_id: core.snapshot_id.unwrap_or_default(),
            mlflow_run_id: core.mlflow_run_id.unwrap_or_default(),
            clearml_task_id: core.clearml_task_id.unwrap_or_default(),
            best_metrics: word.best_metrics,
            best_epoch: word.best_epoch,
            model_artifacts_path: word.model_artifacts.unwrap_or_default(),
        }
    }
}

//! Jobs, nodes, points and lines as JSON with stable snake_case keys and RFC 3339 times. Pure; never
//! prints. Called by the commands with `--json`.

use serde_json::{Map, Value, json};
use trainyard_core::spec::Placing;
use trainyard_proto::v1;

use crate::text;

/// A whole job.
pub(crate) fn job(job: &v1::Job) -> Value {
    json!({
        "job_id": job.job_id,
        "name": job.spec.as_ref().map(|spec| spec.name.clone()),
        "state": text::state(job.state()),
        "reason": given(&job.reason),
        "submitted_by": given(&job.submitted_by),
        "snapshot_id": given(&job.snapshot_id),
        "created_at": time(job.created_at.as_ref()),
        "started_at": time(job.started_at.as_ref()),
        "ended_at": time(job.ended_at.as_ref()),
        "progress": job.progress.as_ref().map(progress),
        "outcome": job.outcome.as_ref().map(outcome),
        "attempts": job.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "best_checkpoint": job.best_checkpoint.as_ref().map(checkpoint),
        "last_checkpoint": job.last_checkpoint.as_ref().map(checkpoint),
        "final_metrics": job.final_metrics,
        "array": job.spec.as_ref().and_then(|spec| spec.array).map(array),
        "spec": job.spec.as_ref().map(spec),
    })
}

fn progress(progress: &v1::Progress) -> Value {
    json!({
        "epoch": progress.epoch,
        "total_epochs": progress.total_epochs,
        "loss": progress.loss,
        "primary_metric": progress.primary_metric,
        "reported_at": time(progress.reported_at.as_ref()),
    })
}

fn outcome(outcome: &v1::Outcome) -> Value {
    json!({
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "failure_class": text::class(outcome.failure_class()),
        "message": given(&outcome.message),
        "last_lines": outcome.last_lines,
    })
}

fn attempt(attempt: &v1::Attempt) -> Value {
    json!({
        "number": attempt.number,
        "node": attempt.node,
        "gpu_uuids": attempt.gpu_uuids,
        "placed_at": time(attempt.placed_at.as_ref()),
        "started_at": time(attempt.started_at.as_ref()),
        "ended_at": time(attempt.ended_at.as_ref()),
        "tasks": attempt.tasks.iter().map(task).collect::<Vec<_>>(),
    })
}

/// One rank of a gang.
fn task(task: &v1::AttemptTask) -> Value {
    json!({
        "rank": task.rank,
        "node": task.node,
        "gpu_uuids": task.gpu_uuids,
        "started_at": time(task.started_at.as_ref()),
        "ended_at": time(task.ended_at.as_ref()),
        "outcome": task.outcome.as_ref().map(outcome),
    })
}

fn checkpoint(checkpoint: &v1::Checkpoint) -> Value {
    json!({"path": checkpoint.path, "size_bytes": checkpoint.size_bytes})
}

/// The specification under the keys of a job file, without what was not asked for; so it can be
/// submitted again as it stands.
fn spec(spec: &v1::JobSpec) -> Value {
    let resources = spec.resources.clone().unwrap_or_default();
    let all = json!({
        "name": given(&spec.name),
        "framework": given(&spec.framework),
        "model_name": given(&spec.model_name),
        "task_type": given(&spec.task_type),
        "num_classes": spec.num_classes,
        "dataset_id": given(&spec.dataset_id),
        "dataset_path": given(&spec.dataset_path),
        "dataset_format": given(&spec.dataset_format),
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate,
        "image_size": spec.image_size,
        "device": given(&spec.device),
        "advanced_config": parsed(&spec.advanced_config_json),
        "split_strategy": parsed(&spec.split_strategy_json),
        "primary_metric": given(&spec.primary_metric),
        "primary_metric_mode": given(&spec.primary_metric_mode),
        "command": (!spec.command.is_empty()).then_some(&spec.command),
        "environment": (!spec.environment.is_empty()).then_some(&spec.environment),
        "resources": {
            "cpus": resources.cpus,
            "memory_bytes": resources.memory_bytes,
            "gpus": resources.gpus,
            "gpu_model": resources.gpu_model,
            "gpu_memory_bytes": resources.gpu_memory_bytes,
            "gpu_memory_max_bytes": resources.gpu_memory_max_bytes,
        },
        "placement": spec.placement.as_ref().and_then(placement),
        "nodes": spec.nodes.max(1),
        "launcher": launcher(spec.launcher()),
        "procs_per_node": (spec.procs_per_node > 0).then_some(spec.procs_per_node),
        "priority": spec.priority,
        "preemptible": spec.preemptible,
        "time_limit": spec.time_limit.as_ref().map(seconds),
        "grace_period": spec.grace_period.as_ref().map(seconds),
        "not_before": time(spec.not_before.as_ref()),
        "after": (!spec.after.is_empty()).then_some(&spec.after),
        "after_any": (!spec.after_any.is_empty()).then_some(&spec.after_any),
        "indices": given(&spec.indices),
        "retry": spec.retry.as_ref().map(retry),
        "tags": (!spec.tags.is_empty()).then_some(&spec.tags),
        "notes": given(&spec.notes),
        "session_id": spec.session_id,
        "project_id": spec.project_id,
        "custom_docker_image": given(&spec.custom_docker_image),
    });
    let fields = all.as_object().into_iter().flatten();
    fields
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// Nothing where nothing in particular was asked for.
fn placement(asked: &v1::Placement) -> Option<Value> {
    let plain = Placing::from(asked.clone()).is_plain();
    (!plain).then(|| {
        json!({
            "labels": asked.labels,
            "anti_labels": asked.anti_labels,
            "arrange": arrange(asked.arrange()),
            "fabric": given(&asked.fabric),
            "exclusive": asked.exclusive,
            "gpus_total": (asked.gpus_total > 0).then_some(asked.gpus_total),
        })
    })
}

/// As files and flags name it.
pub(crate) fn arrange(arrange: v1::Arrange) -> &'static str {
    match arrange {
        v1::Arrange::Unspecified | v1::Arrange::Pack => "pack",
        v1::Arrange::Spread => "spread",
    }
}

/// The place of a job in its array.
fn array(place: v1::ArrayPlace) -> Value {
    json!({
        "id": place.id,
        "index": place.index,
        "size": place.size,
        "at_most": (place.at_most > 0).then_some(place.at_most),
    })
}

/// One point of a job's metrics.
pub(crate) fn point(point: &v1::MetricPoint) -> Value {
    json!({
        "point_id": point.point_id,
        "attempt": point.attempt,
        "rank": point.rank,
        "epoch": point.epoch,
        "step": point.step,
        "values": point.values,
        "checkpoint_path": given(&point.checkpoint_path),
        "reported_at": time(point.reported_at.as_ref()),
    })
}

/// One line of a job's log.
pub(crate) fn log_line(line: &v1::LogLine) -> Value {
    json!({
        "line_id": line.line_id,
        "attempt": line.attempt,
        "rank": line.rank,
        "stream": text::stream(line.stream()),
        "level": given(&line.level),
        "text": line.text,
        "written_at": time(line.written_at.as_ref()),
    })
}

fn blocked(gpu: &v1::BlockedGpu) -> Value {
    json!({"uuid": gpu.uuid, "reason": gpu.reason})
}

/// A node.
pub(crate) fn node(node: &v1::Node) -> Value {
    json!({
        "name": node.name,
        "state": text::node_state(node.state()),
        "revoked": node.revoked,
        "draining": node.draining,
        "duty": text::node_duty(node.duty()),
        "drain_reason": given(&node.drain_reason),
        "drained_by": given(&node.drained_by),
        "drain_deadline": time(node.drain_deadline.as_ref()),
        "at_deadline": text::at_deadline(node.at_deadline()),
        "maintenance": node.maintenance.as_ref().map(closure),
        "condition": given(&node.condition),
        "capacity": node.capacity.as_ref().map(capacity),
        "free": node.free.as_ref().map(capacity),
        "blocked_gpus": node.blocked_gpus.iter().map(blocked).collect::<Vec<_>>(),
        "job_ids": node.job_ids,
        "stray_tasks": node.stray_tasks,
        "labels": node.labels,
        "set_labels": node.set_labels,
        "agent_version": given(&node.agent_version),
        "last_seen_at": time(node.last_seen_at.as_ref()),
    })
}

/// What is told of a window beside a node.
fn closure(window: &v1::NodeMaintenance) -> Value {
    json!({
        "id": window.id,
        "from": time(window.from.as_ref()),
        "until": time(window.until.as_ref()),
        "why": given(&window.why),
        "closed_until": time(window.closed_until.as_ref()),
        "others": window.others,
    })
}

/// A maintenance window.
pub(crate) fn window(window: &v1::MaintenanceWindow) -> Value {
    json!({
        "id": window.id,
        "all_nodes": window.all_nodes,
        "nodes": window.nodes,
        "labels": window.labels,
        "from": time(window.from.as_ref()),
        "until": time(window.until.as_ref()),
        "why": given(&window.why),
        "made_by": given(&window.made_by),
        "made_at": time(window.made_at.as_ref()),
    })
}

/// A dataset.
pub(crate) fn dataset(dataset: &v1::Dataset) -> Value {
    json!({
        "dataset_id": dataset.dataset_id,
        "storage_path": dataset.storage_path,
        "format": dataset.format,
        "task_type": given(&dataset.task_type),
        "description": given(&dataset.description),
        "owner": given(&dataset.owner),
        "created_at": time(dataset.created_at.as_ref()),
    })
}

/// A snapshot.
pub(crate) fn snapshot(snapshot: &v1::Snapshot) -> Value {
    let split = serde_json::from_str::<Value>(&snapshot.split_json);
    json!({
        "snapshot_id": snapshot.snapshot_id,
        "dataset_id": snapshot.dataset_id,
        "storage_path": snapshot.storage_path,
        "format": snapshot.format,
        "split": split.unwrap_or_default(),
        "version_hash": snapshot.version_hash,
        "assignment_hash": snapshot.assignment_hash,
        "file_count": snapshot.file_count,
        "total_bytes": snapshot.total_bytes,
        "created_by": given(&snapshot.created_by),
        "created_at": time(snapshot.created_at.as_ref()),
    })
}

fn capacity(capacity: &v1::Capacity) -> Value {
    let gpus: Vec<_> = capacity
        .gpus
        .iter()
        .map(|gpu| json!({"uuid": gpu.uuid, "model": gpu.model, "memory_bytes": gpu.memory_bytes}))
        .collect();
    json!({"cpus": capacity.cpus, "memory_bytes": capacity.memory_bytes, "gpus": gpus})
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.map(text::rfc3339)
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn parsed(text: &str) -> Option<Value> {
    given(text).map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.into()))
}

/// As files and flags name it.
pub(crate) fn launcher(launcher: v1::Launcher) -> &'static str {
    match launcher {
        v1::Launcher::Unspecified | v1::Launcher::Plain => "plain",
        v1::Launcher::Torchrun => "torchrun",
    }
}

fn retry(policy: &v1::RetryPolicy) -> Value {
    let lost = match policy.on_lost() {
        v1::OnLost::Unspecified | v1::OnLost::Retry => "retry",
        v1::OnLost::Wait => "wait",
    };
    let memory = match policy.out_of_memory() {
        v1::OnMemory::Unspecified | v1::OnMemory::Fail => "fail",
        v1::OnMemory::HalveBatch => "halve_batch",
    };
    json!({
        "limit": policy.limit,
        "backoff": policy.backoff.as_ref().map(seconds),
        "on_lost": lost,
        "out_of_memory": memory,
    })
}

/// Whole seconds as a whole number.
fn seconds(span: &prost_types::Duration) -> Value {
    if span.nanos == 0 {
        span.seconds.into()
    } else {
        let (whole, part) = (span.seconds, f64::from(span.nanos) / 1e9);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a span of more than 2^52 seconds needs no fraction"
        )]
        let sum = whole as f64 + part;
        sum.into()
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::spec::JobSpec;

    use super::*;
    use crate::jobfile::Draft;

    #[test]
    fn a_job_has_stable_keys_and_rfc3339_times() {
        let document = job(&v1::Job {
            job_id: 7,
            state: v1::JobState::Running.into(),
            created_at: Some(prost_types::Timestamp::default()),
            progress: Some(v1::Progress {
                epoch: 2,
                total_epochs: 5,
                loss: Some(0.5),
                ..v1::Progress::default()
            }),
            ..v1::Job::default()
        });
        assert_eq!(document["state"], "running");
        assert_eq!(document["created_at"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(document["progress"]["loss"], 0.5);
        assert_eq!(document["outcome"], Value::Null);
    }

    #[test]
    fn a_specification_can_be_submitted_again_as_it_stands() {
        let asked = JobSpec {
            name: "again".into(),
            framework: "ultralytics".into(),
            model_name: "yolo11n".into(),
            dataset_path: Some("/data".into()),
            advanced_config: Some(json!({"lr0": 0.1, "optimizer": {"type": "SGD"}})),
            time_limit: Some(std::time::Duration::from_millis(1_500)),
            tags: Some(vec!["a".into()]),
            placement: Placing {
                labels: ["zone=a".to_owned()].into(),
                gpus_total: Some(3),
                ..Placing::default()
            },
            preemptible: true,
            not_before: Some(trainyard_core::time::Timestamp(1_500_000)),
            after: vec![trainyard_core::ids::JobId(7)],
            ..JobSpec::default()
        };
        let shown = spec(&asked.clone().into());
        let read = Draft::parse_json(&shown.to_string()).and_then(Draft::finish);
        assert_eq!(read.unwrap(), asked);
    }
}

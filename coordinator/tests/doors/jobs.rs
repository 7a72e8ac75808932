//! What tests of jobs say over gRPC: submitting, looking, cancelling. Owns no test.

use trainyard_core::spec::JobSpec;
use trainyard_proto::v1;

use crate::{
    agent::{Agent, hello},
    world::World,
};

/// A job that runs a program.
pub(crate) fn program(change: impl FnOnce(&mut JobSpec)) -> JobSpec {
    let mut spec = JobSpec {
        framework: "command".into(),
        command: vec!["train".into()],
        ..JobSpec::default()
    };
    change(&mut spec);
    spec
}

/// The job as it is accepted, or why it is not.
pub(crate) async fn try_submit(
    world: &World,
    spec: JobSpec,
    key: &str,
) -> Result<v1::Job, tonic::Status> {
    let request = v1::SubmitJobRequest {
        spec: Some(spec.into()),
        idempotency_key: key.to_owned(),
    };
    let answer = world.jobs().await.submit_job(request).await?;
    Ok(answer.into_inner().job.expect("a job"))
}

/// The number of a job that is accepted.
pub(crate) async fn submit(world: &World, spec: JobSpec) -> u64 {
    let submitted = try_submit(world, spec, "").await;
    submitted.expect("it is accepted").job_id
}

/// The job as it is now.
pub(crate) async fn job(world: &World, job_id: u64) -> v1::Job {
    let request = v1::GetJobRequest { job_id };
    let answer = world.jobs().await.get_job(request).await;
    let answer = answer.expect("it is there").into_inner();
    answer.job.expect("a job")
}

/// All of them, the newest first.
pub(crate) async fn all_jobs(world: &World) -> Vec<v1::Job> {
    let request = v1::ListJobsRequest::default();
    let answer = world.jobs().await.list_jobs(request).await;
    answer.expect("a list").into_inner().jobs
}

pub(crate) async fn cancel(world: &World, job_id: u64, whole_array: bool) -> v1::CancelJobResponse {
    let request = v1::CancelJobRequest {
        job_id,
        whole_array,
    };
    let answer = world.jobs().await.cancel_job(request).await;
    answer.expect("it is told").into_inner()
}

/// An agent that other nodes reach at this address.
pub(crate) async fn reachable(world: &World, name: &str, address: &str) -> Agent {
    let hello = v1::Hello {
        address: address.to_owned(),
        ..hello(world, name, 1)
    };
    Agent::connect(world, hello).await
}

/// A label as agents say it.
pub(crate) fn label(text: &str) -> std::collections::BTreeMap<String, String> {
    let (key, value) = text.split_once('=').expect("key=value");
    [(key.to_owned(), value.to_owned())].into()
}

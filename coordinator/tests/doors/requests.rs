//! What a job may ask for beyond resources: arrays, jobs that it waits for, and what of that is refused.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_core::{ids::JobId, spec::JobSpec};
use trainyard_proto::v1;

use crate::world::{World, command};

fn program(change: impl FnOnce(&mut JobSpec)) -> JobSpec {
    let mut spec = JobSpec {
        framework: "command".into(),
        command: vec!["train".into()],
        ..JobSpec::default()
    };
    change(&mut spec);
    spec
}

async fn submit(world: &World, spec: JobSpec, key: &str) -> Result<v1::Job, tonic::Status> {
    let request = v1::SubmitJobRequest {
        spec: Some(spec.into()),
        idempotency_key: key.to_owned(),
    };
    let answer = world.jobs().await.submit_job(request).await?;
    Ok(answer.into_inner().job.unwrap())
}

async fn cancel(world: &World, job_id: u64, whole_array: bool) -> v1::CancelJobResponse {
    let request = v1::CancelJobRequest {
        job_id,
        whole_array,
    };
    let answer = world.jobs().await.cancel_job(request).await;
    answer.unwrap().into_inner()
}

async fn all_jobs(world: &World) -> Vec<v1::Job> {
    let request = v1::ListJobsRequest::default();
    let answer = world.jobs().await.list_jobs(request).await;
    answer.unwrap().into_inner().jobs
}

#[tokio::test]
async fn an_array_is_one_submission_with_a_job_for_each_index_and_is_cancelled_as_a_whole() {
    let world = World::start().await;
    let asked = || program(|spec| spec.indices = Some("5,10-11%2".into()));
    let first = submit(&world, asked(), "k").await.unwrap();
    let place = |job: &v1::Job| job.spec.as_ref().unwrap().array.unwrap();
    let id = first.job_id;
    assert_eq!((place(&first).id, place(&first).size), (id, 3));
    // The key stands for all of them.
    let again = submit(&world, asked(), "k").await.unwrap();
    assert_eq!(again.job_id, id);
    let mut jobs = all_jobs(&world).await;
    jobs.reverse();
    let told: Vec<_> = jobs
        .iter()
        .map(|job| (job.job_id, place(job).index))
        .collect();
    assert_eq!(told, [(id, 5), (id + 1, 10), (id + 2, 11)]);
    assert!(jobs.iter().all(|job| place(job).at_most == 2));
    cancel(&world, id + 1, false).await;
    let answer = cancel(&world, id, true).await;
    assert_eq!(answer.told, 2, "one had ended already");
    let jobs = all_jobs(&world).await;
    let over = |job: &v1::Job| job.state() == v1::JobState::Cancelled;
    assert!(jobs.iter().all(over), "{jobs:?}");
    let alone = submit(&world, program(|_| ()), "").await.unwrap();
    let request = v1::CancelJobRequest {
        job_id: alone.job_id,
        whole_array: true,
    };
    let refused = world.jobs().await.cancel_job(request).await.unwrap_err();
    assert!(refused.message().contains("is of no array"), "{refused:?}");
}

#[tokio::test]
async fn an_array_that_would_be_more_jobs_than_may_be_is_refused_whole() {
    let world = World::with(|config| config.limits.open_jobs = 5).await;
    submit(&world, program(|_| ()), "").await.unwrap();
    let many = |text: &str| {
        let text = text.to_owned();
        program(|spec| spec.indices = Some(text))
    };
    let refused = submit(&world, many("0-4"), "").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        refused.message().contains("give fewer indices"),
        "{refused:?}"
    );
    assert_eq!(all_jobs(&world).await.len(), 1);
    submit(&world, many("0-3"), "").await.unwrap();
    assert_eq!(all_jobs(&world).await.len(), 5);
}

#[tokio::test]
async fn who_waits_for_a_job_must_see_it_and_it_must_be_able_to_succeed() {
    let world = World::start().await;
    let theirs = world.somebody("bob", "standard_engineer").await.1;
    let (status, hidden) = world
        .call(&theirs, (Method::POST, "/training/jobs"), command())
        .await;
    assert_eq!(status, 200, "{hidden}");
    let own = submit(&world, program(|_| ()), "").await.unwrap().job_id;
    cancel(&world, own, false).await;
    let after = |jobs: Value| {
        let mut body = command();
        body["config"]["after"] = jobs;
        body
    };
    for (token, job, words) in [
        (&world.token, own, "which was cancelled: run it again first"),
        (&world.token, 999, "which is not there or not yours to see"),
        (&theirs, own, "which is not there or not yours to see"),
    ] {
        let body = after(json!([job]));
        let (status, answer) = world
            .call(token, (Method::POST, "/training/jobs"), body)
            .await;
        assert_eq!(status, 422, "{answer}");
        let found = &answer["detail"][0];
        assert_eq!(found["loc"], json!(["body", "config", "after"]));
        assert!(found["msg"].as_str().unwrap().contains(words), "{answer}");
    }
    let met = program(|spec| spec.after_any = vec![JobId(own)]);
    submit(&world, met, "").await.unwrap();
}

#[tokio::test]
async fn what_is_asked_of_nodes_over_rest_reaches_the_specification() {
    let world = World::start().await;
    let mut body = command();
    let config = body["config"].as_object_mut().unwrap();
    let asked = json!({
        "nodes": 2, "launcher": "torchrun", "procs_per_node": 4, "preemptible": true,
        "not_before": "2027-01-31T18:00:00+01:00",
        "placement": {
            "labels": ["zone=a"], "anti_labels": ["zone=b"], "arrange": "spread",
            "fabric": "rack", "exclusive": true,
        },
        "resources": {"gpus": 1, "gpu_memory": "40GB", "gpu_memory_max": "80GiB"},
    });
    config.extend(asked.as_object().unwrap().clone());
    let (status, job) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 200, "{job}");
    let request = v1::GetJobRequest {
        job_id: job["id"].as_u64().unwrap(),
    };
    let job = world.jobs().await.get_job(request).await.unwrap();
    let spec = JobSpec::try_from(job.into_inner().job.unwrap().spec.unwrap()).unwrap();
    assert_eq!((spec.nodes, spec.procs_per_node), (2, Some(4)));
    assert!(spec.preemptible && spec.placement.exclusive);
    assert_eq!(spec.placement.fabric.as_deref(), Some("rack"));
    assert_eq!(spec.resources.gpu_memory_max_bytes, 80 << 30);
    let then = spec.not_before.unwrap().to_naive_iso();
    assert_eq!(then, "2027-01-31T17:00:00.000000");
    let bad = json!({
        "not_before": "tomorrow", "after": [1.5], "array": "9-0",
        "placement": {"labels": ["zone"], "arrange": "heap", "gpus_total": 0},
    });
    let mut body = command();
    body["config"]
        .as_object_mut()
        .unwrap()
        .extend(bad.as_object().unwrap().clone());
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 422, "{answer}");
    let found = answer["detail"].as_array().unwrap().iter();
    let mut found: Vec<String> = found
        .map(|entry| {
            let place = entry["loc"].as_array().unwrap().iter();
            let place: Vec<_> = place.filter_map(Value::as_str).collect();
            place.join(".")
        })
        .collect();
    found.sort();
    let wanted = [
        "after",
        "array",
        "not_before",
        "placement.arrange",
        "placement.gpus_total",
        "placement.labels",
    ];
    assert_eq!(found, wanted.map(|place| format!("body.config.{place}")));
}
